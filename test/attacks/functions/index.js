// The function that attacks: /family/attack?facts={…} answers what came of it.
'use strict'
require('./ballast.js') // for the compile cache
const victim = require('./victim.js')

const families = {
  descriptors: require('./descriptors.js'),
  files: require('./files.js'),
  floods: require('./floods.js'),
  kernel: require('./kernel.js'),
  leftovers: require('./leftovers.js'),
  neighbours: require('./neighbours.js'),
  network: require('./network.js'),
}

module.exports = async (req, res) => {
  const [, family, name] = req.path.split('/')
  if (victim[family]) return victim[family](req, res)
  if (!family) return res.send('here')
  const attack = `${family}/${name}`
  const run = families[family]?.[name]
  if (!run) return res.status(404).json({ attack, broken: 'no such attack' })
  try {
    const how = await run(JSON.parse(req.query.facts ?? '{}'))
    res.json({ attack, refused: false, how: String(how) })
  } catch (error) {
    if (typeof error.code !== 'string') return res.json({ attack, broken: error.stack })
    res.json({ attack, refused: true, code: error.code, how: error.message })
  }
}

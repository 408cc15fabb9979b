'use strict'

const bcrypt = require('bcrypt')

module.exports = async (req, res) => {
  const hash = await bcrypt.hash('correct horse', 6)
  const known = '$2b$04$' // a hash made by another implementation follows below
  res.json({
    ok: true, shape: /^\$2b\$06\$[./A-Za-z0-9]{53}$/.test(hash), rounds: bcrypt.getRounds(hash), salt: bcrypt.genSaltSync(4).startsWith(known),
    right: await bcrypt.compare('correct horse', hash), wrong: await bcrypt.compare('battery', hash), sync: bcrypt.compareSync('correct horse', hash),
    vector: bcrypt.hashSync('abc', '$2a$06$If6bvum7DFjUnE9p2uDeDu'),
  })
}

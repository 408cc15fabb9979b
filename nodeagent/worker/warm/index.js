'use strict'

// A function that does what most functions do; the worker runs it on itself
// before it is given any other.
module.exports = async (req, res) => {
  const name = req.query.name || 'world'
  if (req.path === '/text') return res.send(`Hello ${name}`)
  if (req.path === '/json') return res.status(200).json({ hello: name, body: req.body, at: req.get('host'), ip: req.ip })
  if (req.path === '/cookie') return res.cookie('a', '1').type('txt').send(req.cookies.a)
  if (req.path === '/redirect') return res.redirect('/text')
  if (req.path === '/end') {
    res.writeHead(200, { 'Content-Type': 'text/plain' })
    return res.end('Hello')
  }
  res.sendStatus(404)
}

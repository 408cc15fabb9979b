'use strict'

const { createServer } = require('node:http')
const { json } = require('node:stream/consumers')
const OpenAI = require('openai')
const { listen } = require('./loopback.js')

module.exports = async (req, res) => {
  const server = createServer(async (req, res) => {
    const { stream, messages } = await json(req)
    if (req.headers.authorization !== 'Bearer key') return res.writeHead(401, { 'Content-Type': 'application/json' }).end('{"error":{"message":"wrong key"}}')
    const words = messages[0].content.toUpperCase()
    if (!stream) {
      res.setHeader('Content-Type', 'application/json')
      return res.end(JSON.stringify({ id: '1', object: 'chat.completion', choices: [{ index: 0, message: { role: 'assistant', content: words } }] }))
    }
    res.setHeader('Content-Type', 'text/event-stream')
    for (const content of words.split(' ')) res.write(`data: ${JSON.stringify({ id: '1', choices: [{ index: 0, delta: { content } }] })}\n\n`)
    res.end('data: [DONE]\n\n')
  })
  const baseURL = `http://127.0.0.1:${await listen(server)}/v1`
  const client = new OpenAI({ apiKey: 'key', baseURL, maxRetries: 0 })
  const question = { model: 'm', messages: [{ role: 'user', content: 'one two' }] }
  const whole = await client.chat.completions.create(question)
  const parts = []
  for await (const part of await client.chat.completions.create({ ...question, stream: true })) parts.push(part.choices[0].delta.content)
  const wrong = await new OpenAI({ apiKey: 'no', baseURL, maxRetries: 0 }).chat.completions.create(question).catch((error) => [error.constructor.name, error.status])
  server.close()
  server.closeAllConnections()
  res.json({ ok: true, whole: whole.choices[0].message.content, parts, wrong })
}

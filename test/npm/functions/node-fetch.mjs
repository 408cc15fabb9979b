import { createServer } from 'node:http'
import fetch, { FormData, Headers, AbortError } from 'node-fetch'
import loopback from './loopback.js'

const server = createServer((req, res) => {
  if (req.url === '/redirect') return res.writeHead(302, { Location: '/end' }).end()
  if (req.url === '/never') return
  res.setHeader('X-Method', req.method)
  res.end(JSON.stringify({ url: req.url, accept: req.headers.accept }))
})

// Two parameters: the Express contract, though it is a default export.
export default async function (req, res) {
  const origin = `http://127.0.0.1:${await loopback.listen(server)}`
  const redirected = await fetch(`${origin}/redirect`, { headers: new Headers({ Accept: 'application/json' }) })
  const form = new FormData()
  form.set('a', 'b')
  const posted = await fetch(`${origin}/form`, { method: 'POST', body: form })
  const aborted = await fetch(`${origin}/never`, { signal: AbortSignal.timeout(50) }).catch((error) => error instanceof AbortError)
  const data = await fetch('data:text/plain;base64,aGVsbG8=')
  const answer = {
    ok: true, redirected: redirected.redirected, body: await redirected.json(), method: posted.headers.get('x-method'), aborted,
    data: await data.text(),
  }
  server.close()
  server.closeAllConnections()
  res.json(answer)
}

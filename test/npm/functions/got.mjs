import { createServer } from 'node:http'
import got from 'got'
import loopback from './loopback.js'

let calls = 0
const server = createServer((req, res) => {
  calls++
  if (req.url === '/flaky' && calls < 3) return res.writeHead(503, { 'Retry-After': '0' }).end()
  res.end(JSON.stringify({ url: req.url, calls }))
})

export default async function (req, res) {
  const origin = `http://127.0.0.1:${await loopback.listen(server)}`
  const flaky = await got(`${origin}/flaky`, { retry: { limit: 3, backoffLimit: 1 } }).json()
  const pages = await got.paginate.all(`${origin}/page/1`, {
    pagination: {
      transform: (response) => [JSON.parse(response.body).url],
      paginate: ({ response }) => response.requestUrl.href.endsWith('/3') ? false : { url: new URL(`/page/${Number(response.requestUrl.pathname.split('/')[2]) + 1}`, origin) },
    },
  })
  server.close()
  server.closeAllConnections()
  res.json({ ok: true, flaky, pages })
}

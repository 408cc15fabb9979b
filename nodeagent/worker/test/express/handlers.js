'use strict'

// Functions of contract 1, one per subject. The worker runs them, and so does a
// real Express application; what they answer must be the same bytes.

const { createHash } = require('node:crypto')
const { createReadStream } = require('node:fs')
const path = require('node:path')
const { Readable } = require('node:stream')

const ROOT = path.join(__dirname, 'files')
const later = () => new Promise((resolve) => setImmediate(resolve))
const failure = (status, extra) => Object.assign(new Error(`failed with ${status}`), { status, ...extra })

/** Answers by ?n=, the number of one of the variants. */
const by = (...variants) => (req, res) => variants[req.query.n](req, res)

/** Ways to make an object that stands for another one. */
const WAYS = [(object) => Object.create(object), (object) => new Proxy(object, {}), (object) => Object.create(new Proxy(Object.create(object), {}))]

/** Functions whose req.body is parsed. */
const handlers = {
  query: (req, res) => res.json(req.query),
  url: (req, res) => res.json([req.url, req.originalUrl, req.baseUrl, req.path, req.params, req.method]),
  standsIn: by(...WAYS.map((way) => (req, res) => {
    const other = way(req)
    const seen = [other.ip, other.ips, other.protocol, other.secure, other.host, other.hostname, other.subdomains, other.query, other.path, other.url,
      other.get('host'), other.is('json'), other.body, other.params, other.cookies, other.signedCookies, other.app === req.app, typeof other.next]
    other.params.set = other.cookies.set = 'by the one'
    seen.push(req.params, req.cookies)
    for (const name of ['body', 'params', 'cookies', 'signedCookies', 'next']) other[name] = name
    for (const one of [other, req]) seen.push([one.body, one.params, one.cookies, one.signedCookies, typeof one.next])
    res.json(seen)
  })),
  standsInNext: by(...WAYS.map((way) => (req) => way(req).next()), ...WAYS.map((way) => (req) => way(req).next(failure(418)))),
  standsInLocals: by(...WAYS.map((way) => (req, res) => {
    const other = way(res)
    other.locals.a = other.app === req.app
    res.json([other.locals, res.locals])
  })),
  forwarded: (req, res) => res.json([req.ip, req.ips, req.protocol, req.secure, req.host, req.hostname, req.subdomains, req.xhr]),
  headers: (req, res) => res.json([req.get('X-One'), req.header('x-two'), req.get('Referrer'), req.get('none') === undefined, req.headers['x-two'], req.headersDistinct['x-two']]),
  accepts: (req, res) => res.json([req.accepts('html'), req.accepts(['json', 'text']), req.accepts('image/png', 'text/*'), req.accepts(),
    req.acceptsEncodings('gzip', 'br'), req.acceptsCharsets('utf-8'), req.acceptsLanguages('de', 'en')]),
  is: (req, res) => res.json([req.is('json'), req.is('html'), req.is('text/*'), req.is('application/*', '*/json'), req.is('+json')]),
  range: (req, res) => res.json([req.range(1000), req.range(1000, { combine: true }), req.range(3)]),
  fresh: (req, res) => {
    res.set('ETag', '"a"').set('Last-Modified', 'Sat, 01 Jan 2022 00:00:00 GMT')
    res.set('X-Fresh', `${req.fresh} ${req.stale}`).send('body')
  },
  app: (req, res) => res.json([req.app.get('env'), req.app.get('trust proxy'), req.app.get('etag'), req.app.enabled('x-powered-by'), req.app.get('jsonp callback name'),
    res.app === req.app, req.res === res, res.req === req, res.locals, typeof req.next, req.route === undefined]),
  cookies: (req, res) => res.json(req.cookies),
  body: (req, res) => res.json({ is: Buffer.isBuffer(req.body) ? 'Buffer' : typeof req.body, body: req.body, again: req.body === req.body }),
  status: (req, res) => res.status(Number(req.query.n)).send('body'),
  wrongStatus: by((req, res) => res.status('200').end(), (req, res) => res.status(1000).end(), (req, res) => res.sendStatus(99)),
  sendStatus: (req, res) => res.sendStatus(Number(req.query.n)),
  send: by(
    (req, res) => res.send('<p>text ü</p>'), (req, res) => res.send(Buffer.from([0, 255])), (req, res) => res.send({ a: [1, null], u: undefined }),
    (req, res) => res.send([1]), (req, res) => res.send(true), (req, res) => res.send(7), (req, res) => res.send(null), (req, res) => res.send(undefined),
    (req, res) => res.send(), (req, res) => res.send(''), (req, res) => res.type('xml').send('<a/>'), (req, res) => res.type('html').send(Buffer.from('b')),
    (req, res) => res.send('x'.repeat(2000)), (req, res) => res.set('ETag', '"own"').send('x'), (req, res) => res.set('Content-Type', 'text/plain; charset=latin1').send('ü'),
    (req, res) => res.send(new Uint8Array([65, 66])), (req, res) => res.set('Content-Length', '1').send('a'), (req, res) => res.send(new String('boxed')),
    (req, res) => res.set('Transfer-Encoding', 'chunked').status(204).send('x'), (req, res) => res.status(205).send('x'), (req, res) => res.status(304).send('x'),
    (req, res) => res.send(new Blob(['blob'], { type: 'text/css' })), (req, res) => res.type('text/css').send(new Blob(['blob']))),
  json: by(
    (req, res) => res.json({ a: '<>&', d: new Date(0) }), (req, res) => res.json(null), (req, res) => res.json('text'), (req, res) => res.json([]),
    (req, res) => res.json(undefined), (req, res) => res.type('application/vnd.api+json').json({}), (req, res) => res.json({ toJSON: () => 1 }),
    (req, res) => { const a = {}; a.a = a; res.json(a) }, (req, res) => res.json(1n), (req, res) => res.status(201).json({ ü: '\u2028' })),
  jsonp: (req, res) => res.jsonp({ a: '\u2028<' }),
  redirect: by(
    (req, res) => res.redirect('/a b?ü=1#f'), (req, res) => res.redirect(301, 'https://example.com/ü'), (req, res) => res.redirect('back'), (req, res) => res.redirect('../up'),
    (req, res) => res.redirect('/%zz'), (req, res) => res.redirect('//other/<b>'), (req, res) => res.redirect(undefined), (req, res) => res.redirect('javascript:alert(1)')),
  location: by((req, res) => res.location('/x y').end(), (req, res) => res.location('https://ü.test/é?%20').end(), (req, res) => res.location('/a\r\nX: y').end()),
  cookie: by(
    (req, res) => res.cookie('a', 'b c;ü').end(), (req, res) => res.cookie('a', { j: 1 }, { path: '/x', httpOnly: true, secure: true, sameSite: 'lax' }).cookie('b', '2').end(),
    (req, res) => res.cookie('a', 'b', { maxAge: 0, expires: new Date(0), domain: 'example.test' }).end(), (req, res) => res.clearCookie('a').clearCookie('b', { path: '/x', maxAge: 9 }).end(),
    (req, res) => { req.secret = 'a secret'; res.cookie('s', 'signed', { signed: true }).end() }, (req, res) => res.cookie('s', 'signed', { signed: true }).end(),
    (req, res) => res.cookie('a', '1', { priority: 'high', partitioned: true, secure: true }).end(), (req, res) => res.cookie('bad name', '1').end(),
    (req, res) => res.cookie('a', 'x', { encode: (v) => v + v }).end(), (req, res) => res.cookie('a', 'x', { sameSite: 'never' }).end()),
  type: by(
    (req, res) => res.type('json').end('{}'), (req, res) => res.type('.html').end(), (req, res) => res.type('png').end(), (req, res) => res.type('a/b').end(), (req, res) => res.type('unknown-thing').end(),
    (req, res) => res.contentType('txt').send('t'), (req, res) => res.set('Content-Type', 'text/html').end(), (req, res) => res.set({ 'X-A': 'a', 'X-B': ['1', '2'], 'X-N': 3 }).send(res.get('x-a')),
    (req, res) => res.header('Content-Type', ['text/html']).end()),
  format: (req, res) => res.format({ text: () => res.send('text'), html: () => res.send('<p>'), json: () => res.json({}), ...req.query.d && { default: () => res.send('default') } }),
  vary: by((req, res) => res.vary('Accept').vary(['Origin', 'accept']).end(), (req, res) => res.vary('*').vary('A').end(), (req, res) => { res.vary(); res.end() }),
  append: by((req, res) => res.append('Set-Cookie', 'a=1').append('Set-Cookie', ['b=2', 'c=3']).append('X', 'y').append('X', 'z').end(),
    (req, res) => res.links({ next: '/2', last: '/9' }).links({ prev: '/0' }).end(), (req, res) => res.links({ pages: ['/1', '/2'] }).end(),
    (req, res) => res.appendHeader('Warning', ['1', '2']).end()),
  sendFile: (req, res, next) => {
    const { n, ...options } = req.query
    for (const key of ['cacheControl', 'etag', 'lastModified', 'acceptRanges', 'immutable']) if (key in options) options[key] = options[key] === 'true'
    res.sendFile(n, { root: ROOT, ...options, headers: { 'X-Sent': '1' } }, req.get('X-Callback') ? (error) => (error ? res.status(error.status).send(`${error.status} ${error.code}`) : undefined) : undefined)
  },
  absolute: by((req, res) => res.sendFile(path.join(ROOT, 'a.txt')), (req, res) => res.sendFile('a.txt'), (req, res) => res.sendFile(), (req, res) => res.sendFile(7), (req, res) => res.sendFile(path.join(ROOT, 'folder'))),
  download: by((req, res) => res.download(path.join(ROOT, 'a.txt')), (req, res) => res.download('a.txt', 'näme "x".txt', { root: ROOT }), (req, res) => res.download('none.txt', { root: ROOT }),
    (req, res) => res.download('page.html', 'p.html', { root: ROOT, dotfiles: 'allow', headers: { 'X-D': 'd' } }), (req, res) => res.attachment().send('x'),
    (req, res) => res.attachment('räport.pdf').end(), (req, res) => res.attachment('a/b/c.json').json({})),
  etag: by((req, res) => res.send('tagged'), (req, res) => res.status(404).send('tagged'), (req, res) => res.json({ tagged: true }), (req, res) => res.set('ETag', 'W/"own"').send('own'),
    (req, res) => { req.app.set('etag', 'strong'); try { res.send('strong') } finally { req.app.set('etag', 'weak') } },
    (req, res) => { req.app.disable('etag'); try { res.send('none') } finally { req.app.set('etag', 'weak') } },
    (req, res) => { req.app.set('json spaces', 2); try { res.json({ a: 1 }) } finally { req.app.set('json spaces', undefined) } }),
  raw: by((req, res) => res.writeHead(201, 'Made', { 'X-A': '1', 'Content-Type': 'text/plain' }).end('raw'), (req, res) => { res.write('a'); res.end('b') },
    (req, res) => { res.statusCode = 299; res.statusMessage = 'Own'; res.setHeader('X-Multi', ['1', '2']); res.end() },
    (req, res) => { res.setHeader('Trailer', 'X-T'); res.write('x'); res.addTrailers({ 'X-T': 't' }); res.end() },
    (req, res) => { res.writeEarlyHints({ link: '</a.css>; rel=preload' }); res.end('hinted') }, (req, res) => { res.writeContinue(); res.writeProcessing(); res.end('continued') },
    (req, res) => { res.sendDate = false; res.removeHeader('Connection'); res.end('x') }, (req, res) => { res.setHeader('Content-Length', 5); res.end('hello') },
    (req, res) => Readable.from(['a', 'b', 'c']).pipe(res), (req, res) => createReadStream(path.join(ROOT, 'a.txt')).pipe(res.type('txt')), (req, res) => { res.strictContentLength = false; res.flushHeaders(); res.end() },
    (req, res) => { res.writeHead(304); res.end('never') }, (req, res) => { res.writeHead(204); res.end() }, (req, res) => { res.shouldKeepAlive = false; res.end('last') },
    (req, res) => { res.setHeader('Connection', 'close'); res.send('x') }, (req, res) => res.writeHead(200, ['A', '1', 'A', '2']).end()),
  throw: by(
    () => { throw new Error('secret') }, async () => { await later(); throw new Error('secret') }, () => { throw failure(404) }, async () => { throw failure(409, { expose: false }) },
    (req, res) => { res.set('X-Set', '1').status(201); throw failure(503) }, (req, res, next) => next(failure(402)), async () => { throw failure(700) }, () => Promise.reject(failure(422)),
    () => { throw Object.assign(new Error('by statusCode'), { statusCode: 410 }) }, (req, res) => { res.send('sent'); throw failure(400) }, async (req, res) => { res.write('part'); await later(); throw new Error('midway') },
    (req, res) => { res.set('No\nWay', '1') }, (req, res) => { res.send('twice'); res.send('twice') }, (req, res) => decodeURIComponent('%zz')),
  next: (req, res, next) => next(),
  async: async (req, res) => { await later(); return res.status(202).json(await later() ?? 'later') },
  echo: (req, res) => res.send(`${req.method} ${req.httpVersion} ${req.path} ${typeof req.body === 'string' ? req.body : ''}`),
}

/** Functions that read the request as a stream, which no parser may touch. */
const streams = {
  pipe: (req, res) => req.pipe(res),
  iterate: async (req, res) => {
    const hash = createHash('sha1')
    for await (const chunk of req) hash.update(chunk)
    res.json([hash.digest('hex'), req.complete, req.trailers, req.rawTrailers])
  },
  events: (req, res) => {
    let n = 0
    req.on('data', (chunk) => (n += chunk.length)).on('end', () => res.json(n))
  },
  encoded: (req, res) => {
    let text = ''
    req.setEncoding('utf8').on('data', (part) => (text += part)).on('end', () => res.json(text))
  },
  ignore: (req, res) => res.send('ignored'),
}

module.exports = { handlers, streams, ROOT }

'use strict'

// The requests that a worker and a real Express application get alike:
// [function, request, …]. A request is a function of the headers that choose
// the function and name the lease.

const zlib = require('node:zlib')

/** A request as bytes. Without close the connection stays. */
function request(method, target, { body, close = true, version = '1.1', ...headers } = {}) {
  const lines = Object.entries({ Host: 'example.test', ...headers }).flatMap(([name, value]) => (value === undefined ? [] : [value].flat().map((one) => `${name}: ${one}\r\n`)))
  if (body !== undefined && !('Transfer-Encoding' in headers) && !('Content-Length' in headers)) lines.push(`Content-Length: ${Buffer.byteLength(body)}\r\n`)
  if (close) lines.push('Connection: close\r\n')
  return (extra) => Buffer.concat([Buffer.from(`${method} ${target} HTTP/${version}\r\n${extra}${lines.join('')}\r\n`, 'latin1'), Buffer.from(body ?? '')])
}
const get = (target, headers) => request('GET', target, headers)
const head = (target, headers) => request('HEAD', target, headers)
const post = (target, type, body, headers) => request('POST', target, { 'Content-Type': type, ...headers, body })
/** The variants 0 to n - 1 of a function that chooses by ?n=. */
const all = (n, headers) => Array.from({ length: n }, (_, i) => get(`/?n=${i}`, headers))
const sequence = (...requests) => (extra) => Buffer.concat(requests.map((one) => one(extra)))
const raw = (text) => (extra) => Buffer.from(text.replace('<extra>', extra), 'latin1')

const JSON_TYPE = 'application/json'
const FORM = 'application/x-www-form-urlencoded'
const big = (n) => 'x'.repeat(n)
const LIMIT = 1 << 20
const accept = (value) => get('/', { Accept: value })
const encoded = (encoding, body, type = JSON_TYPE) => post('/', type, body, { 'Content-Encoding': encoding })
const file = (n, options = '', headers) => get(`/?n=${encodeURIComponent(n)}${options}`, headers)

module.exports = [
  ['query', ...['', '?', '?a=1', '?a=1&a=2', '?a[b]=1&a[c]=2', '?a[]=1&a[]=2', '?a=%zz&b=%C3%BC', '?__proto__=1&constructor=2', '?a=1;b=2', '?=x&y', '?a+b=c%20d', '?a=1?b', `?${'k=v&'.repeat(1100)}`].map((query) => get(`/${query}`))],
  ['url', get('/a/b%20c?x=1'), get('//host/a'), get('/%zz'), get('http://other.test/abs?x'), request('OPTIONS', '*'), request('PATCH', '/p'), request('PROPFIND', '/p'), get('/a;b=c/../d/./e'), get('/a#frag')],
  ['standsIn', ...all(3, { Cookie: 'a=1' }), ...[0, 1, 2].map((n) => post(`/?n=${n}&a=b`, JSON_TYPE, '{"a":1}', { 'X-Forwarded-For': '192.0.2.9, 198.51.100.4', 'X-Forwarded-Proto': 'https', Cookie: 'a=1' }))],
  ['standsInNext', ...all(6)],
  ['standsInLocals', ...all(3)],
  ['forwarded', get('/'), get('/', { 'X-Forwarded-For': '192.0.2.9, 198.51.100.4', 'X-Forwarded-Proto': 'https, http', 'X-Forwarded-Host': 'a.b.example.com:8443, x' }), get('/', { 'X-Requested-With': 'XMLHttpRequest', Host: 'tobi.ferrets.example.com' }),
    get('/', { Host: '[2001:db8::1]:80' }), get('/', { 'X-Forwarded-For': 'nonsense' }), get('/', { Host: '127.0.0.1' }), get('/', { Host: '' }), get('/', { 'X-Forwarded-Proto': '' })],
  ['headers', get('/', { 'X-One': '1', 'x-two': ['2', '3'], Referer: 'from' }), get('/', { 'X-One': '' })],
  ['accepts', ...[undefined, '*/*', 'text/html', 'application/json;q=0.5, text/plain', 'text/*, image/*;q=0.1', 'nonsense', ''].map(accept), get('/', { 'Accept-Encoding': 'br;q=1, gzip;q=0.5', 'Accept-Language': 'en-GB, de;q=0.3', 'Accept-Charset': 'utf-8' }), get('/', { 'Accept-Encoding': 'identity' })],
  ['is', post('/', JSON_TYPE, '{}'), post('/', 'application/vnd.api+json', '{}'), post('/', 'text/html; charset=utf-8', 'x'), post('/', '', 'x'), get('/', { 'Content-Type': JSON_TYPE })],
  ['range', ...['bytes=0-4', 'bytes=0-4,5-9,20-', 'bytes=-5', 'bytes=900-2000', 'bytes=5-1', 'lines=1-2', 'nonsense'].map((range) => get('/', { Range: range })), get('/')],
  ['fresh', get('/', { 'If-None-Match': '"a"' }), get('/', { 'If-None-Match': 'W/"a"' }), get('/', { 'If-None-Match': '*' }), get('/', { 'If-None-Match': '"b"' }), get('/', { 'If-Modified-Since': 'Sat, 01 Jan 2022 00:00:00 GMT' }), get('/', { 'If-Modified-Since': 'Fri, 31 Dec 2021 00:00:00 GMT' }),
    get('/', { 'If-None-Match': '"a"', 'Cache-Control': 'no-cache' }), post('/', 'text/plain', 'x', { 'If-None-Match': '"a"' }), head('/', { 'If-None-Match': '"a"' })],
  ['app', get('/')],
  ['cookies', get('/'), get('/', { Cookie: 'a=1; b="quoted"; c=%C3%BC; d=%zz; a=2; empty=; novalue; j=j:{"x":1}' }), get('/', { Cookie: '__proto__=1; toString=2' }), get('/', { Cookie: ['a=1', 'b=2'] })],
  ['body', post('/', JSON_TYPE, '{"a":[1,null],"__proto__":{"x":1}}'), post('/', JSON_TYPE, '[1]'), post('/', JSON_TYPE, ''), post('/', JSON_TYPE, '  '), post('/', JSON_TYPE, '"text"'), post('/', JSON_TYPE, '{"a":'), post('/', JSON_TYPE, '{}x'), post('/', JSON_TYPE, '\ufeff{}'),
    post('/', `${JSON_TYPE}; charset=utf-16`, Buffer.from('{"ü":1}', 'utf16le')), post('/', `${JSON_TYPE}; charset=latin1`, '{}'), post('/', 'application/ld+json', '{"l":1}'), post('/', 'APPLICATION/JSON;charset="UTF-8"', '{"u":1}'), post('/', 'application/json5', '{}'), post('/', 'text/json', '{}'),
    post('/', FORM, 'a=1&b[c]=2&d[]=3&d[]=4&e=%C3%BC+x'), post('/', FORM, ''), post('/', FORM, 'a='.repeat(2) + '&'.repeat(1001)), post('/', FORM, `a${'[b]'.repeat(40)}=1`), post('/', `${FORM}; charset=iso-8859-1`, 'a=%E4'), post('/', `${FORM}; charset=koi8-r`, 'a=1'), post('/', FORM, '__proto__[x]=1&toString=2'), post('/', FORM, 'utf8=%26%2310003%3B'),
    post('/', 'text/plain', 'text ü'), post('/', 'text/plain; charset=iso-8859-1', Buffer.from([0xe4])), post('/', 'text/css', ''), post('/', 'text/plain; charset=none-such', 'x'), post('/', 'text/plain; charset=utf-16le', Buffer.from('ü', 'utf16le')),
    post('/', 'application/octet-stream', Buffer.from([0, 1, 255])), post('/', 'application/octet-stream', ''), post('/', 'image/png', 'png'), post('/', 'multipart/form-data; boundary=b', '--b--'), post('/', undefined, 'none'), post('/', 'nonsense', 'x'), get('/'), request('DELETE', '/', { 'Content-Type': JSON_TYPE, body: '{"d":1}' }),
    get('/', { 'Content-Type': JSON_TYPE, body: '{"g":1}' }), encoded('gzip', zlib.gzipSync('{"z":1}')), encoded('GZIP', zlib.gzipSync('{"Z":1}')), encoded('br', zlib.brotliCompressSync('{"b":1}')), encoded('deflate', zlib.deflateSync('{"d":1}')), encoded('identity', '{"i":1}'), encoded('gzip', 'no gzip'), encoded('gzip', zlib.gzipSync('{"z":1}').subarray(0, 20)),
    encoded('lzma', '{}'), encoded('gzip, br', '{}'), encoded('gzip', zlib.gzipSync(big(LIMIT + 1)), 'text/plain'), encoded('gzip', zlib.gzipSync('a=1'), FORM), encoded('gzip', zlib.gzipSync('raw'), 'application/octet-stream'), encoded('', '{"e":1}'),
    post('/', JSON_TYPE, '7\r\n{"c":1}\r\n0\r\n\r\n', { 'Transfer-Encoding': 'chunked' }), post('/', 'text/plain', `${(LIMIT + 1).toString(16)}\r\n${big(LIMIT + 1)}\r\n0\r\n\r\n`, { 'Transfer-Encoding': 'chunked' }), post('/', 'text/plain', big(LIMIT)), post('/', JSON_TYPE, big(LIMIT + 1)),
    post('/', JSON_TYPE, '{"x":1}', { Expect: '100-continue' }), post('/', JSON_TYPE, '{}', { Expect: 'miracles' })],
  ['status', ...[200, 201, 204, 205, 304, 404, 500, 599, 999, 226].map((n) => get(`/?n=${n}`)), get('/?n=99'), get('/?n=200.5'), get('/?n=x'), head('/?n=201'), head('/?n=204')],
  ['wrongStatus', ...all(3)],
  ['sendStatus', ...[200, 204, 404, 418, 799].map((n) => get(`/?n=${n}`))],
  ['send', ...all(23), head('/?n=0'), head('/?n=2'), head('/?n=12')],
  ['json', ...all(10), head('/?n=0')],
  ['jsonp', get('/'), get('/?callback=cb'), get('/?callback=a.b[0]%3Balert(1)'), get('/?callback=a&callback=b')],
  ['redirect', ...all(8, { Accept: 'text/html' }), ...all(2, { Accept: 'text/plain' }), get('/?n=2', { Referer: '/referrer?x' }), get('/?n=0', { Accept: 'image/png' }), head('/?n=0')],
  ['location', ...all(3)],
  ['cookie', ...all(10)],
  ['type', ...all(9)],
  ['format', ...['text/html', 'application/json', 'text/plain', '*/*', 'image/png', undefined].map(accept), get('/?d=1', { Accept: 'image/png' })],
  ['vary', ...all(3)],
  ['append', ...all(4)],
  ['sendFile', file('a.txt'), head('/?n=a.txt'), file('page.html'), file('none.txt'), file('none.txt', '', { 'X-Callback': '1' }), file('.hidden'), file('.hidden', '&dotfiles=allow'), file('.hidden', '&dotfiles=deny'), file('folder'), file('folder/index.html'), file('../handlers.js'), file('a\0b'), file('%2e%2e/x'), file('a.txt/'),
    ...['bytes=0-4', 'bytes=-4', 'bytes=5-', 'bytes=0-1,4-5', 'bytes=999-', 'nonsense'].map((Range) => file('a.txt', '', { Range })), file('a.txt', '', { Range: 'bytes=0-4', 'If-Range': '"other"' }), file('a.txt', '&acceptRanges=false', { Range: 'bytes=0-4' }),
    file('a.txt', '', { 'If-Modified-Since': 'Fri, 01 Jan 2100 00:00:00 GMT' }), file('a.txt', '', { 'If-Unmodified-Since': 'Fri, 01 Jan 2010 00:00:00 GMT' }), file('a.txt', '', { 'If-Match': '"other"' }), file('a.txt', '', { 'If-None-Match': '*' }),
    file('a.txt', '&maxAge=1h&immutable=true'), file('a.txt', '&cacheControl=false&etag=false&lastModified=false'), post('/?n=a.txt', 'text/plain', 'x')],
  ['absolute', ...all(5)],
  ['download', ...all(7), get('/?n=0', { Range: 'bytes=0-2' })],
  ['etag', ...all(7), get('/?n=0', { 'If-None-Match': 'W/"6-sPbpECaXUFR0PIO4E7DrUn9KgLA"' }), get('/?n=0', { 'If-None-Match': '*' }), get('/?n=1', { 'If-None-Match': '*' }), get('/?n=3', { 'If-None-Match': '"own"' }), head('/?n=0', { 'If-None-Match': '*' })],
  ['raw', ...all(16), ...[0, 1, 2, 3, 8, 10].map((n) => head(`/?n=${n}`)), ...[0, 1, 3, 8].map((n) => get(`/?n=${n}`, { version: '1.0', close: false }))],
  ['throw', ...all(14), head('/?n=0'), head('/?n=2')],
  ['next', get('/'), post('/x?y', JSON_TYPE, '{}')],
  ['async', get('/')],
  ['echo', get('/', { version: '1.0', close: false }), sequence(get('/1', { version: '1.0', Connection: 'keep-alive', close: false }), get('/2', { version: '1.0', close: false })), sequence(get('/1', { close: false }), get('/2', { close: false }), get('/3')), sequence(post('/1', 'text/plain', 'one', { close: false }), post('/2', 'text/plain', 'two')),
    sequence(post('/1', JSON_TYPE, '{', { close: false }), get('/2')), sequence(head('/1', { close: false }), get('/2')), get('/', { Connection: 'Upgrade', Upgrade: 'h2c' }),
    raw('GET / HTTP/1.1\r\n<extra>\r\n'), raw('NONSENSE / HTTP/1.1\r\nHost: a\r\n\r\n'), raw(`GET / HTTP/1.1\r\nHost: a\r\nX: ${big(20_000)}\r\n\r\n`), raw('GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\nConnection: close\r\n<extra>\r\n'),
    raw('POST / HTTP/1.1\r\nHost: a\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n<extra>\r\nzz\r\n'), raw('POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n<extra>\r\n0\r\n\r\n'), raw('GET / HTTP/1.1\r\nHost: a\r\nX Y: 1\r\n\r\n'), raw('GET / HTTP/1.1\nHost: a\nConnection: close\n<extra>\n')],
  ['pipe', post('/', 'image/png', Buffer.alloc(10_000, 'abc')), post('/', JSON_TYPE, '{"untouched":1}'), post('/', 'text/plain', '3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n', { 'Transfer-Encoding': 'chunked' }), get('/')],
  ['iterate', post('/', JSON_TYPE, big(2 * LIMIT)), post('/', 'text/plain', '1\r\nx\r\n0\r\nX-Trailer: t\r\n\r\n', { 'Transfer-Encoding': 'chunked' }), post('/', FORM, 'a=1'), encoded('gzip', zlib.gzipSync('{}'))],
  ['events', post('/', 'application/octet-stream', Buffer.alloc(5000)), post('/', 'text/plain', 'x')],
  ['encoded', post('/', 'text/plain', 'ü€')],
  ['ignore', post('/', JSON_TYPE, '{"a":1}'), post('/', JSON_TYPE, '{', { close: true }), sequence(post('/', 'text/plain', 'left', { close: false }), post('/', 'image/png', big(1000)))],
]

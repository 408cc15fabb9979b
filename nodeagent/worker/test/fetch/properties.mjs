// A function of the web standard that compares the worker's Request and
// Response with Node's own. A subclass is always made by Node's own class, so
// it is the model; both get the same random operations, and what these give
// must be the same.

import { inspect } from 'node:util'

const NativeRequest = { Request: class extends Request {} }.Request
const NativeResponse = { Response: class extends Response {} }.Response

/** Random numbers below n that a seed repeats (mulberry32). */
function random(seed) {
  return (n) => {
    seed = (seed + 0x6d2b79f5) | 0
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) % n
  }
}

const hex = (bytes) => Buffer.from(bytes).toString('hex')

/** What can be seen of a value, as text. */
async function shown(value) {
  if (value instanceof ArrayBuffer) return `ArrayBuffer ${hex(value)}`
  if (value instanceof Uint8Array) return `${value.constructor.name} ${hex(value)}`
  if (value instanceof Blob) return `Blob ${value.type} ${await value.text()}`
  if (value instanceof FormData) return `FormData ${JSON.stringify([...value])}`
  if (value instanceof Request || value instanceof Response) {
    return `${value[Symbol.toStringTag]} ${value.url} ${value.method} ${value.status} ${JSON.stringify([...value.headers])} ${await outcome(() => value.text())}`
  }
  if (typeof value === 'function') return `function ${value.name} ${value.length}`
  return inspect(value)
}

async function outcome(operation) {
  try {
    return await shown(await operation())
  } catch (error) {
    return `${error.name}: ${error.message}`
  }
}

async function drain(stream) {
  let text = ''
  for await (const chunk of stream ?? []) text += hex(chunk)
  return text
}

const forIn = (object) => {
  const names = []
  for (const name in object) names.push(name)
  return names.sort()
}

const COMMON = {
  headers: (r) => [...r.headers], get: (r) => r.headers.get('content-type'), set: (r) => r.headers.set('X-Set', 's'), append: (r) => r.headers.append('x-set', 't'),
  remove: (r) => r.headers.delete('content-type'), sameHeaders: (r) => r.headers === r.headers, cookies: (r) => r.headers.getSetCookie(),
  bodyUsed: (r) => r.bodyUsed, hasBody: (r) => [r.body === null, r.body?.locked], sameBody: (r) => r.body === r.body, read: (r) => drain(r.body), cancel: (r) => r.body?.cancel(), lock: (r) => void r.body?.getReader(),
  text: (r) => r.text(), json: (r) => r.json(), arrayBuffer: (r) => r.arrayBuffer(), bytes: (r) => r.bytes(), blob: (r) => r.blob(), formData: (r) => r.formData(),
  twoReads: (r) => Promise.all([outcome(() => r.text()), outcome(() => r.json()), r.bodyUsed]), clone: (r) => r.clone(), cloneTwice: async (r) => [await shown(r.clone()), await shown(r.clone())],
  tag: (r) => [String(r), Object.keys(r), JSON.stringify(r), forIn(r), r.constructor.name, typeof r], // Order and case of headers may differ, and when an empty stream closes.
  inspect: (r) => inspect(r).replace(/headers: Headers \{[^}]*\}|state: '\w+'/g, ''),
  own: (r) => { r.mine = 1; const { mine } = r; delete r.mine; return mine },
  unknown: (r) => [r.none, 'none' in r, 'text' in r], methods: (r) => r.text, detached: (r) => { const { text } = r; return typeof text }, assign: (r) => { r.bodyUsed = 5 },
}
const REQUEST = {
  ...COMMON,
  url: (r) => r.url, method: (r) => r.method, aborted: (r) => [r.signal.aborted, r.signal.reason, r.signal === r.signal, r.signal instanceof AbortSignal],
  fixed: (r) => [r.mode, r.credentials, r.cache, r.redirect, r.referrer, r.referrerPolicy, r.integrity, r.keepalive, r.duplex, r.destination, r.isHistoryNavigation, r.isReloadNavigation],
  instance: (r) => [r instanceof Request, Object.prototype.isPrototypeOf.call(Request.prototype, r)], again: (r) => new Request(r), other: (r) => new Request('http://other.test/x', r),
  withInit: (r) => new Request(r, { method: 'PUT', headers: { a: 'b' }, body: 'own' }), spread: (r) => new Request(r.url, { method: r.method, headers: r.headers, body: r.body, duplex: 'half' }),
  fetchIt: (r) => fetch(r, { signal: AbortSignal.abort(new Error('not sent')) }), fetchWith: (r) => fetch('data:text/plain,x', r.method === 'GET' ? r : { headers: r.headers }).then((x) => x.text()),
}
const RESPONSE = {
  ...COMMON,
  status: (r) => [r.status, r.statusText, r.ok, r.type, r.url, r.redirected], instance: (r) => r instanceof Response,
  again: (r) => new NativeResponse(r.body, r), spread: (r) => new Response('other', r), json2: (r) => Response.json({ a: 1 }, r),
}

async function compare(light, native, operations, pick, count) {
  const names = Object.keys(operations)
  const done = []
  for (let i = 0; i < count; i++) {
    const name = names[pick(names.length)]
    const [ours, theirs] = [await outcome(() => operations[name](light)), await outcome(() => operations[name](native))]
    done.push(name)
    if (ours !== theirs) return `after ${done}:\n  ours   ${ours}\n  Node's ${theirs}`
  }
  return undefined
}

const stream = () => new ReadableStream({ start(c) { c.enqueue(Buffer.from('str')); c.enqueue(Buffer.from('eam')); c.close() } })
const BODIES = [() => undefined, () => null, () => '', () => 'text', () => 'ü€\ud800', () => '{"a":1}', () => 'a=1&b=2', () => new Uint8Array([1, 2]), () => new Uint8Array([1, 2, 3]).subarray(1), () => new Uint16Array([1]),
  () => new ArrayBuffer(2), () => new DataView(new ArrayBuffer(3), 1), () => new Blob(['blob'], { type: 'a/b' }), () => new URLSearchParams('q=1'), stream, () => 5, () => ({}), () => new String('boxed'), () => Buffer.from('buffer')]
const STATUSES = [undefined, 200, 201, 204, 205, 304, 404, 599, 600, 199, 0, '202', 200.5, null, NaN]
const TEXTS = [undefined, '', 'Fine', 'a\nb', 'ü', 5, ' spaced ']
const HEADERS = [() => undefined, () => ({}), () => ({ 'Content-Type': 'x/y' }), () => ({ A: '1', a: '2' }), () => ({ n: 5, l: ' trim ' }), () => ({ 'bad name': '1' }), () => ({ a: 'b\nc' }), () => new Headers({ h: 'v', 'content-type': 't/t' }),
  () => [['a', '1'], ['set-cookie', 'c=1'], ['set-cookie', 'd=2']], () => [['a']], () => null, () => 'text', () => ({ latin: 'ü' }), () => ({ wide: '€' }), () => ({ e: '', 'set-cookie': 'x=1' }), () => new Map([['m', '1']]),
  () => ({ 'content-type': 'application/x-www-form-urlencoded' }), () => ({ [Symbol('s')]: '1' }), () => Object.create({ inherited: '1' }), () => ({ 'X-Upper': 'V' })]

function responseOf(seed, Class) {
  const pick = random(seed)
  const body = BODIES[pick(BODIES.length)]()
  const init = [undefined, null, 'init', {}][pick(12)] ?? {
    status: STATUSES[pick(3) === 0 ? pick(STATUSES.length) : 0], statusText: TEXTS[pick(3) === 0 ? pick(TEXTS.length) : 0], headers: HEADERS[pick(HEADERS.length)](),
  }
  if (pick(5) === 0) return Class === Response ? Response.json(body ?? null, init) : jsonModel(body ?? null, init)
  const response = new Class(body, init)
  if (body instanceof Uint8Array) body.fill(0) // it was copied
  return response
}

// Node's own Response.json is not to be had any more.
function jsonModel(data, init) {
  const bare = new NativeResponse(Buffer.from(JSON.stringify(data)), init)
  if (!bare.headers.has('content-type')) bare.headers.set('content-type', 'application/json')
  return bare
}

async function responses(from, to) {
  for (let seed = from; seed < to; seed++) {
    let light, native
    const ours = await outcome(() => { light = responseOf(seed, Response) })
    const theirs = await outcome(() => { native = responseOf(seed, NativeResponse) })
    if (ours !== theirs) return `seed ${seed}: making it: ours ${ours}, Node's ${theirs}`
    if (light === undefined) continue
    const difference = await compare(light, native, RESPONSE, random(seed + 1), 6)
    if (difference !== undefined) return `seed ${seed} ${difference}`
  }
  return 'same'
}

export default {
  async fetch(request) {
    const url = new URL(request.url)
    const seed = Number(url.searchParams.get('seed'))
    if (url.pathname === '/responses') return new Response(await responses(seed, Number(url.searchParams.get('to'))))
    if (url.pathname === '/send') return responseOf(seed, url.searchParams.has('native') ? NativeResponse : Response)

    const { method, headers, body } = JSON.parse(url.searchParams.get('model'))
    const native = new NativeRequest(request.url, { method, headers, body: body === undefined ? undefined : new Blob([body]).stream(), duplex: 'half' })
    const difference = await compare(request, native, REQUEST, random(seed), 6)
    return new Response(difference === undefined ? 'same' : `seed ${seed} ${difference}`)
  },
}

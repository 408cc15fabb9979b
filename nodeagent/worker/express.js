'use strict'

// Express's own request and response, and the libraries that it brings.

const { hash } = require('node:crypto')
const path = require('node:path')
const querystring = require('node:querystring')

// What Express itself brings, in the versions that it gets: npm has one of each.
const bodyParser = require('body-parser')
const contentType = require('content-type')
const cookie = require('cookie')
const cookieParser = require('cookie-parser')
const express = require('express')
const createError = require('http-errors')
const mime = require('mime-types')

/** Of how many content types the full form is kept. */
const MAX_TYPES = 256

// Express asks for the full form of the same few types, twice for an answer.
const { contentType: fullType } = mime
const types = new Map()
mime.contentType = (type) => {
  let full = types.get(type)
  if (full === undefined) {
    full = fullType(type)
    if (types.size < MAX_TYPES && typeof type === 'string') types.set(type, full)
  }
  return full
}

/** What the package etag makes of a body, without a Hash object: half of its cost. */
function weakETag(body, encoding) {
  const plain = Buffer.isBuffer(body) || typeof body === 'string' && (encoding === undefined || encoding === 'utf8')
  const bytes = plain ? body : Buffer.from(body, encoding)
  const length = typeof bytes === 'string' ? Buffer.byteLength(bytes) : bytes.length
  return `W/"${length.toString(16)}-${hash('sha1', bytes, 'base64').slice(0, 27)}"`
}

/** Longest query that is parsed here: no more pairs fit than querystring takes. */
const MAX_QUERY = 1 << 10

/** How many names of parameters are kept, and how long they may be. */
const MAX_NAMES = 256
const MAX_NAME = 64

// Where V8 has seen only one name, as with most functions, it takes most of a
// parse's time to make a property's name of a text that was just cut out. One that
// was a name before it knows.
const names = new Map()

function nameOf(text) {
  const name = names.get(text)
  if (name !== undefined) return name
  if (names.size < MAX_NAMES && text.length <= MAX_NAME) names.set(text, text)
  return text
}

/** What querystring.parse makes of a query, in less time where nothing in it is encoded. */
function parseQuery(text) {
  if (typeof text !== 'string' || text.length > MAX_QUERY || text.includes('%') || text.includes('+')) return querystring.parse(text)
  const query = { __proto__: null }
  for (let start = 0, end; start < text.length; start = end + 1) {
    end = text.indexOf('&', start)
    if (end < 0) end = text.length
    if (end === start) continue
    let equals = text.indexOf('=', start)
    if (equals < 0 || equals > end) equals = end
    const key = nameOf(text.slice(start, equals))
    const value = text.slice(equals + 1, end)
    const before = query[key]
    if (before === undefined) query[key] = value
    else if (typeof before === 'string') query[key] = [before, value]
    else before.push(value)
  }
  return query
}

/**
 * Settings of requests that came on a direct connection: what a new Express
 * application has, without the X-Powered-By header.
 */
const direct = express()
direct.disable('x-powered-by')
// Until a function sets "etag" or "query parser".
direct.settings['etag fn'] = weakETag
direct.settings['query parser fn'] = parseQuery

/**
 * Settings of requests that came through a gateway. Exactly one proxy is
 * trusted, the gateway, so a client cannot choose its own address: whatever it
 * wrote in X-Forwarded-For stands left of what the gateway saw.
 */
const proxied = Object.create(direct)
proxied.settings = Object.assign(Object.create(null), direct.settings)
proxied.set('trust proxy', 1)

/** Brings the settings that depend on environment and folder up to date. */
function refresh() {
  const env = process.env.NODE_ENV || 'development'
  const views = process.cwd() + path.sep + 'views'
  for (const { settings } of [direct, proxied]) {
    settings.env = env
    settings.views = views
    if (env === 'production') settings['view cache'] = true
  }
}

/** Copies the own descriptors of one prototype onto another. */
function lend(from, to) {
  for (const key of Reflect.ownKeys(from)) {
    if (key !== 'constructor') Object.defineProperty(to, key, Object.getOwnPropertyDescriptor(from, key))
  }
}

module.exports = {
  request: express.request,
  response: express.response,
  apps: { direct, proxied },
  lend,
  refresh,
  bodyParser,
  contentType,
  cookie,
  cookieParser,
  parseQuery,
  createError,
}

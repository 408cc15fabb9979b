'use strict'

// Express's own request and response, and the libraries that it brings.

const { hash } = require('node:crypto')
const { createRequire } = require('node:module')
const path = require('node:path')

const cookieParser = require('cookie-parser')
const express = require('express')
const expressRequire = createRequire(require.resolve('express'))

/** What the package etag makes of a body, without a Hash object: half of its cost. */
function weakETag(body, encoding) {
  const plain = Buffer.isBuffer(body) || typeof body === 'string' && (encoding === undefined || encoding === 'utf8')
  const bytes = plain ? body : Buffer.from(body, encoding)
  const length = typeof bytes === 'string' ? Buffer.byteLength(bytes) : bytes.length
  return `W/"${length.toString(16)}-${hash('sha1', bytes, 'base64').slice(0, 27)}"`
}

/**
 * Settings of requests that came on a direct connection: what a new Express
 * application has, without the X-Powered-By header.
 */
const direct = express()
direct.disable('x-powered-by')
direct.settings['etag fn'] = weakETag // until a function sets "etag"

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
  bodyParser: expressRequire('body-parser'),
  contentType: expressRequire('content-type'),
  cookie: expressRequire('cookie'),
  cookieParser,
  createError: expressRequire('http-errors'),
}

'use strict'

// What a module exports becomes a handler.

const { types } = require('node:util')

const { answerError, answerFailure } = require('./answers.js')
const { fetchHandler } = require('./fetch.js')
const { FunctionRequest } = require('./message.js')
const { NoHandler } = require('./no-handler.js')
const { isResponse } = require('./web-response.js')

/**
 * Answers one request.
 *
 * @callback Handler
 * @param {FunctionRequest} req
 * @param {import('./message.js').FunctionResponse} res
 * @param {(work: Promise<unknown>) => void} hold keeps the container busy until
 *   the promise settles, which must not reject
 * @returns {void}
 * @property {(req: FunctionRequest) => (Function | undefined)} [upgradeOf] what takes
 *   a connection over when a request offers an upgrade; undefined: nothing, the
 *   request is a request like any other
 */

/**
 * The handler that a module's exports are.
 *
 * @param {unknown} exported module.exports or a module's namespace
 * @param {string} file the module, for messages
 * @returns {Handler}
 * @throws {NoHandler}
 */
function handlerOf(exported, file) {
  const module = types.isModuleNamespaceObject(exported)
  if (module || exported?.__esModule === true) {
    const value = exported.default
    if (typeof value === 'function' && !isClass(value)) {
      // A web-standard handler takes the request alone, and a compiled CommonJS
      // module may be imported as a namespace.
      return isExpress(value) || value.length >= 2 ? expressHandler(value) : fetchWithUpgrade(value, undefined, value)
    }
    if (value !== null && typeof value === 'object' && !types.isModuleNamespaceObject(value)) {
      return objectHandler(value, file)
    }
  }
  if (typeof exported === 'function' && !isClass(exported)) return expressHandler(exported)
  if (exported !== null && typeof exported === 'object') return objectHandler(exported, file)
  throw new NoHandler(file, describe(exported))
}

function objectHandler(object, file) {
  if (typeof object.fetch === 'function') return fetchWithUpgrade(object.fetch, object, object)
  if (typeof object.listen === 'function') throw new NoHandler(file, 'a server (an object with a listen method)')
  const names = Object.keys(object).filter((name) => typeof object[name] === 'function' && !isClass(object[name]))
  if (names.length === 0) throw new NoHandler(file, describe(object))
  return functionsHandler(object, names)
}

/** Contract 1: one function with Express's request and response. */
function expressHandler(fn) {
  // An application reads its bodies itself, and its own last word is "Cannot
  // GET /". A router has no last word of its own.
  const handler = isApplication(fn) ? (req, res) => invoke(fn, req, res, undefined)
    : (req, res) => FunctionRequest.whenBody(req, () => invoke(fn, req, res, req.next))
  handler.upgradeOf = () => upgradeOf(fn, fn)
  return handler
}

/**
 * A function's own way to take connections over: its property `upgrade`,
 * (req, socket, head) => …, as a listener of "upgrade" under plain Node.js.
 */
function upgradeOf(holder, receiver) {
  const { upgrade } = holder
  return typeof upgrade === 'function' ? (req, socket, head) => Reflect.apply(upgrade, receiver, [req, socket, head]) : undefined
}

/** Contract 3, which has no way of its own to take connections over. */
function fetchWithUpgrade(fn, receiver, holder) {
  const handler = fetchHandler(fn, receiver)
  handler.upgradeOf = () => upgradeOf(holder, receiver)
  return handler
}

/** Contract 2: functions chosen by the first segment of the path. */
function functionsHandler(object, names) {
  const handlers = new Map(names.map((name) => [name, expressHandler(object[name])]))
  const choose = (req) => {
    const [, segment, rest] = /^\/([^/?]*)(.*)$/s.exec(req.url) ?? [undefined, '', '']
    let name
    try {
      name = decodeURIComponent(segment)
    } catch {
      return {}
    }
    return { name, segment, rest, handler: handlers.get(name) }
  }
  const descend = (req, segment, rest) => {
    req.baseUrl = `/${segment}`
    req.url = rest.startsWith('/') ? rest : `/${rest}`
  }
  const handle = (req, res, hold) => {
    const { name, segment, rest, handler } = choose(req)
    if (name === undefined) return answerError(req, res, 400, 'BadRequest', `the path ${req.url} is not properly encoded`)
    if (handler === undefined) {
      return answerError(req, res, 404, 'FunctionNotFound',
        `no function named "${name}"; there are: ${names.join(', ')}`)
    }
    descend(req, segment, rest)
    handler(req, res, hold)
  }
  handle.upgradeOf = (req) => {
    const { segment, rest, handler } = choose(req)
    const upgrade = handler?.upgradeOf(req)
    return upgrade && ((req, socket, head) => {
      descend(req, segment, rest)
      return upgrade(req, socket, head)
    })
  }
  return handle
}

function invoke(fn, req, res, next) {
  let result
  try {
    result = next === undefined ? fn(req, res) : fn(req, res, next)
  } catch (error) {
    answerFailure(req, res, error)
    return
  }
  if (result === null || typeof result !== 'object') return
  if (typeof result.then === 'function') {
    result.then((value) => refuseResponse(value, fn, req, res), (error) => answerFailure(req, res, error))
  } else {
    refuseResponse(result, fn, req, res)
  }
}

// Express heeds nothing that a function returns, and a Response that it gives as its
// answer would be waited for without end.
function refuseResponse(value, fn, req, res) {
  if (value === null || typeof value !== 'object' || res.headersSent || !isAnswer(value, fn)) return
  answerFailure(req, res, new TypeError('a function (req, res) => … gave a Response, which is not sent' +
    ' (a handler (request) => Response is export default, or module.exports = { fetch: (request) => … })'))
}

// A Response of fetch may be returned by a function that has yet to answer by res,
// unless it takes the request alone. What throws when it is looked at is no Response.
function isAnswer(value, fn) {
  try {
    return isResponse(value) && (fn.length === 1 || !value.url)
  } catch {
    return false
  }
}

const isClass = (fn) => /^class\b/.test(Function.prototype.toString.call(fn))

/** Whether a function is an Express application or router. */
const isExpress = (fn) => typeof fn.handle === 'function' && typeof fn.use === 'function'
const isApplication = (fn) => isExpress(fn) && typeof fn.listen === 'function'

function describe(value) {
  if (typeof value === 'function') return 'a class'
  if (types.isModuleNamespaceObject(value)) {
    const names = Object.keys(value)
    return names.length === 0 ? 'nothing' : `only ${names.join(', ')}`
  }
  if (value === null || typeof value !== 'object') return `${value === null ? 'null' : typeof value}`
  const names = Object.keys(value)
  return names.length === 0 ? 'nothing' : `an object with ${names.slice(0, 5).join(', ')}`
}

module.exports = { handlerOf }

'use strict'

// A Request and a Response of the web standard cost more to make than all the
// rest of answering a request, and most handlers look at little of them. So
// functions get objects that know the little themselves and make Node's own
// object when they are asked for more.

const { apply, defineProperty, getOwnPropertyDescriptor, ownKeys } = Reflect

/**
 * Makes a class stand for one of Node's: its objects are instances of both, and
 * every accessor and method that it does not have itself is carried out on the
 * object of Node's class behind it.
 *
 * @param {Function} light the class
 * @param {Function} native Node's
 * @param {(object: object) => object} behind the native object of a light one
 */
function standFor(light, native, behind) {
  Object.setPrototypeOf(light.prototype, native.prototype)
  delete light.prototype.constructor // so that it is that of Node's
  for (const key of ownKeys(native.prototype)) {
    const theirs = getOwnPropertyDescriptor(native.prototype, key)
    const ours = getOwnPropertyDescriptor(light.prototype, key)
    if (key === 'constructor') continue
    if (ours !== undefined) defineProperty(light.prototype, key, { ...ours, enumerable: theirs.enumerable })
    else if (theirs.get !== undefined) defineProperty(light.prototype, key, { ...theirs, get: forwarding(theirs.get, behind), set: theirs.set && forwarding(theirs.set, behind) })
    else if (typeof theirs.value === 'function') defineProperty(light.prototype, key, { ...theirs, value: forwarding(theirs.value, behind) })
  }
}

function forwarding(fn, behind) {
  const forward = { method(...args) { return apply(fn, behind(this), args) } }.method
  defineProperty(forward, 'name', { value: fn.name, configurable: true })
  defineProperty(forward, 'length', { value: fn.length, configurable: true })
  return forward
}

/** Makes the headers of one Headers object those of another. */
function copyHeaders(from, to) {
  if (from === to) return
  for (const name of [...to.keys()]) to.delete(name)
  for (const [name, value] of from) to.append(name, value)
}

/** Replaces a global and leaves all else about it as Node made it. */
function replaceGlobal(name, value) {
  const { enumerable, configurable } = getOwnPropertyDescriptor(globalThis, name)
  defineProperty(globalThis, name, { value, writable: true, enumerable, configurable })
}

module.exports = { standFor, copyHeaders, replaceGlobal }

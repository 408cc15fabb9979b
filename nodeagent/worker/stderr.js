'use strict'

// Node opens the standard error when it is first looked at, and looks at it
// itself when any socket closes. A warm worker has closed sockets, but its
// function shall find no handle that it has not opened.

/**
 * Keeps the standard error closed from those who only look at it.
 *
 * @returns {() => void} makes it as it was
 */
function keepClosed() {
  const descriptor = Object.getOwnPropertyDescriptor(process, 'stderr')
  Object.defineProperty(process, 'stderr', { ...descriptor, get: () => ({ fd: 2 }) })
  return () => Object.defineProperty(process, 'stderr', descriptor)
}

module.exports = { keepClosed }

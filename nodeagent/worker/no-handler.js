'use strict'

/** Says what a module may export. */
const SUPPORTED = 'supported are: module.exports = (req, res) => …; an object of such functions; ' +
  'export default (req, res) => …; export default (request) => Response; export default { fetch(request) }; ' +
  'a server that listens by itself, as the command of the pod or as the start script of package.json'

/** A module that exports nothing which can answer requests. */
class NoHandler extends Error {
  /**
   * @param {string} file the module
   * @param {string} found what it exports, in words
   */
  constructor(file, found) {
    super(`${file} exports ${found}, which cannot answer requests; ${SUPPORTED}`)
  }
}

module.exports = { NoHandler }

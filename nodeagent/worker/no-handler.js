'use strict'

/** Says what a module may export. */
const SUPPORTED = 'supported are: module.exports = (req, res) => …; an object of such functions; ' +
  'export default (req, res) => …; export default (request) => Response; export default { fetch(request) }. ' +
  'Servers that listen by themselves are not supported yet'

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

'use strict'

// The samples of docs/functions.md do what the page says.

const assert = require('node:assert/strict')
const fs = require('node:fs')
const path = require('node:path')
const test = require('node:test')

const { serving } = require('./container.js')

const PAGE = fs.readFileSync(path.join(__dirname, '..', '..', '..', 'docs', 'functions.md'), 'utf8')

// A sample begins with the name of its file; what it answers stands below it.
for (const [, title, code, below] of PAGE.matchAll(/^```[jt]s\n\/\/ (.*)\n([^]*?)^```\n([^]*?)(?=^```|^#|^\|)/gm)) {
  const [, file, command] = /^(\S+)(?: of a pod with command: (\[.*\]))?$/.exec(title)
  test(`docs/functions.md: ${title}: ${code.split('\n', 1)[0]}`, async (t) => {
    const container = await serving(t, { [file]: code }, command && { command: JSON.parse(command), env: { PORT: '8080' } })
    const exchanges = [...below.matchAll(/^`(GET|POST) (\S+)(?: (.*?))?` answers `(.*)`$/gm)]
    if (command) exchanges.push(['', 'GET', '/', undefined, /res\.end\('(.*?)'\)/.exec(code)[1]])
    assert.notEqual(exchanges.length, 0, 'the page says no answer')
    for (const [, method, target, body, answer] of exchanges) {
      const { text } = await container.request({ method, path: target, body, headers: { 'X-Forwarded-For': '127.0.0.1' } })
      assert.equal(text, answer, target)
    }
  })
}

test('docs/functions.md: every sample of JavaScript is run, and every link to a file leads to one', () => {
  const fences = PAGE.match(/^```[jt]s$/gm)
  const run = PAGE.match(/^```[jt]s\n\/\/ \S+/gm)
  assert.ok(fences.length >= 5 && fences.length === run.length, `${run?.length} of ${fences.length}`)
  const headings = [...PAGE.matchAll(/^#+ (.*)$/gm)].map(([, text]) => text.toLowerCase().replaceAll(/[^\w -]/g, '').replaceAll(' ', '-'))
  for (const [, target] of PAGE.matchAll(/\]\(([^)]+)\)/g)) {
    const [file, fragment] = target.split('#')
    if (file === '') assert.ok(headings.includes(fragment), target)
    else assert.ok(fs.existsSync(path.join(__dirname, '..', '..', '..', 'docs', file)), target)
  }
})

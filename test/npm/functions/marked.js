'use strict'

const { marked } = require('marked')

module.exports = (req, res) => res.json({
  ok: true, html: marked.parse('# Teas\n\n| a | b |\n|---|---|\n| 1 | **2** |\n\n- [x] done\n- `code`\n'), inline: marked.parseInline('*a* <b>'),
  kinds: marked.lexer('# a\n\nb').map(({ type }) => type),
})

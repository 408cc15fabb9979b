'use strict'

const ts = require('typescript')

module.exports = (req, res) => {
  const { outputText } = ts.transpileModule('enum Tea { Assam = 1 }\nexport const cups = (n: number): number => n ?? Tea.Assam', { compilerOptions: { module: ts.ModuleKind.CommonJS, target: ts.ScriptTarget.ES2015 } })
  const exported = {}
  new Function('exports', outputText)(exported)
  const file = '/tmp/wrong.ts'
  ts.sys.writeFile(file, 'const n: number = "two"\nn.toFixed(1)\n')
  const program = ts.createProgram([file], { noEmit: true, types: [], strict: true, lib: ['lib.es5.d.ts'] })
  const found = ts.getPreEmitDiagnostics(program).map(({ code, messageText }) => [code, ts.flattenDiagnosticMessageText(messageText, ' ')])
  res.json({ ok: true, cups: [exported.cups(3), exported.cups(undefined)], found })
}

import { execa, ExecaError } from 'execa'

export default async function (req, res) {
  const { stdout } = await execa('sh', ['-c', 'cat; echo $TEA'], { input: 'poured ', env: { TEA: 'assam' } })
  const { stdout: piped } = await execa`printf ${'b\na'}`.pipe`sort`
  const failed = await execa('sh', ['-c', 'echo no >&2; exit 3'], { all: true }).catch((error) => [error instanceof ExecaError, error.exitCode, error.stderr])
  const late = await execa('sleep', ['1000'], { timeout: 50 }).catch((error) => error.timedOut)
  const node = await execa({ node: true, input: 'process.stdout.write(String(6 * 7))' })`-`
  res.json({ ok: true, stdout, piped: piped.split('\n'), failed, late, node: node.stdout })
}

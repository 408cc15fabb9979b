import fs from 'node:fs'
import { once } from 'node:events'
import chokidar from 'chokidar'

export default async function (req, res) {
  fs.mkdirSync('/tmp/watched')
  const watcher = chokidar.watch('/tmp/watched', { ignoreInitial: true })
  await once(watcher, 'ready')
  const added = once(watcher, 'add')
  fs.writeFileSync('/tmp/watched/a', '1')
  const [file] = await added
  const changed = once(watcher, 'change')
  fs.appendFileSync('/tmp/watched/a', '2')
  await changed
  const removed = once(watcher, 'unlink')
  fs.unlinkSync('/tmp/watched/a')
  await removed
  await watcher.close()
  res.json({ ok: true, file })
}

'use strict'

// How much memory and how many processors there are, which packages size their
// caches and pools by; a program that the function starts goes by them, too.
const { execFileSync } = require('node:child_process')
const MiB = 1 << 20

module.exports = (req, res) => {
  const [constrained, heap] = JSON.parse(execFileSync(process.execPath, ['-p', 'JSON.stringify([process.constrainedMemory(), v8.getHeapStatistics().heap_size_limit])']))
  const block = Buffer.alloc(200 * MiB, 1)
  const left = process.availableMemory()
  res.json({
    ok: true, constrained: process.constrainedMemory() / MiB, child: constrained / MiB, childHeap: heap < 512 * MiB,
    left: left > 100 * MiB && left < 312 * MiB && block.length === 200 * MiB,
  })
}

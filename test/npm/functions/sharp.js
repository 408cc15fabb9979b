'use strict'

const sharp = require('sharp')

module.exports = async (req, res) => {
  const svg = Buffer.from('<svg xmlns="http://www.w3.org/2000/svg" width="64" height="32"><rect width="64" height="32" fill="#ff8000"/></svg>')
  const original = await sharp(svg).png().toBuffer()
  const formats = {}
  for (const format of ['jpeg', 'webp', 'avif', 'gif']) {
    const { info } = await sharp(original).resize(16).toFormat(format).toBuffer({ resolveWithObject: true })
    formats[format] = [info.width, info.height]
  }
  const { data, info } = await sharp(original).rotate(90).extract({ left: 0, top: 0, width: 1, height: 1 }).removeAlpha().raw().toBuffer({ resolveWithObject: true })
  await sharp(original).toFile('/tmp/original.png')
  const { width, height, format } = await sharp('/tmp/original.png').metadata()
  const broken = await sharp(Buffer.from('no image')).toBuffer().catch((error) => error.message)
  res.json({ ok: true, formats, pixel: [...data], channels: info.channels, file: [width, height, format], broken })
}

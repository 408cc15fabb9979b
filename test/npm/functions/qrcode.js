'use strict'

const QRCode = require('qrcode')

module.exports = async (req, res) => {
  const png = await QRCode.toBuffer('https://sanfran.dev', { scale: 2 })
  const { modules, version } = QRCode.create('https://sanfran.dev', { errorCorrectionLevel: 'H' })
  res.json({
    ok: true, magic: png.toString('latin1', 1, 4), width: png.readUInt32BE(16), version, size: modules.size,
    url: (await QRCode.toDataURL('x')).slice(0, 22), svg: (await QRCode.toString('x', { type: 'svg' })).startsWith('<svg'),
  })
}

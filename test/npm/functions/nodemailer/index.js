'use strict'

const nodemailer = require('nodemailer')
const { listen } = require('./loopback.js')
const { mailServer } = require('./mail-server.js')

module.exports = async (req, res) => {
  const mails = []
  const server = mailServer(mails)
  const transport = nodemailer.createTransport({ host: '127.0.0.1', port: await listen(server), ignoreTLS: true, auth: { user: 'vik', pass: 'pw' } })
  const verified = await transport.verify()
  const { accepted, response } = await transport.sendMail({
    from: 'Shop <shop@example.org>', to: 'vik@example.org', subject: 'Grüße', text: 'Tea is ready', attachments: [{ filename: 'a.txt', content: 'attached' }],
  })
  transport.close()
  server.close()
  const [mail] = mails
  res.json({
    ok: true, verified, accepted, response, recipients: mail.recipients, subject: /^Subject: (.*)$/m.exec(mail.text)[1].trim(),
    multipart: mail.text.includes('multipart/mixed'), attached: mail.text.includes(Buffer.from('attached').toString('base64')) || mail.text.includes('attached'),
  })
}

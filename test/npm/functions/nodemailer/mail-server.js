'use strict'

// As much of an SMTP server as one mail needs (RFC 5321, RFC 4954).

const { createServer } = require('node:net')

/**
 * @param {{recipients: string[], text: string}[]} mails gets what is sent
 * @returns {import('node:net').Server} not listening yet; the user is vik, with password pw
 */
function mailServer(mails) {
  return createServer((socket) => {
    let buffer = ''
    let recipients = []
    let text = null
    const say = (line) => socket.write(`${line}\r\n`)
    socket.on('error', () => {})
    socket.on('data', (chunk) => {
      buffer += chunk
      for (let end; (end = buffer.indexOf('\r\n')) >= 0;) {
        const line = buffer.slice(0, end)
        buffer = buffer.slice(end + 2)
        if (text === null) command(line)
        else if (line !== '.') text += `${line}\n`
        else {
          mails.push({ recipients, text })
          text = null
          recipients = []
          say(`250 2.0.0 mail ${mails.length} is queued`)
        }
      }
    })
    function command(line) {
      const [name] = line.toUpperCase().split(/[ :]/)
      switch (name) {
        case 'EHLO': say('250-mail.example'); return say('250 AUTH PLAIN')
        case 'AUTH': return say(line.split(' ')[2] === Buffer.from('\0vik\0pw').toString('base64') ? '235 2.7.0 welcome' : '535 5.7.8 no')
        case 'RCPT': recipients.push(/<(.*)>/.exec(line)[1]); return say('250 2.1.5 ok')
        case 'DATA': text = ''; return say('354 go on')
        case 'QUIT': return socket.end('221 2.0.0 bye\r\n')
        default: return say('250 2.0.0 ok')
      }
    }
    say('220 mail.example ESMTP')
  })
}

module.exports = { mailServer }

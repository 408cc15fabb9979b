// curl "$GATEWAY/fn/server?name=Vik"  →  Hello Vik
// A server as anybody would write it, run by `node server.js`; it also echoes
// what it is sent by WebSocket, in short messages.
const { createHash } = require('node:crypto');
const http = require('node:http');

const server = http.createServer((req, res) => {
  const { searchParams } = new URL(req.url, 'http://server');
  res.end(`Hello ${searchParams.get('name') ?? 'World'}`);
});

server.on('upgrade', (req, socket, head) => {
  const key = req.headers['sec-websocket-key'];
  if (req.headers.upgrade?.toLowerCase() !== 'websocket' || !key) return socket.end('HTTP/1.1 400 Bad Request\r\n\r\n');
  const accept = createHash('sha1').update(key + '258EAFA5-E914-47DA-95CA-C5AB0DC85B11').digest('base64');
  socket.write(`HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: ${accept}\r\n\r\n`);

  let bytes = head;
  const read = (chunk) => {
    bytes = Buffer.concat([bytes, chunk]);
    // A client's frame: opcode, length (up to 125 here), mask, payload (RFC 6455).
    while (bytes.length >= 6 && bytes.length >= 6 + (bytes[1] & 127)) {
      const length = bytes[1] & 127;
      const payload = bytes.subarray(6, 6 + length).map((byte, i) => byte ^ bytes[2 + (i & 3)]);
      if (length > 125) return socket.destroy();
      socket.write(Buffer.concat([Buffer.from([bytes[0], length]), payload]));
      if ((bytes[0] & 15) === 8) return socket.end(); // close
      bytes = bytes.subarray(6 + length);
    }
  };
  socket.on('data', read);
  socket.on('error', () => {});
  socket.on('end', () => socket.end());
  read(Buffer.alloc(0));
});

server.listen(process.env.PORT, () => console.log('listening on', server.address().port));

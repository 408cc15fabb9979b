package router

import (
	"bufio"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"io"
	"net"
	"net/http"
)

// isTunnel reports whether a request is an extended CONNECT (RFC 8441): how a
// WebSocket is opened on one stream of an HTTP/2 connection. One for HTTP/2 itself is
// not passed on, as upgradeOf says.
func isTunnel(r *http.Request) bool {
	protocol := r.Header[":protocol"]
	return r.Method == http.MethodConnect && r.ProtoMajor == 2 && len(protocol) == 1 && !named(protocol, "h2c")
}

// webSocketKey is a nonce of RFC 6455, which RFC 8441 has no need of.
func webSocketKey() string {
	var nonce [16]byte
	_, _ = rand.Read(nonce[:]) // never fails, see crypto/rand
	return base64.StdEncoding.EncodeToString(nonce[:])
}

// takeOver passes an accepted upgrade on, and copies both ways until both ends
// have ended their half or one breaks.
func (x *Exchange) takeOver(res *http.Response, upstream *upstreamConn, in *responseReader) {
	h := x.w.Header()
	passHeaders(h, res.Header)
	if _, own := h[HeaderRequestID]; !own && x.opts.Edge {
		h[HeaderRequestID] = x.r.Header[HeaderRequestID]
	}
	if x.tunnel {
		x.tunnelThrough(upstream, in)
		return
	}
	client, buffered, err := http.NewResponseController(x.w).Hijack()
	if err != nil {
		x.forwarder.log.Error("a connection cannot be upgraded", "proto", x.r.Proto, "err", err)
		panic(http.ErrAbortHandler)
	}
	defer client.Close()
	if err := boundTaking(client, x.forwarder.clientStall); err != nil {
		x.forwarder.log.Warn("a client that takes nothing of an upgraded connection will not be cut off", "err", err)
	}
	if x.idles() {
		client = touchedConn{client, &x.clock}
	}
	h["Connection"], h["Upgrade"] = []string{"Upgrade"}, []string{x.upgrade}
	_, _ = buffered.WriteString("HTTP/1.1 101 Switching Protocols\r\n")
	_ = h.Write(buffered)
	_, _ = buffered.WriteString("\r\n")
	if err := buffered.Flush(); err != nil {
		return // the client is gone
	}
	up, down := make(chan error, 1), make(chan error, 1)
	go func() { up <- copyHalf(upstream.TCPConn, buffered.Reader, client) }()
	go func() { down <- copyHalf(client, in.Reader, upstream.TCPConn) }()
	// One half may end long before the other; what breaks ends both.
	var first error
	select {
	case first = <-up:
		up = nil
	case first = <-down:
		down = nil
	}
	if first != nil {
		_, _ = client.Close(), upstream.Close()
	}
	if up != nil {
		<-up
	} else {
		<-down
	}
}

// copyHalf copies one direction to its end: what is in the buffer first, and then
// from the connection itself, which the kernel can do alone.
func copyHalf(to net.Conn, early *bufio.Reader, from net.Conn) error {
	if n := early.Buffered(); n > 0 {
		head, err := early.Peek(n)
		if err != nil {
			return err
		}
		if _, err := to.Write(head); err != nil {
			return err
		}
	}
	if _, err := io.Copy(to, from); err != nil {
		return err
	}
	if half, ok := to.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return to.Close()
}

// tunnelThrough is takeOver for a stream of HTTP/2. It ends with the upstream's
// half; the client's may end before, and one that takes nothing is cut off.
func (x *Exchange) tunnelThrough(upstream *upstreamConn, in *responseReader) {
	x.w.Header().Del("Sec-WebSocket-Accept") // of a key that the client did not make
	x.w.WriteHeader(http.StatusOK)
	to := x.taking()
	defer to.end()
	up := make(chan struct{})
	go func() {
		defer close(up)
		body := x.r.Body
		if x.idles() {
			body = touchedBody{body, &x.clock}
		}
		if _, err := io.Copy(upstream.TCPConn, body); err != nil || upstream.CloseWrite() != nil {
			_ = upstream.Close()
		}
	}()
	buffer := buffers.Get().(*[bufferSize]byte)
	defer buffers.Put(buffer)
	err := to.flush()
	for err == nil {
		var n int
		n, err = in.Read(buffer[:])
		if x.idles() {
			x.clock.touch()
		}
		if n > 0 {
			if failed := to.write(buffer[:n]); failed != nil {
				err = failed
			} else if failed := to.flush(); failed != nil {
				err = failed
			}
		}
	}
	_, _ = upstream.Close(), x.r.Body.Close() // which ends the other half
	<-up
	if !errors.Is(err, io.EOF) {
		panic(http.ErrAbortHandler)
	}
}

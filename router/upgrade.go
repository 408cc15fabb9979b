package router

import (
	"bufio"
	"io"
	"net"
	"net/http"
)

// upgradeWriter is the response writer of a request that asks for an upgrade.
// httputil.ReverseProxy, which copies an upgraded connection's bytes, reads them
// from the connection alone: what a client sent right after its request, and the
// server has in its buffer, would be lost.
type upgradeWriter struct {
	http.ResponseWriter
	clock *clock // nil: nobody is told of its bytes
}

// Unwrap lets http.ResponseController reach the writer.
func (w upgradeWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// Hijack implements http.Hijacker.
func (w upgradeWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buffered, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err == nil && buffered.Reader.Buffered() > 0 {
		conn = &earlyConn{conn, buffered.Reader}
	}
	if err == nil && w.clock != nil {
		conn = touchedConn{conn, w.clock}
	}
	return conn, buffered, err
}

// earlyConn is a connection of which some bytes have been read already.
type earlyConn struct {
	net.Conn
	early *bufio.Reader
}

// Read gives the bytes that were read early first.
func (c *earlyConn) Read(p []byte) (int, error) {
	if n := c.early.Buffered(); n > 0 {
		return c.early.Read(p[:min(n, len(p))])
	}
	return c.Conn.Read(p)
}

// ReadFrom implements io.ReaderFrom, for connections of the kernel that copy by
// themselves.
func (c *earlyConn) ReadFrom(r io.Reader) (int64, error) { return io.Copy(c.Conn, r) }

// CloseWrite ends one direction, as the connection's own does.
func (c *earlyConn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

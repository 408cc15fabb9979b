package rpc

import (
	"context"
	"net"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/peer"
)

// Whether a peer lives is judged by bytes that arrive from it, whatever they
// mean: the server pings idle connections every second, so a healthy peer is
// heard that often. Each accepted connection notes the time of its last bytes,
// and its calls find that through their context.

type heardConn struct {
	net.Conn
	last *atomic.Int64 // Unix nanoseconds
}

func (c *heardConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 {
		c.last.Store(time.Now().UnixNano())
	}
	return n, err
}

// RemoteAddr carries the time to the calls' contexts: gRPC keeps the address of
// the connection there, and nothing else of it.
func (c *heardConn) RemoteAddr() net.Addr { return heardAddr{c.Conn.RemoteAddr(), c.last} }

type heardAddr struct {
	net.Addr
	last *atomic.Int64
}

type watchedListener struct{ net.Listener }

// watched returns a listener whose connections remember when they were last
// heard.
func watched(l net.Listener) net.Listener { return watchedListener{l} }

func (l watchedListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	last := new(atomic.Int64)
	last.Store(time.Now().UnixNano())
	return &heardConn{Conn: conn, last: last}, nil
}

// LastHeard returns when bytes last arrived on the connection of the call that
// ctx belongs to. It may be called for as long as the call's handler runs and
// after. It is false where the server was not started by Serve.
func LastHeard(ctx context.Context) (time.Time, bool) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return time.Time{}, false
	}
	addr, ok := p.Addr.(heardAddr)
	if !ok {
		return time.Time{}, false
	}
	return time.Unix(0, addr.last.Load()), true
}

package nodeagent

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"sanfran.dev/router"
)

// orphans serves single connections that were accepted on somebody else's
// behalf. Its server is stopped like the others.
type orphans struct {
	server *http.Server
	bound  *router.Connections
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

type handlerKey struct{}

// handledConn is a connection with a handler of its own.
type handledConn struct {
	net.Conn
	handler http.Handler
}

// NetConn is the connection itself, for who sets what a socket has.
func (c *handledConn) NetConn() net.Conn { return c.Conn }

func newOrphans(log *slog.Logger, bound *router.Connections) *orphans {
	o := &orphans{bound: bound, conns: make(chan net.Conn), closed: make(chan struct{})}
	o.server = speakHTTP2(newServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Context().Value(handlerKey{}).(http.Handler).ServeHTTP(w, r)
	}), log, bound))
	o.server.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		return context.WithValue(ctx, handlerKey{}, c.(*handledConn).handler)
	}
	return o
}

// add takes a connection over.
func (o *orphans) add(tcp *net.TCPConn, h http.Handler) {
	c := o.bound.Admit(tcp)
	if c == nil {
		return
	}
	select {
	case o.conns <- &handledConn{c, h}:
	case <-o.closed:
		c.Close()
	case <-time.After(time.Second): // nobody serves
		c.Close()
	}
}

// Accept implements net.Listener.
func (o *orphans) Accept() (net.Conn, error) {
	select {
	case c := <-o.conns:
		return c, nil
	case <-o.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (o *orphans) Close() error {
	o.once.Do(func() { close(o.closed) })
	return nil
}

// Addr implements net.Listener.
func (o *orphans) Addr() net.Addr { return &net.TCPAddr{} }

package provider

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// watchClient makes a request's context end when its client's connection does, also
// when that was taken over for streams: net/http does not look any more then, and
// who has a program run that says nothing would never be missed. The caller calls
// done.
func watchClient(w http.ResponseWriter, r *http.Request) (_ http.ResponseWriter, _ *http.Request, done context.CancelFunc) {
	ctx, cancel := context.WithCancel(r.Context())
	return &watchedResponse{ResponseWriter: w, ctx: ctx, gone: cancel}, r.WithContext(ctx), cancel
}

// lookEvery is how often it is looked whether a client is gone that cannot be heard.
const lookEvery = time.Second

type watchedResponse struct {
	http.ResponseWriter
	ctx  context.Context
	gone func()
}

// Unwrap is for http.ResponseController.
func (w *watchedResponse) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// Hijack implements http.Hijacker.
func (w *watchedResponse) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	hijacker, ok := w.ResponseWriter.(http.Hijacker)
	if !ok {
		return nil, nil, fmt.Errorf("the connection cannot be taken over: %w", errors.ErrUnsupported)
	}
	conn, both, err := hijacker.Hijack()
	if err != nil {
		return nil, nil, err
	}
	early, err := both.Reader.Peek(both.Reader.Buffered())
	if err != nil {
		return nil, nil, errors.Join(err, conn.Close())
	}
	go w.look(conn) // ends with the context
	watched := &watchedConn{Conn: conn, early: bytes.NewReader(bytes.Clone(early)), gone: w.gone}
	return watched, bufio.NewReadWriter(bufio.NewReader(watched), bufio.NewWriter(watched)), nil
}

// look ends the context when the client has closed its connection. Reading finds
// that, too, but nobody reads while a program does not take what came before.
func (w *watchedResponse) look(conn net.Conn) {
	for {
		inner, ok := conn.(interface{ NetConn() net.Conn }) // TLS
		if !ok {
			break
		}
		conn = inner.NetConn()
	}
	socket, ok := conn.(syscall.Conn)
	if !ok {
		return
	}
	raw, err := socket.SyscallConn()
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	for err == nil {
		select {
		case <-w.ctx.Done():
			return
		case <-ticker.C:
		}
		var info *unix.TCPInfo
		var infoErr error
		err = raw.Control(func(fd uintptr) { info, infoErr = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO) })
		if err != nil || infoErr == nil && info.State != tcpEstablished {
			w.gone()
			return
		}
	}
}

// tcpEstablished is TCP_ESTABLISHED of <netinet/tcp.h>.
const tcpEstablished = 1

// watchedConn tells when nothing more can be read.
type watchedConn struct {
	net.Conn
	early *bytes.Reader // was read before the connection was taken over
	gone  func()
}

// Read implements io.Reader.
func (c *watchedConn) Read(p []byte) (int, error) {
	if c.early.Len() > 0 {
		return c.early.Read(p)
	}
	n, err := c.Conn.Read(p)
	if err != nil && (errors.Is(err, io.EOF) || !isTimeout(err)) {
		c.gone()
	}
	return n, err
}

// Close implements io.Closer.
func (c *watchedConn) Close() error {
	c.gone()
	return c.Conn.Close()
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

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
)

// watchClient makes a request's context end when its client's connection does, also
// when that was taken over for streams: net/http does not look any more then, and
// who has a program run that says nothing would never be missed. The caller calls
// done.
func watchClient(w http.ResponseWriter, r *http.Request) (_ http.ResponseWriter, _ *http.Request, done context.CancelFunc) {
	ctx, cancel := context.WithCancel(r.Context())
	return &watchedResponse{ResponseWriter: w, gone: cancel}, r.WithContext(ctx), cancel
}

type watchedResponse struct {
	http.ResponseWriter
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
	watched := &watchedConn{Conn: conn, early: bytes.NewReader(bytes.Clone(early)), gone: w.gone}
	return watched, bufio.NewReadWriter(bufio.NewReader(watched), bufio.NewWriter(watched)), nil
}

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

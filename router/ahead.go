package router

import (
	"context"
	"errors"
	"net"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// ahead holds connections that were opened before there was a request for them, by
// the address they lead to. It is safe for concurrent use.
type ahead struct {
	mu    sync.Mutex
	conns map[string]net.Conn
}

// Connect opens a connection for Offer. The upstream must not close it however long
// nothing is sent: a request that goes into one that is being closed is not sent
// again.
func (f *Forwarder) Connect(ctx context.Context, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, f.patience)
	defer cancel()
	return f.dialer.DialContext(ctx, "tcp", address)
}

// Offer has the next request that would open a connection to the address go over
// conn, which is the Forwarder's from now on. One that was offered before is closed.
func (f *Forwarder) Offer(address string, conn net.Conn) {
	if before := f.ahead.swap(address, conn); before != nil {
		_ = before.Close()
	}
}

// Withdraw closes what was offered for the address and no request has used.
func (f *Forwarder) Withdraw(address string) {
	if conn := f.ahead.swap(address, nil); conn != nil {
		_ = conn.Close()
	}
}

// swap puts a connection, or none, in the place of that for the address.
func (a *ahead) swap(address string, conn net.Conn) (before net.Conn) {
	a.mu.Lock()
	defer a.mu.Unlock()
	before = a.conns[address]
	if conn == nil {
		delete(a.conns, address)
		return before
	}
	if a.conns == nil {
		a.conns = map[string]net.Conn{}
	}
	a.conns[address] = conn
	return before
}

// dial gives the Transport a connection. The Transport keeps the values of the
// context of the request that it dials for, not its end.
func (f *Forwarder) dial(ctx context.Context, network, address string) (net.Conn, error) {
	if conn := f.ahead.swap(address, nil); conn != nil {
		if isOpen(conn) {
			return conn, nil
		}
		_ = conn.Close() // a new one leads to whoever has the upstream's socket now
	}
	timeout := f.patience
	if x, ok := ctx.Value(exchangeKey{}).(*Exchange); ok && x.opts.Policy != nil {
		timeout = x.opts.Policy.Connect
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return f.dialer.DialContext(ctx, network, address)
}

// isOpen reports whether the other end of a connection that waits has neither closed
// it nor said anything.
func isOpen(conn net.Conn) bool {
	socket, ok := conn.(syscall.Conn)
	if !ok {
		return true
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return false
	}
	waits := false
	err = raw.Control(func(fd uintptr) {
		var next [1]byte
		_, _, err := unix.Recvfrom(int(fd), next[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		waits = errors.Is(err, unix.EAGAIN)
	})
	return err == nil && waits
}

package router

import (
	"context"
	"net"
)

// Connect opens a connection for Offer. The upstream must not close it however long
// nothing is sent: a request that goes into one that is being closed is not sent
// again.
func (f *Forwarder) Connect(ctx context.Context, address string) (net.Conn, error) {
	c, err := f.upstreams.dial(ctx, address, f.dialTimeout)
	if err != nil {
		return nil, err
	}
	return c, nil
}

// Offer has the next request that would open a connection to the address go over
// conn, one of Connect's, which is the Forwarder's from now on. One that was offered
// before is closed.
func (f *Forwarder) Offer(address string, conn net.Conn) {
	c, ok := conn.(*upstreamConn)
	if !ok { // somebody else's, which the pool cannot look at
		_ = conn.Close()
		return
	}
	if before := f.upstreams.swapAhead(address, c); before != nil {
		_ = before.Close()
	}
}

// Withdraw closes what waits for a request to the address: what was offered, and what
// was kept after others. Its upstream is about to end: nothing else would close them
// before they have waited for long.
func (f *Forwarder) Withdraw(address string) {
	if before := f.upstreams.swapAhead(address, nil); before != nil {
		_ = before.Close()
	}
	for {
		kept := f.upstreams.take(address)
		if kept == nil {
			return
		}
		_ = kept.Close()
	}
}

// swapAhead puts a connection, or none, in the place of that for the address. Once
// they are closed none is taken, and the caller gets it back.
func (u *upstreams) swapAhead(address string, conn *upstreamConn) (before *upstreamConn) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.closed {
		return conn
	}
	before = u.ahead[address]
	if conn == nil {
		delete(u.ahead, address)
	} else {
		u.ahead[address] = conn
	}
	return before
}

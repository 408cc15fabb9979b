package router

import (
	"container/heap"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"sync"
)

// DefaultConnections is how many connections of clients a gateway has at a time. Of a
// memory limit of 512 MiB each has 128 KiB: one on which nothing is said takes some 8,
// one that waits for its answer 27, one that sends 36, one that streams both ways 60,
// without TLS and what the kernel takes.
const DefaultConnections = 4096

// Connections bounds how many connections of clients are open at a time, over all
// listeners that share it, so that nobody fills the memory with them. When there is
// one too many, one gives way: of the client that has the most, by its address, the
// one that has been idle the longest; if that client has none that is idle, or all
// have one each, the one that has been idle the longest of all. One on which nothing
// has been asked yet is idle, the newest too: if all others are busy, it is the one
// to go. A connection that answers, or is upgraded, is never closed.
//
// It is safe for concurrent use. Nothing waits under its lock.
type Connections struct {
	limit int

	mu      sync.Mutex
	open    int
	clients map[netip.Addr]*connectionsClient
	most    mostConnections
	idle    ring // head of the ring of those that are idle, longest first
	closed  ClosedConnections
}

// ClosedConnections counts connections that gave way: idle ones to newer ones, and
// new ones because all others were busy.
type ClosedConnections struct{ Idle, Refused uint64 }

// NewConnections returns a bound of limit connections.
func NewConnections(limit int) *Connections {
	c := &Connections{limit: limit, clients: make(map[netip.Addr]*connectionsClient)}
	c.idle.init()
	return c
}

// Bound has a server keep to the bound. Its connections must have been admitted: its
// listeners are those that Listener returns, or their connections come from Admit.
func (c *Connections) Bound(server *http.Server) { server.ConnState = c.changed }

// Count returns how many connections are open, and how many have given way so far.
func (c *Connections) Count() (open int, closed ClosedConnections) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.open, c.closed
}

// Listener returns a TCP listener whose connections are admitted.
func (c *Connections) Listener(of net.Listener) net.Listener { return &boundListener{of, c} }

type boundListener struct {
	net.Listener
	bound *Connections
}

// Accept implements net.Listener.
func (l *boundListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		tcp, ok := conn.(*net.TCPConn)
		if !ok {
			return nil, errors.Join(fmt.Errorf("a connection of %T cannot be bounded, only one of TCP", conn), conn.Close())
		}
		if admitted := l.bound.Admit(tcp); admitted != nil {
			return admitted, nil
		}
	}
}

// Admit counts a connection until it is closed. It returns nil if that is at once:
// when no other can give way.
func (c *Connections) Admit(tcp *net.TCPConn) net.Conn {
	conn := newBoundConn(tcp, c)
	victim := c.add(conn, clientOf(conn))
	if victim == nil {
		return conn
	}
	_ = victim.TCPConn.Close() // its client is not to hear anything
	if victim == conn {
		return nil
	}
	return conn
}

// add counts a connection, and returns the one that gives way to it, if one has to.
func (c *Connections) add(conn *boundConn, addr netip.Addr) (victim *boundConn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	client := c.clients[addr]
	if client == nil {
		client = &connectionsClient{addr: addr}
		client.idle.init()
		c.clients[addr] = client
		heap.Push(&c.most, client)
	}
	conn.client = client
	c.count(client, 1)
	c.setIdle(conn)
	if c.open <= c.limit {
		return nil
	}
	first := c.idle.next // there is one: this
	if most := c.most[0]; most.open > 1 && most.idle.next.conn != nil {
		first = most.idle.next
	}
	victim = first.conn
	if victim == conn {
		c.closed.Refused++
	} else {
		c.closed.Idle++
	}
	c.forget(victim)
	return victim
}

// changed has the signature of http.Server.ConnState.
func (c *Connections) changed(conn net.Conn, state http.ConnState) {
	if state == http.StateNew || state == http.StateClosed {
		return // Admit and Close have seen to it
	}
	bound := boundOf(conn)
	c.mu.Lock()
	defer c.mu.Unlock()
	if bound.gone {
		return
	}
	bound.setBusy()
	if state == http.StateIdle {
		c.setIdle(bound)
	}
}

// setIdle puts a connection behind those that are idle already. It needs the lock.
func (c *Connections) setIdle(conn *boundConn) {
	conn.ofAll.before(&c.idle)
	conn.ofClient.before(&conn.client.idle)
}

// forget counts a connection no more. It needs the lock.
func (c *Connections) forget(conn *boundConn) {
	if conn.gone {
		return
	}
	conn.gone = true
	conn.setBusy()
	c.count(conn.client, -1)
}

func (c *Connections) count(client *connectionsClient, n int) {
	c.open += n
	if client.open += n; client.open > 0 {
		heap.Fix(&c.most, client.index)
		return
	}
	heap.Remove(&c.most, client.index)
	delete(c.clients, client.addr)
}

// boundConn is a client's connection that counts until it is closed. It is a
// TCPConn in all else, also to the kernel's copying.
type boundConn struct {
	*net.TCPConn
	bound  *Connections
	client *connectionsClient
	// Places in the rings of those that are idle.
	ofAll, ofClient ring
	gone            bool
}

func newBoundConn(tcp *net.TCPConn, bound *Connections) *boundConn {
	c := &boundConn{TCPConn: tcp, bound: bound}
	c.ofAll.conn, c.ofClient.conn = c, c
	return c
}

// Close implements net.Conn.
func (c *boundConn) Close() error {
	err := c.TCPConn.Close()
	c.bound.mu.Lock()
	defer c.bound.mu.Unlock()
	c.bound.forget(c)
	return err
}

func (c *boundConn) setBusy() {
	c.ofAll.leave()
	c.ofClient.leave()
}

// boundOf is what a server's connection was admitted as: itself, or what is under
// TLS.
func boundOf(conn net.Conn) *boundConn {
	for {
		if bound, ok := conn.(*boundConn); ok {
			return bound
		}
		conn = conn.(interface{ NetConn() net.Conn }).NetConn()
	}
}

func clientOf(conn net.Conn) netip.Addr {
	tcp, ok := conn.RemoteAddr().(*net.TCPAddr)
	if !ok { // gone already
		return netip.Addr{}
	}
	return tcp.AddrPort().Addr().Unmap()
}

// connectionsClient is one address with connections.
type connectionsClient struct {
	addr  netip.Addr
	open  int
	idle  ring // head of the ring of its own, longest first
	index int  // in mostConnections
}

// mostConnections is a heap of clients, the one with the most connections on top.
type mostConnections []*connectionsClient

func (m mostConnections) Len() int           { return len(m) }
func (m mostConnections) Less(i, j int) bool { return m[i].open > m[j].open }
func (m mostConnections) Swap(i, j int) {
	m[i], m[j] = m[j], m[i]
	m[i].index, m[j].index = i, j
}

// Push implements heap.Interface.
func (m *mostConnections) Push(client any) {
	c := client.(*connectionsClient)
	c.index = len(*m)
	*m = append(*m, c)
}

// Pop implements heap.Interface.
func (m *mostConnections) Pop() any {
	last := len(*m) - 1
	c := (*m)[last]
	(*m)[last] = nil
	*m = (*m)[:last]
	return c
}

// ring is a place in a ring, or its head, which has no connection. What comes and
// goes with each request is to allocate nothing.
type ring struct {
	prev, next *ring
	conn       *boundConn
}

func (r *ring) init() { r.prev, r.next = r, r }

// before puts r, which is in no ring, before another.
func (r *ring) before(other *ring) {
	r.prev, r.next = other.prev, other
	r.prev.next, other.prev = r, r
}

// leave takes r out of its ring, if it is in one.
func (r *ring) leave() {
	if r.next == nil {
		return
	}
	r.prev.next, r.next.prev = r.next, r.prev
	r.prev, r.next = nil, nil
}

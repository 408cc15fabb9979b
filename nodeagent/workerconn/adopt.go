package workerconn

import "net"

// Adopted is what is known of a worker with which another process has spoken.
type Adopted struct {
	// CompileCache is what it said when it was warm, see Conn.CompileCache.
	CompileCache string
	// Ready: it runs a function, which is a server or not. Else it is warm.
	Ready, Server bool
}

// Adopt goes on with a conversation that another process has begun on sock, which
// has ended since. See New about the rest.
//
// That process may have read a part of the worker's line; what it has written the
// worker has whole, because messages but for "activate" are less than the kernel
// takes in at once. It may also have died between an answer and what it knew of
// the worker: answers to it are let pass. A worker that was being drained can be
// drained again.
func Adopt(sock net.Conn, known Adopted, onActivity func(Activity)) *Conn {
	c := newConn(sock, onActivity)
	c.adopted, c.torn = true, true
	c.state, c.cache = warm, known.CompileCache
	close(c.warm)
	if known.Ready {
		c.state, c.server = ready, known.Server
		close(c.loaded)
	}
	go c.read()
	return c
}

// belated reports whether a message is the answer to a question of the process
// before. The caller holds mu.
func (c *Conn) belated(m message) bool {
	if !c.adopted {
		return false
	}
	return m.Type == "compiled" || m.Type == "drained" && c.state >= ready && c.state != failed
}

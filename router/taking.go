package router

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/http"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// clientStall is how long a client may take nothing of an answer, if nobody says
// otherwise.
const clientStall = time.Minute

// taking writes an answer's body, and bounds each wait for the client to take it.
type taking struct {
	w      http.ResponseWriter
	within time.Duration
	http2  bool
	wrote  bool      // the first write was made
	set    time.Time // when the write deadline was set; not of HTTP/2
	// stream bounds the waits of HTTP/2, where a deadline ends a stream on which
	// nothing waits to be written, too.
	stream *stall
}

// short is what a first write of HTTP/2 does not wait with: net/http puts it into
// its buffer.
const short = 4 << 10

func (x *Exchange) taking() taking {
	return taking{w: x.w, within: x.forwarder.clientStall, http2: x.r.ProtoMajor == 2}
}

// write writes some of the body. It may wait even for the first byte: the client has
// not taken the answer before this one, or has said by HTTP/2 that it takes none.
func (t *taking) write(p []byte) error {
	if t.http2 && !t.wrote && len(p) < short {
		t.wrote = true
		_, err := t.w.Write(p)
		return err
	}
	t.wrote = true
	t.begins()
	_, err := t.w.Write(p)
	t.ends()
	return err
}

// flush has what was written on its way.
func (t *taking) flush() error {
	t.begins()
	err := http.NewResponseController(t.w).Flush()
	t.ends()
	if errors.Is(err, http.ErrNotSupported) {
		return nil
	}
	return err
}

func (t *taking) begins() {
	if !t.http2 {
		if now := time.Now(); now.Sub(t.set) > t.within/8 {
			t.set = now
			t.deadline(now.Add(t.within))
		}
		return
	}
	if t.stream == nil {
		t.stream = new(stall)
		w := t.w
		t.stream.begin(t.within, func() { _ = http.NewResponseController(w).SetWriteDeadline(time.Unix(1, 0)) })
	}
	t.stream.wait()
}

func (t *taking) ends() {
	if t.http2 {
		t.stream.over()
	}
}

// end says that all was written. What the server still has in its buffer, and the
// answer's end, have as long; net/http takes the deadline away from a connection of
// HTTP/1 then.
func (t *taking) end() {
	switch {
	case !t.http2:
		t.begins()
		return
	case t.stream != nil:
		t.stream.end()
	}
	t.deadline(time.Now().Add(t.within))
}

// boundTaking has a client cut off that takes nothing of what it is sent for so long, or
// is gone without a word. It is the kernel that does, which copies between upgraded
// connections by itself.
func boundTaking(client net.Conn, within time.Duration) error {
	for {
		inner, ok := client.(interface{ NetConn() net.Conn }) // as of TLS
		if !ok {
			break
		}
		client = inner.NetConn()
	}
	conn, ok := client.(syscall.Conn)
	if !ok {
		return fmt.Errorf("%T is no socket", client)
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var set error
	err = raw.Control(func(fd uintptr) {
		set = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(within.Milliseconds()))
	})
	return cmp.Or(err, set)
}

func (t *taking) deadline(at time.Time) {
	_ = http.NewResponseController(t.w).SetWriteDeadline(at) // not of writers in tests
}

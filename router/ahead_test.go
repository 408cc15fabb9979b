package router

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
)

// overWhich is the backend's name of the connection that a request came over.
func overWhich(t *testing.T, f *Forwarder, address string) string {
	t.Helper()
	w := httptest.NewRecorder()
	if outcome := f.Begin(w, httptest.NewRequest(http.MethodGet, "/", nil), ExchangeOptions{}).Try(Upstream{Address: address}); outcome != Answered || w.Code != 200 {
		t.Fatalf("%v, %d", outcome, w.Code)
	}
	return w.Body.String()
}

func TestTheFirstRequestGoesOverTheConnectionOpenedAhead(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.RemoteAddr) }))
	defer server.Close()
	address := server.Listener.Addr().String()
	f := NewForwarder(ForwarderConfig{})
	defer f.Close()
	connect := func() net.Conn {
		t.Helper()
		conn, err := f.Connect(t.Context(), address)
		if err != nil {
			t.Fatal(err)
		}
		return conn
	}

	closed, used := connect(), connect()
	f.Offer(address, closed)
	f.Offer(address, used)
	if _, err := closed.Write([]byte("x")); err == nil {
		t.Error("a connection stays open that another was offered in place of")
	}
	for range 2 {
		if got := overWhich(t, f, address); got != used.LocalAddr().String() {
			t.Errorf("the request came over %s, want %s", got, used.LocalAddr())
		}
	}
	f.Withdraw(address) // its upstream ends: what was kept goes, too
	if _, err := used.Write([]byte("x")); err == nil {
		t.Error("a connection that was kept after requests stays open")
	}
	if got := overWhich(t, f, address); got == used.LocalAddr().String() {
		t.Error("a request went over a connection that was kept to an upstream which ends")
	}

	f.Close() // what it has kept
	withdrawn := connect()
	f.Offer(address, withdrawn)
	f.Withdraw(address)
	if _, err := withdrawn.Write([]byte("x")); err == nil {
		t.Error("a connection that was withdrawn stays open")
	}
	if got := overWhich(t, f, address); got == withdrawn.LocalAddr().String() {
		t.Error("a request went over a connection that was withdrawn")
	}

	f.Close()
	dead := connect()
	io.WriteString(dead, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
	if _, err := io.ReadAll(dead); err != nil { // until the server closes it
		t.Fatal(err)
	}
	f.Offer(address, dead)
	if got := overWhich(t, f, address); got == dead.LocalAddr().String() {
		t.Error("a request went over a connection that the upstream had closed")
	}

	for _, offered := range []string{"before", "after"} {
		f := NewForwarder(ForwarderConfig{})
		left, err := f.Connect(t.Context(), address)
		if err != nil {
			t.Fatal(err)
		}
		if offered == "before" {
			f.Offer(address, left)
			f.Close()
		} else {
			f.Close()
			f.Offer(address, left)
		}
		if _, err := left.Write([]byte("x")); err == nil {
			t.Errorf("a connection that was offered %s the end stays open", offered)
		}
	}
}

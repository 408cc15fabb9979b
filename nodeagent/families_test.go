package nodeagent

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"

	"sanfran.dev/nodeagent/socket"
)

// On a socket of both families an IPv4 connection's own address is the IPv4 one: it
// is what tells a pod's address from the container's port.
func TestLocalAddressOnASocketOfBothFamilies(t *testing.T) {
	for _, both := range []bool{false, true} {
		listener, err := socket.Listen(netip.MustParseAddrPort("127.0.0.1:0"), both)
		if err != nil {
			t.Fatal(err)
		}
		defer listener.Close()
		client, err := net.Dial("tcp4", localAddrPort(listener.Addr()).String())
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		conn, err := listener.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		want := client.RemoteAddr().(*net.TCPAddr).AddrPort()
		if got := localAddrPort(conn.LocalAddr()); got != want || !got.Addr().Is4() {
			t.Errorf("both families %t: %v, want %v", both, got, want)
		}
		if got, want := conn.RemoteAddr().String(), client.LocalAddr().String(); got != want {
			t.Errorf("both families %t: the client is told as %v, want %v", both, got, want)
		}
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r = r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, conn.LocalAddr()))
		if got := localAddress(r); got != want.Addr() {
			t.Errorf("both families %t: the request came to %v, want %v", both, got, want.Addr())
		}
	}
}

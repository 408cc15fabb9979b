package router

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
)

// TestNobodySaysForWhomAnAgentForwards: what a client says itself ends at the next
// hop, gateway or agent, whether that reaches a container or a home agent.
func TestNobodySaysForWhomAnAgentForwards(t *testing.T) {
	seen := make(chan []string, 1)
	backend := newBackend(t, func(_ *backend, _ http.ResponseWriter, r *http.Request) { seen <- r.Header[HeaderClient] })
	forwarder := NewForwarder(ForwarderConfig{})
	defer forwarder.Close()
	for name, hop := range map[string]http.Handler{
		"gateway, warm": newGateway(t, warmRoute(backend.address(), "127.0.0.1:1")),
		"gateway, cold": newGateway(t, parkedRoute(backend.address())),
	} {
		r := httptest.NewRequest(http.MethodGet, "/fn/hello", nil)
		r.Header[HeaderClient] = []string{"192.0.2.66:6666"}
		recorded(hop, r)
		if got := <-seen; got != nil {
			t.Errorf("%s: the client says %q", name, got)
		}
	}
	for name, upstream := range map[string]Upstream{
		"to a container":  {Address: backend.address(), Lease: "L", Nonce: "N"},
		"to a home agent": {Address: backend.address(), Pod: "a", Revision: "rev", Nonce: AgentNonce},
	} {
		for _, client := range []string{"", "192.0.2.1:1234", "[2001:db8::1]:80"} {
			r := httptest.NewRequest(http.MethodGet, "/", nil)
			r.Header[HeaderClient] = []string{"192.0.2.66:6666", "192.0.2.67:6666"}
			x := forwarder.Begin(httptest.NewRecorder(), r, ExchangeOptions{Client: client})
			if outcome := x.Try(upstream); outcome != Answered {
				t.Fatal(outcome)
			}
			x.End()
			var want []string
			if client != "" {
				want = []string{client}
			}
			if got := <-seen; !slices.Equal(got, want) {
				t.Errorf("%s, for %q: %q, want %q", name, client, got, want)
			}
		}
	}
}

// TestAFunctionSeesTheClient whom an agent forwards for, and of a gateway's request
// the gateway, by the real worker. Both share the connections to the container.
func TestAFunctionSeesTheClient(t *testing.T) {
	route := realWorker(t, `module.exports = (req, res) => res.json([req.socket.remoteAddress + ' ' + req.socket.remotePort, req.ip])
		module.exports.upgrade = (req, socket) => { socket.write('HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: who\r\n\r\n'); socket.end(socket.remoteAddress + ' ' + socket.remotePort) }`)
	table := NewTable()
	mustApply(t, table, snapshotOf(route))
	forwarder := NewForwarder(ForwarderConfig{})
	defer forwarder.Close()
	gateway := httptest.NewServer(WholeRequests(NewGateway(GatewayConfig{Table: table, Forwarder: forwarder})))
	defer gateway.Close()
	instance := route.GetInstances()[0]
	agent := httptest.NewServer(WholeRequests(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		x := forwarder.Begin(w, r, ExchangeOptions{Client: r.RemoteAddr})
		defer x.End()
		if outcome := x.Try(Upstream{Address: instance.GetAddress(), Lease: instance.GetLeaseId(), Nonce: instance.GetNonce()}); outcome != Answered {
			t.Error(outcome)
		}
	})))
	defer agent.Close()
	const lies = "Sanfran-Client: 192.0.2.66:6666\r\nX-Forwarded-For: 192.0.2.67\r\n"
	ask := func(server *httptest.Server, path, header string) (seen string, own net.Addr) {
		t.Helper()
		conn, err := net.Dial("tcp", server.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: a\r\n%s%s\r\n", path, lies, header); err != nil {
			t.Fatal(err)
		}
		in := bufio.NewReader(conn)
		res, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		var body strings.Builder
		if res.StatusCode == http.StatusSwitchingProtocols {
			_, err = in.WriteTo(&body)
		} else {
			_, err = bufio.NewReader(res.Body).WriteTo(&body)
		}
		if err != nil || res.StatusCode >= 300 {
			t.Fatalf("%d %q, %v", res.StatusCode, body.String(), err)
		}
		return body.String(), conn.LocalAddr()
	}
	ends := func(addr net.Addr) string {
		host, port, _ := net.SplitHostPort(addr.String())
		return host + " " + port
	}
	var kept string // the gateway's end of the connection
	for range 3 {
		var seen [2]string
		text, own := ask(agent, "/", "")
		if err := json.Unmarshal([]byte(text), &seen); err != nil || seen != [2]string{ends(own), "127.0.0.1"} {
			t.Errorf("by the agent: %q, want %v; %v", text, own, err)
		}
		text, own = ask(gateway, "/fn/hello", "")
		if err := json.Unmarshal([]byte(text), &seen); err != nil || seen[1] != "127.0.0.1" || !strings.HasPrefix(seen[0], "127.0.0.1 ") || seen[0] == ends(own) {
			t.Errorf("by the gateway: %q, want its own port and not that of the client, %v; %v", text, own, err)
		}
		if kept != "" && seen[0] != kept {
			t.Errorf("by the gateway: %q after %q, want one connection for all", seen[0], kept)
		}
		kept = seen[0]
	}
	if text, own := ask(agent, "/", "Connection: Upgrade\r\nUpgrade: who\r\n"); text != ends(own) {
		t.Errorf("upgraded: %q, want %v", text, own)
	}
}

package router

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"

	routesv1 "sanfran.dev/proto/sanfran/routes/v1"
)

// benchTable holds many functions, and among them "hello" with a container at
// address.
func benchTable(b testing.TB, address string) *Table {
	routes := []*routesv1.Route{warmRoute(address, "127.0.0.1:1")}
	for i := range 1000 {
		r := route(fmt.Sprint("other-", i), fmt.Sprint("other-", i), fmt.Sprintf("10.1.%d.%d", i/250, i%250+1), fmt.Sprint("L-", i))
		routes = append(routes, r)
	}
	table := NewTable()
	mustApply(b, table, snapshotOf(routes...))
	return table
}

// discard is a client that is far faster than the gateway.
type discard struct{ header http.Header }

func (d discard) Header() http.Header         { return d.header }
func (d discard) Write(p []byte) (int, error) { return len(p), nil }
func (d discard) WriteHeader(int)             {}

// BenchmarkGateway is one warm request after the other to a server on loopback:
// what the gateway takes for it, and the server's own part.
func BenchmarkGateway(b *testing.B) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") })}
	served := make(chan struct{})
	go func() { defer close(served); _ = server.Serve(listener) }()
	defer func() { _ = server.Close(); <-served }()
	forwarder := NewForwarder(ForwarderConfig{})
	defer forwarder.Close()
	gateway := NewGateway(GatewayConfig{Table: benchTable(b, listener.Addr().String()), Forwarder: forwarder})
	b.ReportAllocs()
	for b.Loop() {
		r := httptest.NewRequest("GET", "/fn/hello/path?q=1", nil)
		gateway.ServeHTTP(discard{make(http.Header)}, r)
	}
}

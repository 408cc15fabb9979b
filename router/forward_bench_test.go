package router

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"sync"
	"testing"
)

const (
	benchRequest = "GET /fn/hello/path?name=Vik HTTP/1.1\r\nHost: gateway\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n"
	benchAnswer  = "HTTP/1.1 200 OK\r\nX-Powered-By: Express\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: 9\r\nETag: W/\"9-abc\"\r\nDate: Sun, 29 Nov 2026 01:00:00 GMT\r\nConnection: keep-alive\r\n\r\nHello Vik"
)

// cannedUpstream answers every request without a body with the same bytes, as
// cheaply as can be: what is measured is what is before it.
func cannedUpstream(b *testing.B) string {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			b.Cleanup(func() { conn.Close() })
			serving.Go(func() {
				in, answer := make([]byte, 4096), []byte(benchAnswer)
				n := 0
				for {
					m, err := conn.Read(in[n:])
					if err != nil {
						return
					}
					if n += m; bytes.HasSuffix(in[:n], []byte("\r\n\r\n")) {
						n = 0
						_, _ = conn.Write(answer)
					}
				}
			})
		}
	})
	b.Cleanup(serving.Wait)
	b.Cleanup(func() { listener.Close() })
	return listener.Addr().String()
}

// oneClient sends requests over one connection, the next when the one before is
// answered, until more says no.
func oneClient(b *testing.B, address string, more func() bool) {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		b.Error(err)
		return
	}
	defer conn.Close()
	in := bufio.NewReader(conn)
	for more() {
		if _, err := io.WriteString(conn, benchRequest); err != nil {
			b.Error(err)
			return
		}
		length := 0
		for {
			line, err := in.ReadSlice('\n')
			if err != nil {
				b.Error(err)
				return
			}
			if bytes.HasPrefix(line, []byte("Content-Length: 9")) {
				length = 9
			}
			if len(line) == 2 {
				break
			}
		}
		if length != 9 {
			b.Error("not the answer of the upstream")
			return
		}
		if _, err := in.Discard(length); err != nil {
			b.Error(err)
			return
		}
	}
}

// BenchmarkForward is a warm request through a whole server: the gateway, and
// beside it the standard library's reverse proxy with a tuned Transport, and the
// upstream alone.
func BenchmarkForward(b *testing.B) {
	for _, subject := range []struct {
		name    string
		address func(b *testing.B, upstream string) string
	}{
		{"upstream", func(_ *testing.B, upstream string) string { return upstream }},
		{"gateway", func(b *testing.B, upstream string) string {
			table := NewTable()
			if _, err := table.Apply(snapshotOf(warmRoute(upstream, "127.0.0.1:1"))); err != nil {
				b.Fatal(err)
			}
			forwarder := NewForwarder(ForwarderConfig{})
			b.Cleanup(forwarder.Close)
			return benchGateway(b, NewGateway(GatewayConfig{Table: table, Forwarder: forwarder}))
		}},
		{"reverseproxy", func(b *testing.B, upstream string) string {
			transport := &http.Transport{MaxIdleConnsPerHost: 256, DisableCompression: true}
			b.Cleanup(transport.CloseIdleConnections)
			to := &url.URL{Scheme: "http", Host: upstream}
			return benchServer(b, &httputil.ReverseProxy{
				Rewrite:    func(r *httputil.ProxyRequest) { r.SetURL(to); r.SetXForwarded() },
				Transport:  transport,
				BufferPool: benchBuffers{new(sync.Pool)},
			})
		}},
	} {
		b.Run(subject.name+"/c=1", func(b *testing.B) {
			address := subject.address(b, cannedUpstream(b))
			b.ReportAllocs()
			oneClient(b, address, b.Loop)
		})
		b.Run(subject.name+"/c=16", func(b *testing.B) {
			address := subject.address(b, cannedUpstream(b))
			b.ReportAllocs()
			b.SetParallelism(8) // times two processors
			b.RunParallel(func(pb *testing.PB) { oneClient(b, address, pb.Next) })
		})
	}
}

type benchBuffers struct{ pool *sync.Pool }

func (p benchBuffers) Get() []byte {
	if b, ok := p.pool.Get().(*[]byte); ok {
		return *b
	}
	return make([]byte, 32<<10)
}

func (p benchBuffers) Put(b []byte) { p.pool.Put(&b) }

func benchServer(b *testing.B, h http.Handler) string {
	server := httptest.NewServer(WholeRequests(h))
	b.Cleanup(server.Close)
	return server.Listener.Addr().String()
}

// benchGateway is the gateway's own server.
func benchGateway(b *testing.B, h http.Handler) string {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	server := NewServer(ServerConfig{Handler: h})
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := server.Serve(listener, nil); err != nil {
			b.Error(err)
		}
	})
	b.Cleanup(serving.Wait)
	b.Cleanup(func() { _ = server.Shutdown(b.Context()) }) // whose end cuts off what is idle
	return listener.Addr().String()
}

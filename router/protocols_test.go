package router

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"runtime"
	"runtime/metrics"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// client is one way to reach a gateway.
type client struct {
	*http.Client
	url string
}

// everyProtocol runs a test over HTTP/1.1 and HTTP/2, in the clear and by TLS.
func everyProtocol(t *testing.T, handler http.Handler, test func(t *testing.T, c client)) {
	certFile, keyFile := writeCertificate(t, t.TempDir(), 1)
	certificate, err := LoadCertificate(certFile, keyFile, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	for _, version := range []int{1, 2} {
		for _, secure := range []bool{false, true} {
			t.Run(fmt.Sprintf("HTTP/%d TLS=%v", version, secure), func(t *testing.T) {
				server := NewServer(ServerConfig{Handler: handler})
				protocols := new(http.Protocols)
				protocols.SetHTTP1(version == 1)
				protocols.SetHTTP2(version == 2 && secure)
				protocols.SetUnencryptedHTTP2(version == 2 && !secure)
				transport := &http.Transport{Protocols: protocols, DisableCompression: true, ExpectContinueTimeout: time.Minute, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
				t.Cleanup(transport.CloseIdleConnections)
				c := client{Client: &http.Client{Transport: transport}}
				if secure {
					c.url = "https://" + startServer(t, server, certificate)
				} else {
					c.url = "http://" + startServer(t, server, nil)
				}
				test(t, c)
			})
		}
	}
}

// do sends a request and fails the test if that is not answered.
func (c client) do(t *testing.T, r *http.Request) *http.Response {
	t.Helper()
	res, err := c.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { res.Body.Close() })
	return res
}

func (c client) request(t *testing.T, method, path string, body io.Reader) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, c.url+"/fn/hello"+path, body)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestStreamsFlowBothWays(t *testing.T) {
	container := newBackend(t, func(_ *backend, w http.ResponseWriter, r *http.Request) {
		control := http.NewResponseController(w)
		_ = control.EnableFullDuplex()
		if r.URL.Path == "/sized" {
			w.Header().Set("Content-Length", "12")
		}
		w.WriteHeader(200)
		_ = control.Flush()
		in := bufio.NewReader(r.Body)
		for {
			line, err := in.ReadString('\n')
			_, _ = io.WriteString(w, line)
			_ = control.Flush()
			if err != nil {
				return
			}
		}
	})
	everyProtocol(t, newGateway(t, warmRoute(container.address(), "127.0.0.1:1")), func(t *testing.T, c client) {
		for _, path := range []string{"/chunks", "/sized"} {
			body, say := io.Pipe()
			res := c.do(t, c.request(t, "POST", path, body))
			in := bufio.NewReader(res.Body)
			// Each line comes back before the next is said: nobody keeps it.
			for range 2 {
				if _, err := io.WriteString(say, "hello\n"); err != nil {
					t.Fatal(err)
				}
				if line, err := in.ReadString('\n'); err != nil || line != "hello\n" {
					t.Fatalf("%s: got %q, %v", path, line, err)
				}
			}
			say.Close()
			if rest, err := io.ReadAll(in); err != nil || len(rest) > 0 {
				t.Errorf("%s: the end: %q, %v", path, rest, err)
			}
		}
	})
}

func TestEventsArriveOneByOne(t *testing.T) {
	next := make(chan struct{})
	container := newBackend(t, func(_ *backend, w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		w.WriteHeader(200)
		for i := range 3 {
			_ = http.NewResponseController(w).Flush()
			<-next
			fmt.Fprintf(w, "data: %d\n\n", i)
		}
	})
	everyProtocol(t, newGateway(t, warmRoute(container.address(), "127.0.0.1:1")), func(t *testing.T, c client) {
		res := c.do(t, c.request(t, "GET", "", nil)) // which returns before the first event
		in := bufio.NewReader(res.Body)
		for i := range 3 {
			next <- struct{}{}
			line, err := in.ReadString('\n')
			if _, gap := in.ReadString('\n'); errors.Join(err, gap) != nil || line != fmt.Sprintf("data: %d\n", i) {
				t.Fatalf("got %q, %v", line, err)
			}
		}
	})
}

func TestInterimAnswersPass(t *testing.T) {
	container := newBackend(t, func(_ *backend, w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Link", "</style.css>; rel=preload")
		w.Header().Set("Sanfran-Leak", "yes")
		w.WriteHeader(http.StatusEarlyHints)
		w.Header().Del("Link")
		w.Header().Set("X-Final", "yes")
		w.WriteHeader(200)
	})
	everyProtocol(t, newGateway(t, warmRoute(container.address(), "127.0.0.1:1")), func(t *testing.T, c client) {
		var hints []textproto.MIMEHeader
		r := c.request(t, "GET", "", nil)
		r = r.WithContext(httptrace.WithClientTrace(r.Context(), &httptrace.ClientTrace{Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
			if code != http.StatusEarlyHints {
				t.Errorf("interim answer %d", code)
			}
			hints = append(hints, h)
			return nil
		}}))
		res := c.do(t, r)
		if len(hints) != 1 || hints[0].Get("Link") != "</style.css>; rel=preload" || hints[0].Get("Sanfran-Leak") != "" {
			t.Errorf("hints %v", hints)
		}
		if res.StatusCode != 200 || res.Header.Get("X-Final") != "yes" || res.Header.Get("Link") != "" {
			t.Errorf("answer %d %v", res.StatusCode, res.Header)
		}
	})
}

func TestAnswersWithoutABody(t *testing.T) {
	container := newBackend(t, func(_ *backend, w http.ResponseWriter, r *http.Request) {
		w.Header()["Date"] = nil
		switch r.URL.Path {
		case "/none":
			w.WriteHeader(http.StatusNoContent)
		case "/unchanged":
			w.Header().Set("Etag", `"a"`)
			w.WriteHeader(http.StatusNotModified)
		case "/empty":
			w.Header()["Content-Type"] = nil
		default:
			w.Header()["Content-Type"] = nil
			w.Header().Set("Content-Length", "5")
			if r.Method != http.MethodHead {
				_, _ = io.WriteString(w, "<html")
			}
		}
	})
	everyProtocol(t, newGateway(t, warmRoute(container.address(), "127.0.0.1:1")), func(t *testing.T, c client) {
		for _, want := range []struct {
			method, path string
			status       int
			length       int64
			body         string
		}{
			{"HEAD", "/", 200, 5, ""},
			{"GET", "/", 200, 5, "<html"},
			{"GET", "/none", 204, 0, ""},
			{"GET", "/unchanged", 304, 0, ""},
			{"POST", "/empty", 200, 0, ""},
		} {
			res := c.do(t, c.request(t, want.method, want.path, nil))
			body, err := io.ReadAll(res.Body)
			// Of some answers without a body HTTP/2 does not say that the length is 0.
			length := max(res.ContentLength, 0)
			if err != nil || res.StatusCode != want.status || length != want.length || string(body) != want.body {
				t.Errorf("%s %s: %d, %d bytes, %q, %v", want.method, want.path, res.StatusCode, res.ContentLength, body, err)
			}
			if kind, ok := res.Header["Content-Type"]; ok {
				t.Errorf("%s %s: a Content-Type %q of nobody's", want.method, want.path, kind)
			}
		}
	})
}

// TestExpectedContinueIsTheFunctions: the body is sent when the function wants it.
func TestExpectedContinueIsTheFunctions(t *testing.T) {
	container := newBackend(t, func(b *backend, w http.ResponseWriter, r *http.Request) {
		b.executed.Add(1)
		if r.URL.Path == "/no" {
			w.Header().Set("Connection", "close")
			w.WriteHeader(http.StatusForbidden)
			return
		}
		_, _ = io.Copy(w, r.Body) // which says 100
	})
	everyProtocol(t, newGateway(t, warmRoute(container.address(), "127.0.0.1:1")), func(t *testing.T, c client) {
		for path, want := range map[string]int{"/yes": 200, "/no": 403} {
			var read atomic.Bool
			r := c.request(t, "POST", path, io.MultiReader(readerFunc(func([]byte) (int, error) { read.Store(true); return 0, io.EOF }), strings.NewReader("body")))
			r.Header.Set("Expect", "100-continue")
			res := c.do(t, r)
			body, err := io.ReadAll(res.Body)
			if err != nil || res.StatusCode != want || want == 200 && string(body) != "body" {
				t.Errorf("%s: %d %q, %v", path, res.StatusCode, body, err)
			}
			// The HTTP/2 server keeps the expectation from its handlers: there the
			// gateway asks for the body at once.
			if want == 403 && read.Load() && res.ProtoMajor == 1 {
				t.Errorf("%s: the body was sent", path)
			}
		}
	})
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// TestClientsLeavingReachesTheFunction at each moment of a request.
func TestClientsLeavingReachesTheFunction(t *testing.T) {
	here, left := make(chan struct{}), make(chan struct{})
	container := newBackend(t, func(_ *backend, w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/body":
			here <- struct{}{}
			_, _ = io.Copy(io.Discard, r.Body)
		case "/answer":
			w.WriteHeader(200)
			_ = http.NewResponseController(w).Flush()
			fallthrough
		default:
			here <- struct{}{}
			<-r.Context().Done()
		}
		left <- struct{}{}
	})
	everyProtocol(t, newGateway(t, warmRoute(container.address(), "127.0.0.1:1")), func(t *testing.T, c client) {
		for _, path := range []string{"/body", "/wait", "/answer"} {
			ctx, leave := context.WithCancel(t.Context())
			var body io.Reader
			unblock := func() {}
			if path == "/body" {
				r, w := io.Pipe()
				body, unblock = r, func() { w.Close() }
			}
			r := c.request(t, "POST", path, body).WithContext(ctx)
			done := make(chan struct{})
			go func() {
				defer close(done)
				if res, err := c.Do(r); err == nil {
					_, _ = io.Copy(io.Discard, res.Body)
					res.Body.Close()
				}
			}()
			<-here
			leave()
			<-left
			unblock() // the client's own transport waits for its body
			<-done
		}
	})
}

// TestBrokenAnswersAreBroken: a client sees that an answer is not complete.
func TestBrokenAnswersAreBroken(t *testing.T) {
	container := newBackend(t, func(_ *backend, w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "half")
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	})
	everyProtocol(t, newGateway(t, warmRoute(container.address(), "127.0.0.1:1")), func(t *testing.T, c client) {
		res := c.do(t, c.request(t, "GET", "", nil))
		if body, err := io.ReadAll(res.Body); err == nil || string(body) != "half" {
			t.Errorf("got %q, %v", body, err)
		}
	})
}

// TestGigabytesInConstantMemory sends 2 GiB there and back again, with the race
// detector 256 MiB.
func TestGigabytesInConstantMemory(t *testing.T) {
	const size = manyBytes
	container, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer container.Close()
	echoed := make(chan error, 1)
	go func() {
		conn, err := container.Accept()
		if err != nil {
			echoed <- err
			return
		}
		defer conn.Close()
		in := bufio.NewReader(conn)
		r, err := http.ReadRequest(in)
		if err != nil || r.ContentLength != size {
			echoed <- fmt.Errorf("%+v: %w", r, err)
			return
		}
		fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", size)
		early, _ := in.Peek(in.Buffered())
		_, err = conn.Write(early)
		_, copied := io.CopyN(conn, conn, int64(size-len(early))) // by the kernel
		echoed <- errors.Join(err, copied)
	}()
	address := startServer(t, NewServer(ServerConfig{Handler: newGateway(t, warmRoute(container.Addr().String(), "127.0.0.1:1"))}), nil)
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	runtime.GC()
	before := heapBytes()
	go func() {
		fmt.Fprintf(conn, "POST /fn/hello HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n", size)
		block := make([]byte, 1<<20)
		for range size / len(block) {
			if _, err := conn.Write(block); err != nil {
				t.Error(err)
				return
			}
		}
	}()
	in := bufio.NewReader(conn)
	res, err := http.ReadResponse(in, nil)
	if err != nil || res.ContentLength != size {
		t.Fatal(res, err)
	}
	most := heapBytes() - before
	n := int64(in.Buffered())
	for buffer := make([]byte, 1<<20); n < size; {
		m, err := conn.Read(buffer)
		if err != nil {
			t.Fatal(err)
		}
		if (n+int64(m))>>26 > n>>26 { // every 64 MiB
			most = max(most, heapBytes()-before)
		}
		n += int64(m)
	}
	if err := <-echoed; err != nil {
		t.Error(err)
	}
	// The client and its buffers are in it.
	if n != size || most > 32<<20 {
		t.Errorf("%d bytes came back, the heap grew by up to %d", n, most)
	}
	t.Logf("the heap grew by up to %d bytes", most)
}

// TestMegabytesByEveryProtocol sends 64 MiB there and back again in chunks, without a
// length, with the race detector 8 MiB.
func TestMegabytesByEveryProtocol(t *testing.T) {
	const size = manyBytes / 32
	container := newBackend(t, func(_ *backend, w http.ResponseWriter, r *http.Request) {
		if r.ContentLength >= 0 {
			t.Errorf("the container is told of %d bytes", r.ContentLength)
		}
		_ = http.NewResponseController(w).EnableFullDuplex()
		if _, err := io.Copy(w, r.Body); err != nil {
			t.Error(err)
		}
	})
	everyProtocol(t, newGateway(t, warmRoute(container.address(), "127.0.0.1:1")), func(t *testing.T, c client) {
		sent, came := crc32.NewIEEE(), crc32.NewIEEE()
		body, say := io.Pipe()
		said := make(chan error, 1)
		go func() {
			random := rand.NewChaCha8([32]byte{1})
			_, err := io.CopyN(io.MultiWriter(say, sent), random, size)
			said <- errors.Join(err, say.Close())
		}()
		res := c.do(t, c.request(t, "POST", "", body))
		n, err := io.Copy(came, res.Body)
		if err = errors.Join(err, <-said); err != nil || n != size || came.Sum32() != sent.Sum32() || res.ContentLength >= 0 {
			t.Errorf("%d bytes of %d came back, the same ones: %v; length %d, %v", n, size, came.Sum32() == sent.Sum32(), res.ContentLength, err)
		}
	})
}

// heapBytes is the memory of objects, reachable or not yet swept, in bytes.
func heapBytes() int64 {
	sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(sample)
	return int64(sample[0].Value.Uint64())
}

package router

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// TestSilenceOfAnAnswerIsNobodysFault: a client that takes all there is is not cut
// off, however long the function says nothing.
func TestSilenceOfAnAnswerIsNobodysFault(t *testing.T) {
	const stall = 40 * time.Millisecond
	next := make(chan struct{})
	container := newBackend(t, func(_ *backend, w http.ResponseWriter, _ *http.Request) {
		for range next {
			_, _ = io.WriteString(w, "event\n")
			_ = http.NewResponseController(w).Flush()
		}
	})
	table := NewTable()
	mustApply(t, table, snapshotOf(warmRoute(container.address(), "127.0.0.1:1")))
	forwarder := NewForwarder(ForwarderConfig{ClientStall: stall})
	t.Cleanup(forwarder.Close)
	everyProtocol(t, NewGateway(GatewayConfig{Table: table, Forwarder: forwarder}), func(t *testing.T, c client) {
		next = make(chan struct{})
		go func() { next <- struct{}{} }()
		res := c.do(t, c.request(t, "GET", "/", nil))
		in := bufio.NewReader(res.Body)
		for i := range 4 {
			if line, err := in.ReadString('\n'); err != nil || line != "event\n" {
				t.Fatalf("event %d: %q, %v", i, line, err)
			}
			<-time.After(3 * stall)
			if i < 3 {
				next <- struct{}{}
			}
		}
		close(next)
		if rest, err := io.ReadAll(in); len(rest) > 0 || err != nil {
			t.Errorf("the end: %q, %v", rest, err)
		}
	})
}

// takesNothing is a gateway in front of a function that answers more than fits into
// one block, if asked, and tells when it has ended.
func takesNothing(t *testing.T, answer int) (address string, ended chan struct{}) {
	ended = make(chan struct{}, 1<<16)
	gateway := stalling(t, func(_ *backend, w http.ResponseWriter, _ *http.Request) {
		if answer == 0 {
			w.Header().Set("X-Long", strings.Repeat("x", 16<<10))
		}
		_, _ = w.Write(make([]byte, answer))
		ended <- struct{}{}
	})
	return startServer(t, NewServer(ServerConfig{Handler: gateway}), nil), ended
}

// stalling is a gateway in front of a function that soon gives up on who takes nothing.
func stalling(t *testing.T, function func(*backend, http.ResponseWriter, *http.Request)) *Gateway {
	container := newBackend(t, function)
	table := NewTable()
	mustApply(t, table, snapshotOf(warmRoute(container.address(), "127.0.0.1:1")))
	forwarder := NewForwarder(ForwarderConfig{ClientStall: 50 * time.Millisecond})
	t.Cleanup(forwarder.Close)
	return NewGateway(GatewayConfig{Table: table, Forwarder: forwarder})
}

// TestWhoTakesNoByteByHTTP2IsCutOff: a client of HTTP/2 says how much it takes, and may
// say 0.
func TestWhoTakesNoByteByHTTP2IsCutOff(t *testing.T) {
	for _, size := range []int{16, 20 << 20} { // what the server buffers, and the function's end waits for
		address, ended := takesNothing(t, size)
		untilReset(t, address, true)
		<-ended
	}
}

// untilReset asks by HTTP/2 for what it takes no byte of, and returns when that is
// given up. ends says whether the request has an end.
func untilReset(t *testing.T, address string, ends bool) {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	for name, value := range map[string]string{":method": "GET", ":scheme": "http", ":authority": "a", ":path": "/fn/hello"} {
		if err := encoder.WriteField(hpack.HeaderField{Name: name, Value: value}); err != nil {
			t.Fatal(err)
		}
	}
	framer := http2.NewFramer(conn, conn)
	_, err = io.WriteString(conn, http2.ClientPreface)
	if err := errors.Join(err, framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0}),
		framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: ends})); err != nil {
		t.Fatal(err)
	}
	for {
		frame, err := framer.ReadFrame()
		if err != nil {
			t.Fatalf("%v, want that the stream is reset", err)
		}
		if _, ok := frame.(*http2.RSTStreamFrame); ok {
			return
		}
	}
}

// upgraded answers an upgrade and sends what it is told to, if that is anything, and
// tells when its client is gone.
func upgraded(send []byte, ended chan<- struct{}) func(*backend, http.ResponseWriter, *http.Request) {
	return func(_ *backend, w http.ResponseWriter, r *http.Request) {
		defer func() { ended <- struct{}{} }()
		conn, both, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		fmt.Fprintf(both, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", r.Header.Get("Upgrade"))
		_ = both.Flush()
		if _, err := conn.Write(send); err == nil {
			_, _ = io.Copy(io.Discard, conn)
		}
	}
}

// TestWhoTakesNoByteOfATunnelIsCutOff: of a WebSocket on a stream of HTTP/2, however
// little there is to take.
func TestWhoTakesNoByteOfATunnelIsCutOff(t *testing.T) {
	for _, size := range []int{1, 20 << 20} {
		ended := make(chan struct{}, 1)
		gateway := stalling(t, upgraded(make([]byte, size), ended))
		// As the server would have it if the process were told to take extended CONNECT.
		tunnel := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			r.Method, r.Header[":protocol"] = http.MethodConnect, []string{"websocket"}
			gateway.ServeHTTP(w, r)
		})
		untilReset(t, startServer(t, NewServer(ServerConfig{Handler: tunnel}), nil), false)
		<-ended
	}
}

// TestWhoTakesNoByteOfAnUpgradeIsCutOff, by TLS, too.
func TestWhoTakesNoByteOfAnUpgradeIsCutOff(t *testing.T) {
	certFile, keyFile := writeCertificate(t, t.TempDir(), 1)
	certificate, err := LoadCertificate(certFile, keyFile, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	for name, certificate := range map[string]*Certificate{"in the clear": nil, "by TLS": certificate} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ended := make(chan struct{}, 1)
			address := startServer(t, NewServer(ServerConfig{Handler: stalling(t, upgraded(make([]byte, 20<<20), ended))}), certificate)
			conn, err := net.Dial("tcp", address)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if certificate != nil {
				conn = tls.Client(conn, &tls.Config{InsecureSkipVerify: true})
			}
			fmt.Fprint(conn, "GET /fn/hello HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
			select {
			case <-ended:
			case <-time.After(20 * time.Second):
				t.Error("the function still has its client")
			}
		})
	}
}

// TestWhoTakesNoAnswerIsCutOff, also if each of many is short.
func TestWhoTakesNoAnswerIsCutOff(t *testing.T) {
	for _, size := range []int{0, 16 << 10} {
		t.Run(fmt.Sprint(size), func(t *testing.T) { t.Parallel(); takeNothing(t, size) })
	}
}

func takeNothing(t *testing.T, size int) {
	address, _ := takesNothing(t, size)
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	many := []byte(strings.Repeat("GET /fn/hello HTTP/1.1\r\nHost: a\r\n\r\n", 100))
	for err == nil {
		_, err = conn.Write(many)
	}
	if errTimeout(err) != nil {
		t.Error("the connection is still open")
	}
}

// deadlines notes until when an answer may be taken.
type deadlines struct {
	*httptest.ResponseRecorder
	write time.Time
}

func (d *deadlines) SetWriteDeadline(at time.Time) error { d.write = at; return nil }

// TestOwnAnswersAreNotWaitedForLonger than functions' answers.
func TestOwnAnswersAreNotWaitedForLonger(t *testing.T) {
	w := &deadlines{ResponseRecorder: httptest.NewRecorder()}
	WriteProblem(w, httptest.NewRequest("GET", "/", nil), Problem{Status: 404})
	if within := time.Until(w.write); within <= 0 || within > clientStall {
		t.Errorf("an answer of SanFran's own may be taken within %v, want %v", within, clientStall)
	}
}

package router

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// TestUpgradesPassTLS in both directions, each ending by itself.
func TestUpgradesPassTLS(t *testing.T) {
	certFile, keyFile := writeCertificate(t, t.TempDir(), 1)
	certificate, err := LoadCertificate(certFile, keyFile, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	container := newBackend(t, takeOver)
	address := startServer(t, NewServer(ServerConfig{Handler: newGateway(t, warmRoute(container.address(), "127.0.0.1:1"))}), certificate)
	conn, err := tls.Dial("tcp", address, &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "GET /fn/hello HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: echo\r\n\r\nhello\n")
	in := bufio.NewReader(conn)
	res, err := http.ReadResponse(in, nil)
	if err != nil || res.StatusCode != http.StatusSwitchingProtocols {
		t.Fatal(res, err)
	}
	if line, err := in.ReadString('\n'); err != nil || line != "HELLO\n" {
		t.Errorf("got %q, %v", line, err)
	}
	if err := conn.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if rest, err := io.ReadAll(in); err != nil || string(rest) != "bye\n" {
		t.Errorf("after the end: %q, %v", rest, err)
	}
}

// TestWebSocketOverHTTP2 needs GODEBUG=http2xconnect=1 from the start of the
// process, as the chart sets it.
func TestWebSocketOverHTTP2(t *testing.T) {
	if !strings.Contains(os.Getenv("GODEBUG"), "http2xconnect=1") {
		cmd := exec.Command(os.Args[0], "-test.run=^TestWebSocketOverHTTP2$", "-test.v")
		cmd.Env = append(os.Environ(), "GODEBUG=http2xconnect=1")
		if out, err := cmd.CombinedOutput(); err != nil || !bytes.Contains(out, []byte("--- PASS: TestWebSocketOverHTTP2")) {
			t.Errorf("%v: %s", err, out)
		}
		return
	}
	container := newBackend(t, takeOver)
	address := startServer(t, NewServer(ServerConfig{Handler: newGateway(t, warmRoute(container.address(), "127.0.0.1:1"))}), nil)
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	framer := http2.NewFramer(conn, conn)
	framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	open := func(stream uint32, protocol string) {
		var block bytes.Buffer
		encoder := hpack.NewEncoder(&block)
		for _, field := range []hpack.HeaderField{
			{Name: ":method", Value: "CONNECT"}, {Name: ":protocol", Value: protocol}, {Name: ":scheme", Value: "http"},
			{Name: ":authority", Value: "a"}, {Name: ":path", Value: "/fn/hello/chat?q"}, {Name: "sec-websocket-version", Value: "13"},
		} {
			_ = encoder.WriteField(field)
		}
		if err := framer.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: block.Bytes(), EndHeaders: true}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	if err := framer.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	open(1, "websocket")
	if err := framer.WriteData(1, false, []byte("hello\n")); err != nil {
		t.Fatal(err)
	}
	var events []string
	for !slices.Contains(events, "end") {
		frame, err := framer.ReadFrame()
		if err != nil {
			t.Fatal(err, events)
		}
		switch frame := frame.(type) {
		case *http2.SettingsFrame:
			if v, ok := frame.Value(http2.SettingEnableConnectProtocol); !frame.IsAck() && (!ok || v != 1) {
				t.Error("the server does not say that it takes extended CONNECT")
			}
		case *http2.MetaHeadersFrame:
			path := ""
			for _, field := range frame.RegularFields() {
				if field.Name == "x-path" {
					path = field.Value
				}
			}
			events = append(events, frame.PseudoValue("status")+" "+path)
		case *http2.DataFrame:
			if s := string(frame.Data()); s != "" {
				events = append(events, s)
			}
			if string(frame.Data()) == "HELLO\n" {
				if err := framer.WriteData(1, true, nil); err != nil { // the client's half ends
					t.Fatal(err)
				}
			}
			if frame.StreamEnded() {
				events = append(events, "end")
			}
		case *http2.RSTStreamFrame:
			events = append(events, "reset")
		}
	}
	if want := []string{"200 /chat?q", "HELLO\n", "bye\n", "end"}; !slices.Equal(events, want) {
		t.Errorf("got %q, want %q", events, want)
	}
	if container.executed.Load() != 1 {
		t.Errorf("executed %d times", container.executed.Load())
	}
}

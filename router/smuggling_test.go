package router

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// seesAll is a function that answers with what it has seen of its requests so far,
// when it is asked, and else remembers the request.
const seesAll = `
let seen = []
module.exports = (req, res) => {
  if (req.url === '/seen') { res.json(seen); seen = []; return }
  let body = ''
  req.setEncoding('latin1')
  req.on('data', (d) => { body += d })
  req.on('end', () => {
    seen.push([req.method, req.url, body, req.headers['x-evil'] || ''].join('|'))
    res.end('ok')
  })
}`

// TestSmuggling sends bytes that parsers disagree about to a real gateway in front
// of a real worker, with a request behind that is to be seen, or not, as what it is.
// What the function sees is what the gateway understood, and nothing that somebody
// hid in a body or a header is ever a request of its own.
func TestSmuggling(t *testing.T) {
	address, gatewayOf := smugglingTarget(t)
	const (
		get    = "GET /fn/hello/next HTTP/1.1\r\nHost: a\r\n\r\n"
		hidden = "GET /fn/hello/hidden HTTP/1.1\r\nHost: a\r\n\r\n"
		post   = "POST /fn/hello/x HTTP/1.1\r\nHost: a\r\n"
	)
	sized := func(s string) string { return fmt.Sprintf("Content-Length: %d\r\n", len(s)) }
	for name, c := range map[string]struct {
		raw string
		// statuses are those of the answers. After 400 the connection is closed.
		statuses []int
		seen     []string
	}{
		"two requests":               {post + sized("ab") + "\r\nab" + get, []int{200, 200}, []string{"POST|/x|ab|", "GET|/next||"}},
		"CL and TE":                  {post + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n" + get, []int{200, 200}, []string{"POST|/x|a|", "GET|/next||"}},
		"TE and CL, hidden":          {post + "Transfer-Encoding: chunked\r\n" + sized("0\r\n\r\n"+hidden) + "\r\n0\r\n\r\n" + get, []int{200, 200}, []string{"POST|/x||", "GET|/next||"}},
		"TE twice":                   {post + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + hidden, []int{501}, nil},
		"TE identity, chunked":       {post + "Transfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n" + hidden, []int{501}, nil},
		"TE xchunked":                {post + "Transfer-Encoding: xchunked\r\n" + sized(hidden) + "\r\n" + hidden, []int{501}, nil},
		"TE with a tab":              {post + "Transfer-Encoding:\tchunked\r\n" + sized("x") + "\r\n0\r\n\r\n" + get, []int{200, 200}, []string{"POST|/x||", "GET|/next||"}},
		"TE with a vertical tab":     {post + "Transfer-Encoding: \x0bchunked\r\n" + sized(hidden) + "\r\n" + hidden, []int{400}, nil},
		"TE in quotes":               {post + "Transfer-Encoding: \"chunked\"\r\n" + sized(hidden) + "\r\n" + hidden, []int{501}, nil},
		"TE with a space before":     {post + " Transfer-Encoding: chunked\r\n" + sized(hidden) + "\r\n" + hidden, []int{400}, nil},
		"space before colon":         {post + "Transfer-Encoding : chunked\r\n" + sized(hidden) + "\r\n" + hidden, []int{400}, nil},
		"underscore":                 {post + "Transfer_Encoding: chunked\r\n" + sized(hidden) + "\r\n" + hidden + get, []int{200, 200}, []string{"POST|/x|" + hidden + "|", "GET|/next||"}},
		"TE in HTTP/1.0":             {"POST /fn/hello/x HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n" + sized(hidden) + "\r\n" + hidden, []int{200}, []string{"POST|/x|" + hidden + "|"}},
		"CL twice, equal":            {post + sized("ab") + sized("ab") + "\r\nab" + get, []int{200, 200}, []string{"POST|/x|ab|", "GET|/next||"}},
		"CL twice, different":        {post + sized("") + sized(hidden) + "\r\n" + hidden, []int{400}, nil},
		"CL list":                    {post + "Content-Length: 0, 45\r\n\r\n" + hidden, []int{400}, nil},
		"CL with a sign":             {post + "Content-Length: +2\r\n\r\nab" + hidden, []int{400}, nil},
		"CL negative":                {post + "Content-Length: -1\r\n\r\n" + hidden, []int{400}, nil},
		"CL hexadecimal":             {post + "Content-Length: 0x2\r\n\r\nab" + hidden, []int{400}, nil},
		"CL too large":               {post + "Content-Length: 99999999999999999999\r\n\r\n" + hidden, []int{400}, nil},
		"CL empty":                   {post + "Content-Length: \r\n\r\n" + hidden, []int{400}, nil},
		"GET with a body":            {"GET /fn/hello/x HTTP/1.1\r\nHost: a\r\n" + sized(hidden) + "\r\n" + hidden + get, []int{200, 200}, []string{"GET|/x|" + hidden + "|", "GET|/next||"}},
		"obs-fold":                   {post + "X-Evil: a\r\n b\r\n" + sized("") + "\r\n" + get, []int{200, 200}, []string{"POST|/x||a b", "GET|/next||"}},
		"obs-fold of TE":             {post + "Transfer-Encoding:\r\n chunked\r\n" + sized("x") + "\r\n0\r\n\r\n" + get, []int{200, 200}, []string{"POST|/x||", "GET|/next||"}},
		"bare LF":                    {"POST /fn/hello/x HTTP/1.1\nHost: a\nContent-Length: 2\n\nab" + get, []int{200, 200}, []string{"POST|/x|ab|", "GET|/next||"}},
		"bare CR in a value":         {post + "X-Evil: a\rContent-Length: 5\r\n" + sized("") + "\r\n" + hidden, []int{400}, nil},
		"NUL in a value":             {post + "X-Evil: a\x00b\r\n" + sized("") + "\r\n" + hidden, []int{400}, nil},
		"NUL in a name":              {post + "X-\x00Evil: a\r\n" + sized("") + "\r\n" + hidden, []int{400}, nil},
		"NUL in the target":          {"GET /fn/hello/\x00 HTTP/1.1\r\nHost: a\r\n\r\n" + hidden, []int{400}, nil},
		"name without a colon":       {post + "X-Evil\r\n" + sized("") + "\r\n" + hidden, []int{400}, nil},
		"empty name":                 {post + ": a\r\n" + sized("") + "\r\n" + hidden, []int{400}, nil},
		"chunk extension":            {post + "Transfer-Encoding: chunked\r\n\r\n1;a=b\r\na\r\n0;c\r\n\r\n" + get, []int{200, 200}, []string{"POST|/x|a|", "GET|/next||"}},
		"chunk extension with LF":    {post + "Transfer-Encoding: chunked\r\n\r\n1;a\nb\r\n0\r\n\r\n" + hidden, []int{400}, nil},
		"chunk size with 0x":         {post + "Transfer-Encoding: chunked\r\n\r\n0x1\r\na\r\n0\r\n\r\n" + hidden, []int{400}, nil},
		"chunk size with a sign":     {post + "Transfer-Encoding: chunked\r\n\r\n+1\r\na\r\n0\r\n\r\n" + hidden, []int{400}, nil},
		"chunk size too large":       {post + "Transfer-Encoding: chunked\r\n\r\n10000000000000001\r\na\r\n0\r\n\r\n" + hidden, []int{400}, nil},
		"chunk longer than its size": {post + "Transfer-Encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n" + hidden, []int{400}, nil},
		"trailer that frames":        {post + "Transfer-Encoding: chunked\r\nTrailer: Content-Length\r\n\r\n0\r\nContent-Length: 9\r\n\r\n" + hidden, []int{400}, nil},
		"line break in the path":     {"GET /fn/hello/a%0d%0aX-Evil:%20b HTTP/1.1\r\nHost: a\r\n\r\n" + get, []int{200, 200}, []string{"GET|/a%0d%0aX-Evil:%20b||", "GET|/next||"}},
		"space in the target":        {"GET /fn/hello/a b HTTP/1.1\r\nHost: a\r\n\r\n" + hidden, []int{400}, nil},
		"no Host":                    {"GET /fn/hello/x HTTP/1.1\r\n\r\n" + hidden, []int{400}, nil},
		"two Hosts":                  {"GET /fn/hello/x HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n" + hidden, []int{400}, nil},
		"Host with a space":          {"GET /fn/hello/x HTTP/1.1\r\nHost: a b\r\n\r\n" + hidden, []int{400}, nil},
		"absolute form":              {"GET http://evil/fn/hello/x HTTP/1.1\r\nHost: a\r\n\r\n" + get, []int{200, 200}, []string{"GET|/x||", "GET|/next||"}},
		"CONNECT":                    {"CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n" + hidden, []int{400}, nil},
		"version 1.10":               {"GET /fn/hello/x HTTP/1.10\r\nHost: a\r\n\r\n" + hidden, []int{400}, nil},
		"version 9":                  {"GET /fn/hello/x HTTP/9.9\r\nHost: a\r\n\r\n" + hidden, []int{505}, nil},
		"no version":                 {"GET /fn/hello/x\r\n\r\n" + hidden, []int{400}, nil},
		"upgrade to h2c":             {"GET /fn/hello/x HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n" + get, []int{200, 200}, []string{"GET|/x||", "GET|/next||"}},
		"Connection names framing":   {post + "Connection: Content-Length, Sanfran-Lease, Host\r\n" + sized("ab") + "\r\nab" + get, []int{200, 200}, []string{"POST|/x|ab|", "GET|/next||"}},
		"a forged lease":             {"GET /fn/hello/x HTTP/1.1\r\nHost: a\r\nSanfran-Lease: b\r\nsanfran-refused: c\r\n\r\n" + get, []int{200, 200}, []string{"GET|/x||", "GET|/next||"}},
	} {
		t.Run(name, func(t *testing.T) {
			statuses, closed := sendRaw(t, address, c.raw)
			if !slices.Equal(statuses, c.statuses) {
				t.Errorf("answers %v, want %v", statuses, c.statuses)
			}
			if c.statuses[0] >= 400 && !closed {
				t.Error("the connection is still open after a refusal")
			}
			if diff := cmp.Diff(c.seen, gatewayOf(t)); diff != "" {
				t.Errorf("what the function saw (-want +got):\n%s", diff)
			}
		})
	}
}

// smugglingTarget returns the address of a gateway in front of the function
// seesAll, and what asks the function.
func smugglingTarget(t *testing.T) (address string, seen func(t *testing.T) []string) {
	route := realWorker(t, seesAll)
	table := NewTable()
	mustApply(t, table, snapshotOf(route))
	forwarder := NewForwarder(ForwarderConfig{})
	t.Cleanup(forwarder.Close)
	address = startServer(t, NewServer(ServerConfig{Handler: NewGateway(GatewayConfig{Table: table, Forwarder: forwarder})}), nil)
	return address, func(t *testing.T) []string {
		transport := new(http.Transport)
		defer transport.CloseIdleConnections()
		res, err := (&http.Client{Transport: transport}).Get("http://" + address + "/fn/hello/seen")
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		var seen []string
		if err := json.NewDecoder(res.Body).Decode(&seen); err != nil {
			t.Fatal(err)
		}
		if len(seen) == 0 {
			return nil
		}
		return seen
	}
}

// startServer serves on loopback until the test ends.
func startServer(t *testing.T, server *Server, certificate *Certificate) (address string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener, certificate) }()
	t.Cleanup(func() {
		if err := errors.Join(server.Shutdown(t.Context()), <-served); err != nil && !errors.Is(err, t.Context().Err()) {
			t.Error(err)
		}
	})
	return listener.Addr().String()
}

// sendRaw writes bytes and returns the statuses of the answers until nothing more
// comes, and whether the server has closed the connection by itself.
func sendRaw(t *testing.T, address, raw string) (statuses []int, closed bool) {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(conn, raw); err != nil && !errors.Is(err, syscall.EPIPE) && !errors.Is(err, syscall.ECONNRESET) {
		t.Fatal(err)
	}
	in := bufio.NewReader(conn)
	for {
		res, err := http.ReadResponse(in, nil)
		if err != nil {
			return statuses, errTimeout(err) == nil
		}
		_, _ = io.Copy(io.Discard, res.Body)
		statuses = append(statuses, res.StatusCode)
		if len(statuses) == 2 {
			return statuses, false
		}
	}
}

// errTimeout returns err if it is a timeout.
func errTimeout(err error) error {
	if timeout := net.Error(nil); errors.As(err, &timeout) && timeout.Timeout() {
		return err
	}
	return nil
}

// TestSmugglingByHTTP2: what HTTP/2 can carry in a header and HTTP/1.1 cannot.
func TestSmugglingByHTTP2(t *testing.T) {
	address, seen := smugglingTarget(t)
	valid := []hpack.HeaderField{{Name: ":method", Value: "GET"}, {Name: ":scheme", Value: "http"}, {Name: ":authority", Value: "a"}, {Name: ":path", Value: "/fn/hello/x"}}
	with := func(name, value string) []hpack.HeaderField {
		fields := slices.Clone(valid)
		for i := range fields {
			if fields[i].Name == name {
				fields[i].Value = value
				return fields
			}
		}
		return append(fields, hpack.HeaderField{Name: name, Value: value})
	}
	for name, c := range map[string]struct {
		fields []hpack.HeaderField
		want   string // a status, or "reset"
		seen   []string
	}{
		"valid":                  {valid, "200", []string{"GET|/x||"}},
		"line break in a value":  {with("x-evil", "a\r\ntransfer-encoding: chunked"), "reset", nil},
		"NUL in a value":         {with("x-evil", "a\x00b"), "reset", nil},
		"line break in a name":   {with("x-evil: a\r\nx", "b"), "reset", nil},
		"colon in a name":        {with("x-evil:", "b"), "reset", nil},
		"upper case":             {with("X-Evil", "b"), "reset", nil},
		"transfer-encoding":      {with("transfer-encoding", "chunked"), "400", nil},
		"connection":             {with("connection", "upgrade"), "400", nil},
		"content-length":         {with("content-length", "5"), "200", []string{"GET|/x||"}},
		"pseudo-header later":    {append(with("x-evil", "a"), hpack.HeaderField{Name: ":path", Value: "/fn/hello/y"}), "reset", nil},
		"pseudo-header twice":    {append(slices.Clone(valid), hpack.HeaderField{Name: ":path", Value: "/fn/hello/y"}), "reset", nil},
		"unknown pseudo-header":  {append(slices.Clone(valid[:3]), hpack.HeaderField{Name: ":evil", Value: "a"}, valid[3]), "reset", nil},
		"line break in a path":   {with(":path", "/fn/hello/x HTTP/1.1\r\nx-evil: a"), "reset", nil},
		"space in a path":        {with(":path", "/fn/hello/x?a HTTP/1.1"), "400", nil},
		"line break in a method": {with(":method", "GET / HTTP/1.1\r\nx-evil: a\r\n\r\nGET"), "reset", nil},
		"space in a method":      {with(":method", "GET /hidden"), "400", nil},
		"space in a host":        {with(":authority", "a b"), "400", nil},
		"path in a host":         {with(":authority", "a/b"), "400", nil},
		"line break in a host":   {with(":authority", "a\r\nx-evil: b"), "reset", nil},
		"CONNECT":                {[]hpack.HeaderField{{Name: ":method", Value: "CONNECT"}, {Name: ":authority", Value: "a:80"}}, "400", nil},
	} {
		t.Run(name, func(t *testing.T) {
			if got := sendFields(t, address, c.fields); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
			if diff := cmp.Diff(c.seen, seen(t)); diff != "" {
				t.Errorf("what the function saw (-want +got):\n%s", diff)
			}
		})
	}
}

// sendFields sends one request of HTTP/2 without a body and returns its status, or
// "reset" if the stream or the connection is broken off.
func sendFields(t *testing.T, address string, fields []hpack.HeaderField) string {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	framer := http2.NewFramer(conn, conn)
	framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	for _, field := range fields {
		if err := encoder.WriteField(field); err != nil {
			t.Fatal(err)
		}
	}
	_, err = io.WriteString(conn, http2.ClientPreface)
	if err := errors.Join(err, framer.WriteSettings(), framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: true})); err != nil {
		t.Fatal(err)
	}
	for {
		frame, err := framer.ReadFrame()
		if err != nil {
			if errTimeout(err) != nil {
				t.Fatal("no answer")
			}
			return "reset"
		}
		switch frame := frame.(type) {
		case *http2.MetaHeadersFrame:
			return strings.Clone(frame.PseudoValue("status"))
		case *http2.RSTStreamFrame:
			return "reset"
		case *http2.GoAwayFrame:
			if frame.ErrCode != http2.ErrCodeNo { // else an answer follows
				return "reset"
			}
		}
	}
}

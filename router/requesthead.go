package router

import (
	"net/http"
	"net/textproto"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/net/http/httpguts"
)

// heads lends the buffers that request heads are written into.
var heads = sync.Pool{New: func() any { b := make([]byte, 0, 2<<10); return &b }}

// hopByHop are the headers that end at each hop (RFC 9110, section 7.6.1), and
// those that the head's writer makes itself.
func hopByHop(name string) bool {
	switch name {
	case "Connection", "Proxy-Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization",
		"Te", "Trailer", "Transfer-Encoding", "Upgrade", "Http2-Settings":
		return true
	}
	return false
}

// named reports whether a word is in a header's list of words.
func named(list []string, word string) bool {
	for _, value := range list {
		for token := range strings.SplitSeq(value, ",") {
			if strings.EqualFold(textproto.TrimString(token), word) {
				return true
			}
		}
	}
	return false
}

// namedByConnection are the headers that a Connection header names and that end at this
// hop for it alone, by their canonical names. Nearly always it is nil. Who writes the
// header may name as many as fit into it, so that it is read once.
func namedByConnection(connection []string) map[string]bool {
	var names map[string]bool
	for _, value := range connection {
		for token := range strings.SplitSeq(value, ",") {
			token = textproto.TrimString(token)
			if token == "" || strings.EqualFold(token, "keep-alive") || strings.EqualFold(token, "close") || strings.EqualFold(token, "upgrade") {
				continue
			}
			if names == nil {
				names = make(map[string]bool)
			}
			names[http.CanonicalHeaderKey(token)] = true
		}
	}
	return names
}

// upgradeOf returns the protocol a request or response changes to, or "". One to
// HTTP/2 is between a client and its next hop, and is not passed on: what went
// through it would pass by everything that a gateway does.
func upgradeOf(h http.Header) string {
	values, ok := h["Upgrade"]
	if !ok || !httpguts.HeaderValuesContainsToken(h["Connection"], "Upgrade") {
		return ""
	}
	if len(values) != 1 || values[0] == "" || named(values, "h2c") || !httpguts.ValidHeaderFieldValue(values[0]) {
		return ""
	}
	return values[0]
}

// appendHead appends the request line and the headers of the attempt. Whatever
// would end a line early was refused by unsendable or by the server that parsed
// the request; appendValue does not rely on it.
func (x *Exchange) appendHead(b []byte, body *attemptBody) []byte {
	r := x.r
	method := r.Method
	if x.tunnel {
		method = http.MethodGet
	}
	b = append(b, method...)
	b = append(b, ' ')
	b = x.appendTarget(b)
	b = append(b, " HTTP/1.1\r\nHost: "...)
	if r.Host != "" {
		b = appendValue(b, r.Host)
	} else {
		b = append(b, x.upstream.Address...)
	}
	b = append(b, "\r\n"...)
	ending := namedByConnection(r.Header["Connection"])
	// A client does not take away what is written into logs and traces of it.
	delete(ending, HeaderRequestID)
	delete(ending, headerTraceparent)
	for name, values := range r.Header {
		if hopByHop(name) || name == "Content-Length" || name == "Host" || isFamily(name, headerPrefix) ||
			x.opts.Edge && x.dropsForwarded(name) ||
			name == ":protocol" || // HTTP/2's, which Go puts among the headers
			ending[name] {
			continue
		}
		for _, value := range values {
			b = appendField(b, name, value)
		}
	}
	if named(r.Header["Te"], "trailers") {
		b = append(b, "TE: trailers\r\n"...)
	}
	if x.opts.Edge {
		b = x.appendForwarded(b)
	}
	switch {
	case x.upgrade != "":
		b = append(b, "Connection: Upgrade\r\n"...)
		b = appendField(b, "Upgrade", x.upgrade)
		if x.tunnel {
			b = appendField(b, "Sec-WebSocket-Key", webSocketKey())
		}
	case body != nil && r.ContentLength > 0:
		b = append(b, "Content-Length: "...)
		b = strconv.AppendInt(b, r.ContentLength, 10)
		b = append(b, "\r\n"...)
	case body != nil:
		b = append(b, "Transfer-Encoding: chunked\r\n"...)
		for _, name := range x.body.announced {
			b = appendField(b, "Trailer", name)
		}
	case r.Method == http.MethodPost || r.Method == http.MethodPut || r.Method == http.MethodPatch:
		b = append(b, "Content-Length: 0\r\n"...)
	}
	if x.upstream.Lease != "" {
		b = appendField(b, HeaderLease, x.upstream.Lease)
	}
	if x.opts.Client != "" {
		b = appendField(b, HeaderClient, x.opts.Client)
	}
	if x.upstream.Wait > 0 {
		b = appendField(b, HeaderWait, strconv.FormatInt(max(x.upstream.Wait.Milliseconds(), 1), 10))
	}
	if x.upstream.Pod != "" {
		b = appendField(b, HeaderPod, x.upstream.Pod)
		b = appendField(b, HeaderRevision, x.upstream.Revision)
	}
	return append(b, "\r\n"...)
}

// appendTarget appends path and query, as the client wrote them.
func (x *Exchange) appendTarget(b []byte) []byte {
	u := x.r.URL
	switch {
	case x.opts.Path != "":
		b = append(b, x.opts.Path...)
	case x.r.Method == http.MethodOptions && u.Path == "*":
		return append(b, '*')
	case u.Path == "":
		b = append(b, '/')
	default:
		b = append(b, u.EscapedPath()...)
	}
	if u.RawQuery != "" || u.ForceQuery {
		b = append(b, '?')
		b = append(b, u.RawQuery...)
	}
	return b
}

// unsendable returns why a request cannot be one of HTTP/1.1, or nil.
func (x *Exchange) unsendable() *Problem {
	if x.r.Method == http.MethodConnect && !x.tunnel {
		return noProxy()
	}
	// HTTP/2 can carry bytes that would end method, path or query in a request line.
	if !httpguts.ValidHeaderFieldName(x.r.Method) { // a token, too
		return &Problem{Status: http.StatusBadRequest, Code: "BadMethod", Message: "the request's method is no word"}
	}
	if x.r.ProtoMajor > 1 && !httpguts.ValidHostHeader(x.r.Host) { // net/http looks at HTTP/1's
		return &Problem{Status: http.StatusBadRequest, Code: "BadHost", Message: "the request's host is none"}
	}
	if ends(x.opts.Path) || ends(x.r.URL.RawQuery) {
		return &Problem{
			Status: http.StatusBadRequest, Code: "BadTarget",
			Message: "the request's path or query has a space or a control character; they are written as %20 and the like",
		}
	}
	return nil
}

func noProxy() *Problem {
	return &Problem{Status: http.StatusBadRequest, Code: "NoProxy", Message: "CONNECT is for proxies; functions are called by other methods"}
}

func ends(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] == 0x7f {
			return true
		}
	}
	return false
}

func appendField(b []byte, name, value string) []byte {
	b = append(b, name...)
	b = append(b, ": "...)
	b = appendValue(b, value)
	return append(b, "\r\n"...)
}

// appendValue appends a header's value, in which nothing ends the line.
func appendValue(b []byte, value string) []byte {
	from := len(b)
	b = append(b, value...)
	for i := from; i < len(b); i++ {
		if c := b[i]; c == '\r' || c == '\n' || c == 0 {
			b[i] = ' '
		}
	}
	return b
}

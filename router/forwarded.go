package router

import (
	"net"
	"net/http"
	"net/netip"
	"strings"
)

const forwardedPrefix = "X-Forwarded-"

// dropsForwarded reports whether a header says who the client is without being
// believed, or is made anew by appendForwarded.
func (x *Exchange) dropsForwarded(name string) bool {
	if !x.opts.Trusted {
		return name == "Forwarded" || isFamily(name, forwardedPrefix)
	}
	switch name {
	case "Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-Prefix":
		return true
	}
	return false
}

// appendForwarded says who the client is. What a client says itself is dropped, as
// anybody could write it; what a trusted proxy says is continued: its list of
// addresses gets its own, and the host and protocol that the client used are those
// that it names.
func (x *Exchange) appendForwarded(b []byte) []byte {
	r := x.r
	proto := "http"
	if r.TLS != nil {
		proto = "https"
	}
	host, prefix := r.Host, x.opts.Prefix
	peer := peerOf(r)
	chain := peer
	if x.opts.Trusted {
		if prior := r.Header["X-Forwarded-For"]; len(prior) > 0 {
			chain = strings.Join(prior, ", ") + ", " + peer
		}
		if prior := r.Header.Get("X-Forwarded-Host"); prior != "" {
			host = prior
		}
		if prior := r.Header.Get("X-Forwarded-Proto"); prior != "" {
			proto = prior
		}
		prefix = strings.TrimSuffix(r.Header.Get("X-Forwarded-Prefix"), "/") + prefix
		if prior := r.Header["Forwarded"]; len(prior) > 0 {
			b = appendField(b, "Forwarded", strings.Join(prior, ", ")+", for="+forwardedNode(peer))
		}
	}
	if chain != "" {
		b = appendField(b, "X-Forwarded-For", chain)
	}
	b = appendField(b, "X-Forwarded-Host", host)
	b = appendField(b, "X-Forwarded-Proto", proto)
	if prefix != "" {
		b = appendField(b, "X-Forwarded-Prefix", prefix)
	}
	return b
}

// seenByClient says whether the client has come by HTTPS, and what was taken off its
// path before the request came here, by the words of a trusted proxy.
func seenByClient(r *http.Request, trusted bool) (https bool, prefix string) {
	https = r.TLS != nil
	if !trusted {
		return https, ""
	}
	if prior := r.Header.Get("X-Forwarded-Proto"); prior != "" {
		first, _, _ := strings.Cut(prior, ",")
		https = strings.EqualFold(strings.TrimSpace(first), "https")
	}
	return https, strings.TrimSuffix(r.Header.Get("X-Forwarded-Prefix"), "/")
}

// peerOf is the IP address of who connects, "" if there is none.
func peerOf(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return ""
	}
	return host
}

// forwardedNode writes an address as RFC 7239 does, section 6.
func forwardedNode(address string) string {
	switch {
	case address == "":
		return "unknown"
	case strings.Contains(address, ":"):
		return `"[` + address + `]"`
	}
	return address
}

// trusts reports whether a request comes from one of the proxies that are believed.
func (g *Gateway) trusts(r *http.Request) bool {
	if len(g.cfg.TrustedProxies) == 0 {
		return false
	}
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return false
	}
	for _, prefix := range g.cfg.TrustedProxies {
		if prefix.Contains(peer.Addr().Unmap().WithZone("")) {
			return true
		}
	}
	return false
}

package router

import (
	"crypto/rand"
	"encoding/hex"
	mathrand "math/rand/v2"
	"net/http"
	"strings"

	routesv1 "sanfran.dev/proto/sanfran/routes/v1"
)

// split gives parts of a function's requests to others of its namespace. It is
// immutable.
//
// A request falls into one of 100 buckets: at random, or by the hash of what tells
// its client from others. The parts take the buckets from the first on, in the order
// they were written, so that a part that grows keeps the clients it had, as long as
// those before it keep their size.
type split struct {
	names [100]string // by bucket; empty: the function itself
	// header is the canonical name of the header, cookie the name of the cookie that
	// makes clients stick.
	header, cookie string
}

// newSplit reads a split; nil if it gives nothing away.
func newSplit(s *routesv1.Split) *split {
	made := &split{header: http.CanonicalHeaderKey(s.GetHeader()), cookie: s.GetCookie()}
	bucket := 0
	for _, part := range s.GetParts() {
		for n := part.GetPercent(); n > 0 && bucket < len(made.names); n-- {
			made.names[bucket] = part.GetFunction()
			bucket++
		}
	}
	if bucket == 0 {
		return nil
	}
	return made
}

// choose returns the name of the function that gets the request, empty for the one
// that was asked for. It does not allocate, but for a new cookie: that is what the
// client shall be told, empty if nothing.
func (s *split) choose(r *http.Request) (name, cookie string) {
	switch {
	case s.header != "":
		// A client without the header cannot be told from others.
		if value := headerOf(r, s.header); value != "" {
			return s.names[bucketOf(value)], ""
		}
	case s.cookie != "":
		if value := cookieOf(r, s.cookie); value != "" {
			return s.names[bucketOf(value)], ""
		}
		var id [12]byte
		_, _ = rand.Read(id[:]) // never fails, see crypto/rand
		value := hex.EncodeToString(id[:])
		return s.names[bucketOf(value)], value
	}
	return s.names[mathrand.IntN(len(s.names))], ""
}

// bucketOf is the same in every gateway: FNV-1a, mixed, as its low bits alone are
// poor for values that differ in their last character.
func bucketOf(value string) int {
	const offset, prime = 14695981039346656037, 1099511628211
	h := uint64(offset)
	for i := range len(value) {
		h = (h ^ uint64(value[i])) * prime
	}
	h ^= h >> 33
	h *= 0xff51afd7ed558ccd // the finalizer of MurmurHash3
	h ^= h >> 33
	return int(h % 100)
}

// headerOf returns the first value of a header. net/http keeps Host beside the others.
func headerOf(r *http.Request, name string) string {
	if name == "Host" {
		return r.Host
	}
	if values := r.Header[name]; len(values) > 0 {
		return values[0]
	}
	return ""
}

// cookieOf finds a cookie's value. [http.Request.Cookie] parses all of them and
// allocates.
func cookieOf(r *http.Request, name string) string {
	for _, line := range r.Header["Cookie"] {
		for line != "" {
			var pair string
			pair, line, _ = strings.Cut(line, ";")
			if key, value, ok := strings.Cut(strings.TrimSpace(pair), "="); ok && key == name {
				return value
			}
		}
	}
	return ""
}

// stickyCookie is what a client is told so that it comes back to the same function
// (RFC 6265): for the browser's session, and for the path of the function alone, as
// the client sees it. It is empty if the client would not take the cookie.
func stickyCookie(r *http.Request, to *target, trusted bool) string {
	https, prefix := seenByClient(r, trusted)
	// Names that begin so promise what the cookie is (draft-ietf-httpbis-rfc6265bis,
	// section 4.1.3). Clients take no other of that name, nor one by plain HTTP.
	wholeHost := isFamily(to.cookie, "__Host-")
	secure := wholeHost || isFamily(to.cookie, "__Secure-") || isFamily(to.cookie, "__Http-")
	if secure && !https {
		return ""
	}
	path := prefix + to.prefix
	if wholeHost || path == "" {
		path = "/"
	}
	//nolint:gosec // G124: it is no secret, and clients that come by plain HTTP stick, too
	c := http.Cookie{Name: to.cookie, Value: to.sticky, Path: path, HttpOnly: true, Secure: secure, SameSite: http.SameSiteLaxMode}
	return c.String()
}

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
		if values := r.Header[s.header]; len(values) > 0 && values[0] != "" {
			return s.names[bucketOf(values[0])], ""
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

// stickyCookie is what the client is told so that it comes back to the same function
// (RFC 6265): for the browser's session, and for the path of the function alone.
func stickyCookie(name, value, prefix string) string {
	c := http.Cookie{Name: name, Value: value, Path: prefix, HttpOnly: true, SameSite: http.SameSiteLaxMode}
	if prefix == "" {
		c.Path = "/"
	}
	return c.String()
}

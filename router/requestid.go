package router

import (
	"crypto/rand"
	"encoding/hex"
	"net/http"
)

// HeaderRequestID names a request in logs, in error bodies and in the answer. A
// client's own is kept.
const HeaderRequestID = "X-Request-Id"

// maxRequestID is the longest name of a client's that is kept, in bytes.
const maxRequestID = 128

// EnsureRequestID gives a request a name where it enters SanFran, unless the
// client gave it one that is fit to be written into logs.
func EnsureRequestID(r *http.Request) {
	if given := r.Header[HeaderRequestID]; len(given) == 1 && validRequestID(given[0]) {
		return
	}
	var id [16]byte
	randomBytes(id[:])
	r.Header[HeaderRequestID] = []string{hex.EncodeToString(id[:])}
}

// randomBytes fills b with what nobody can guess.
func randomBytes(b []byte) {
	_, _ = rand.Read(b) // never fails, see crypto/rand
}

// validRequestID accepts visible ASCII without quotes.
func validRequestID(id string) bool {
	if len(id) == 0 || len(id) > maxRequestID {
		return false
	}
	for i := range len(id) {
		if c := id[i]; c <= ' ' || c > '~' || c == '"' || c == '\\' {
			return false
		}
	}
	return true
}

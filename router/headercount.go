package router

import (
	"fmt"
	"net/http"
)

// maxHeaders is how many headers of different names a request may have: as many as
// Node.js takes.
const maxHeaders = 1000

// headerMemory is what net/http takes for each beside its own bytes, as it says itself
// (mimeHeaderOverhead in net/textproto).
const headerMemory = 100

// FewHeaders answers requests of more than 1,000 headers with 431. Short ones take twenty
// times their size of memory, for as long as their request is there, which a limit of
// their size allows.
func FewHeaders(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if len(r.Header) <= maxHeaders {
			next.ServeHTTP(w, r)
			return
		}
		EnsureRequestID(r)
		w.Header().Set("Connection", "close")
		WriteProblem(w, r, Problem{
			Status: http.StatusRequestHeaderFieldsTooLarge, Code: "TooManyHeaders",
			Message: fmt.Sprintf("the request has %d headers; %d are the most", len(r.Header), maxHeaders),
		})
	})
}

// memoryOf is what a request's headers take, in bytes.
func memoryOf(h http.Header) (bytes int64) {
	for name, values := range h {
		bytes += headerMemory + int64(len(name))
		for _, value := range values {
			bytes += int64(len(value))
		}
	}
	return bytes
}

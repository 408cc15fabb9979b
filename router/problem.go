package router

import (
	"encoding/json"
	"net/http"
	"strconv"
	"time"
)

// Problem is an answer that SanFran itself gives instead of a function. It is
// sent as JSON: {"error":{"code":…,"message":…,"requestId":…}}.
type Problem struct {
	// Status is the HTTP status code.
	Status int
	// Code is one CamelCase word for programs.
	Code string
	// Message says what failed, with which input, and what to do.
	Message string
	// RetryAfter, if not zero, is sent as the header of that name, in seconds
	// rounded up (RFC 9110, section 10.2.3).
	RetryAfter time.Duration
}

// WriteProblem answers a request with a problem.
func WriteProblem(w http.ResponseWriter, r *http.Request, p Problem) {
	type body struct {
		Code      string `json:"code"`
		Message   string `json:"message"`
		RequestID string `json:"requestId,omitempty"`
	}
	id := r.Header.Get(HeaderRequestID)
	data, err := json.Marshal(map[string]body{"error": {p.Code, p.Message, id}})
	if err != nil {
		// Three strings always marshal.
		panic(err)
	}
	h := w.Header()
	data = append(data, '\n')
	h.Set("Content-Type", "application/json; charset=utf-8")
	h.Set("Content-Length", strconv.Itoa(len(data)))
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	if id != "" {
		h.Set(HeaderRequestID, id)
	}
	if p.RetryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(int((p.RetryAfter+time.Second-1)/time.Second)))
	}
	// Or a client that takes nothing would hold the request for ever.
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(clientStall)) // not of writers in tests
	w.WriteHeader(p.Status)
	if r.Method != http.MethodHead {
		_, _ = w.Write(data) // the client may be gone; nobody is left to tell
	}
}

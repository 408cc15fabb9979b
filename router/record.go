package router

import (
	"bufio"
	"net"
	"net/http"
)

// record is the response writer of one request at a gateway, and what is told of
// the request when it has ended. It belongs to the request's goroutine.
type record struct {
	http.ResponseWriter
	status int   // 0: none was written
	bytes  int64 // of the answer's body; of an upgrade none
	// key is the function that was asked for, zero if there is none of that name.
	key     FunctionKey
	metrics *functionMetrics // of key; nil without metrics
	// attempts counts how often the request was offered to an upstream; outcomes
	// those that did not answer.
	attempts int
	outcomes [outcomeCount]uint8
	cold     bool // of [Traced], its pod was parked
}

// recordOf returns the record that a response writer is, or nil.
func recordOf(w http.ResponseWriter) *record {
	rec, _ := w.(*record)
	return rec
}

// attempt notes that an attempt begins, attempted how it ended: not at all, if the
// answer is broken off by a panic. A nil record notes nothing.
func (rec *record) attempt() {
	if rec != nil {
		rec.attempts++
	}
}

func (rec *record) attempted(outcome Outcome) {
	if rec != nil {
		rec.outcomes[outcome]++
	}
}

// asks notes the function that a request is for.
func (rec *record) asks(key FunctionKey, m *Metrics) {
	rec.key = key
	rec.metrics = m.of(key)
	rec.metrics.begin()
}

// WriteHeader implements http.ResponseWriter.
func (rec *record) WriteHeader(status int) {
	if rec.status == 0 && (status >= 200 || status == http.StatusSwitchingProtocols) {
		rec.status = status
	}
	rec.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (rec *record) Write(p []byte) (int, error) {
	if rec.status == 0 {
		rec.status = http.StatusOK
	}
	n, err := rec.ResponseWriter.Write(p)
	rec.bytes += int64(n)
	return n, err
}

// Hijack implements http.Hijacker; the connection has been upgraded then.
func (rec *record) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buffered, err := http.NewResponseController(rec.ResponseWriter).Hijack()
	if err == nil && rec.status == 0 {
		rec.status = http.StatusSwitchingProtocols
	}
	return conn, buffered, err
}

// Unwrap lets http.ResponseController reach flushing.
func (rec *record) Unwrap() http.ResponseWriter { return rec.ResponseWriter }

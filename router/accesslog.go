package router

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"
)

const (
	// accessLogEvery is how long a line waits to be written at the most.
	accessLogEvery = 100 * time.Millisecond
	// accessLogBuffer is how many bytes of lines wait while the writer is slow.
	// Beyond them lines are dropped, and counted: a log stops no request.
	accessLogBuffer = 1 << 20
)

// AccessLog writes one line of JSON for each request that has ended. Lines are
// gathered and written by [AccessLog.Run]; a request appends to a buffer. A nil
// *AccessLog writes nothing. It is safe for concurrent use.
type AccessLog struct {
	to  io.Writer
	log *slog.Logger

	mu      sync.Mutex
	lines   []byte
	dropped int64
	// full is signalled when it is worth to write before the time.
	full chan struct{}

	droppedAll atomic.Int64
}

// NewAccessLog returns an AccessLog that writes to a writer.
func NewAccessLog(to io.Writer, log *slog.Logger) *AccessLog {
	return &AccessLog{to: to, log: log, full: make(chan struct{}, 1)}
}

// Dropped is how many lines were not written because the writer was too slow.
func (l *AccessLog) Dropped() int64 {
	if l == nil {
		return 0
	}
	return l.droppedAll.Load()
}

// Run writes lines until ctx ends, and those that are left then. It is called once.
func (l *AccessLog) Run(ctx context.Context) error {
	ticker := time.NewTicker(accessLogEvery)
	defer ticker.Stop()
	spare := make([]byte, 0, accessLogBuffer/8)
	for {
		over := false
		select {
		case <-ctx.Done():
			over = true
		case <-ticker.C:
		case <-l.full:
		}
		l.mu.Lock()
		lines, dropped := l.lines, l.dropped
		l.lines, l.dropped = spare[:0], 0
		l.mu.Unlock()
		if dropped > 0 {
			l.log.Warn("lines of the access log were dropped, who reads it is too slow", "lines", dropped)
		}
		if len(lines) > 0 {
			if _, err := l.to.Write(lines); err != nil {
				l.log.Error("the access log is not written", "err", err)
			}
		}
		if spare = lines; over {
			return nil
		}
	}
}

// add appends the line of one request.
func (l *AccessLog) add(start time.Time, r *http.Request, rec *record, cold bool) {
	if l == nil {
		return
	}
	took := time.Since(start)
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.lines) >= accessLogBuffer {
		l.dropped++
		l.droppedAll.Add(1)
		return
	}
	b := append(l.lines, `{"time":"`...)
	b = start.UTC().AppendFormat(b, "2006-01-02T15:04:05.000000Z07:00")
	b = append(b, `","method":`...)
	b = appendJSON(b, r.Method)
	b = append(b, `,"host":`...)
	b = appendJSON(b, r.Host)
	b = append(b, `,"path":`...)
	b = appendJSON(b, r.URL.Path)
	b = append(b, `,"proto":`...)
	b = appendJSON(b, r.Proto)
	b = append(b, `,"status":`...)
	b = strconv.AppendInt(b, int64(rec.status), 10)
	b = append(b, `,"bytes":`...)
	b = strconv.AppendInt(b, rec.bytes, 10)
	b = append(b, `,"ms":`...)
	b = strconv.AppendFloat(b, float64(took.Microseconds())/1000, 'f', 3, 64)
	if rec.key != (FunctionKey{}) {
		b = append(b, `,"namespace":`...)
		b = appendJSON(b, rec.key.Namespace)
		b = append(b, `,"function":`...)
		b = appendJSON(b, rec.key.Name)
		b = append(b, `,"cold":`...)
		b = strconv.AppendBool(b, cold)
		b = append(b, `,"attempts":`...)
		b = strconv.AppendInt(b, int64(rec.attempts), 10)
	}
	b = append(b, `,"client":`...)
	b = appendJSON(b, peerOf(r))
	b = append(b, `,"userAgent":`...)
	b = appendJSON(b, r.UserAgent())
	b = append(b, `,"requestId":`...)
	b = appendJSON(b, r.Header.Get(HeaderRequestID))
	b = append(b, `,"traceparent":`...)
	b = appendJSON(b, r.Header.Get(headerTraceparent))
	l.lines = append(b, "}\n"...)
	if len(l.lines) > accessLogBuffer/16 {
		select {
		case l.full <- struct{}{}:
		default:
		}
	}
}

const hexDigits = "0123456789abcdef"

// appendJSON appends a string of a client's as a JSON string: on one line, and
// valid whatever it is.
func appendJSON(b []byte, s string) []byte {
	b = append(b, '"')
	for i := 0; i < len(s); {
		c := s[i]
		switch {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c < ' ' || c == 0x7f:
			b = append(b, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
		case c < utf8.RuneSelf:
			b = append(b, c)
		default:
			r, size := utf8.DecodeRuneInString(s[i:])
			if r == utf8.RuneError && size == 1 || r == '\u2028' || r == '\u2029' {
				b = append(b, `\ufffd`...)
			} else {
				b = append(b, s[i:i+size]...)
			}
			i += size
			continue
		}
		i++
	}
	return append(b, '"')
}

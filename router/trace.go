package router

import (
	"context"
	"net/http"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

const (
	headerTraceparent = "Traceparent"
	headerTracestate  = "Tracestate"
)

// hasTrace reports whether a request belongs to a trace, by W3C Trace Context. What
// is not well formed is taken off.
func hasTrace(r *http.Request) bool {
	if given := r.Header[headerTraceparent]; len(given) == 1 && validTraceparent(given[0]) {
		return true
	}
	delete(r.Header, headerTraceparent)
	delete(r.Header, headerTracestate)
	return false
}

// newTraceparent is "00-<trace>-<span>-00", with random ids.
func newTraceparent() string {
	var id [24]byte
	randomBytes(id[:])
	b := make([]byte, 0, 55)
	b = append(b, "00-"...)
	b = appendHex(b, id[:16])
	b = append(b, '-')
	b = appendHex(b, id[16:])
	return string(append(b, "-00"...))
}

func appendHex(b, bytes []byte) []byte {
	for _, c := range bytes {
		b = append(b, hexDigits[c>>4], hexDigits[c&15])
	}
	return b
}

// validTraceparent accepts what version 00 defines, and later versions that begin
// like it.
func validTraceparent(s string) bool {
	if len(s) < 55 || s[2] != '-' || s[35] != '-' || s[52] != '-' || s[:2] == "ff" || len(s) > 55 && (s[:2] == "00" || s[55] != '-') {
		return false
	}
	return isHex(s[:2]) && isHex(s[53:55]) && isID(s[3:35]) && isID(s[36:52])
}

func isHex(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// isID reports whether s is hexadecimal and not 0, which is no id.
func isID(s string) bool {
	for i := range len(s) {
		if s[i] != '0' {
			return isHex(s)
		}
	}
	return false
}

// startSpan begins the span of a request. Without a tracer it returns nil; the function
// then gets the client's own traceparent or, if there is none, a new one that is not
// sampled, so that it and what it calls name the request in the same way whoever called
// it.
func (g *Gateway) startSpan(r *http.Request) trace.Span {
	traced := hasTrace(r)
	if g.cfg.Tracer == nil {
		if !traced {
			r.Header[headerTraceparent] = []string{newTraceparent()}
		}
		return nil
	}
	return startSpan(g.cfg.Tracer, r)
}

// Traced makes a span of each request that a handler serves beside a [Gateway], where
// requests enter SanFran. The handler says by [Serves] what it is for. Without a tracer
// there are no spans, and the handler is returned as it is.
func Traced(tracer trace.Tracer, handler http.HandlerFunc) http.HandlerFunc {
	if tracer == nil {
		return handler
	}
	return func(w http.ResponseWriter, r *http.Request) {
		EnsureRequestID(r)
		hasTrace(r)
		rec := &record{ResponseWriter: w}
		span := startSpan(tracer, r)
		defer func() { endSpan(span, rec, "", rec.cold) }() // also of an answer that is broken off
		handler(rec, r)
	}
}

// Serves says which function a request of [Traced] is for, and whether its pod was
// parked when the request came.
func Serves(w http.ResponseWriter, key FunctionKey, cold bool) {
	if rec := recordOf(w); rec != nil {
		rec.key, rec.cold = key, cold
	}
}

// startSpan begins the span of a request, a child of the client's, and names it to the
// function as its parent.
func startSpan(tracer trace.Tracer, r *http.Request) trace.Span {
	carrier := propagation.HeaderCarrier(r.Header)
	ctx := propagation.TraceContext{}.Extract(context.WithoutCancel(r.Context()), carrier)
	ctx, span := tracer.Start(ctx, r.Method, trace.WithSpanKind(trace.SpanKindServer), trace.WithAttributes(
		attribute.String("http.request.method", r.Method),
		attribute.String("url.path", r.URL.Path),
		attribute.String("server.address", r.Host),
		attribute.String("network.protocol.version", r.Proto),
		attribute.String("sanfran.request_id", r.Header.Get(HeaderRequestID)),
	))
	propagation.TraceContext{}.Inject(ctx, carrier)
	return span
}

// endSpan ends the span of a request that has ended. One that was for a function is
// called by its name, after what stands in front of that in the path.
func endSpan(span trace.Span, rec *record, prefix string, cold bool) {
	if span == nil {
		return
	}
	if rec.key != (FunctionKey{}) {
		span.SetName(prefix + rec.key.Name)
		span.SetAttributes(
			attribute.String("sanfran.namespace", rec.key.Namespace),
			attribute.String("sanfran.function", rec.key.Name),
			attribute.Bool("sanfran.cold", cold),
			attribute.Int("sanfran.attempts", rec.attempts),
		)
	}
	span.SetAttributes(attribute.Int("http.response.status_code", rec.status))
	if rec.status >= 500 || rec.status == 0 {
		span.SetStatus(codes.Error, "")
	}
	span.End()
}

package main

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// TestTracingFollowsTheEnvironment: nothing without an endpoint; with one, spans are
// sent there, the last ones at the end.
func TestTracingFollowsTheEnvironment(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	if tracer, part, err := tracing(t.Context(), log, "test"); tracer != nil || part != nil || err != nil {
		t.Errorf("without an endpoint: %v, %v, %v", tracer, part, err)
	}
	got := make(chan string, 10)
	collector := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		got <- r.Method + " " + r.URL.Path + " " + r.Header.Get("Content-Type")
	}))
	defer collector.Close()
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.URL)
	tracer, part, err := tracing(t.Context(), log, "test")
	if err != nil {
		t.Fatal(err)
	}
	_, span := tracer.Start(t.Context(), "span")
	span.End()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := part.Run(ctx); err != nil {
		t.Fatal(err)
	}
	if sent := <-got; sent != "POST /v1/traces application/x-protobuf" {
		t.Errorf("the collector got %q", sent)
	}
	t.Setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
	if _, _, err := tracing(t.Context(), log, "test"); err == nil || !strings.Contains(err.Error(), "OTEL_EXPORTER_OTLP_PROTOCOL") {
		t.Errorf("a protocol that is not supported: %v", err)
	}
}

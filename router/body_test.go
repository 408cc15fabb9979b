package router

import (
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"
)

// TestRetryDoesNotWaitForTheClient: whoever streams may wait for an answer
// before it sends more.
func TestRetryDoesNotWaitForTheClient(t *testing.T) {
	container := newBackend(t, func(b *backend, w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex() // a worker does not read first either
		refuse("N")(b, w, r)
	})
	home := newBackend(t, func(b *backend, w http.ResponseWriter, r *http.Request) {
		b.executed.Add(1)
		first := make([]byte, 5)
		if _, err := io.ReadFull(r.Body, first); err != nil {
			t.Errorf("the body's beginning: %v", err)
		}
		_ = http.NewResponseController(w).EnableFullDuplex()
		w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(w).Flush()
		rest, _ := io.ReadAll(r.Body)
		_, _ = w.Write(append(first, rest...))
	})
	server := httptest.NewServer(WholeRequests(newGateway(t, warmRoute(container.address(), home.address()))))
	defer server.Close()
	body, client := io.Pipe()
	go func() { _, _ = client.Write([]byte("hello")) }()
	// Nothing here should take long; without an end of its own the request
	// would hold the test's until its limit.
	stuck := time.AfterFunc(10*time.Second, func() { _ = client.CloseWithError(io.ErrUnexpectedEOF) })
	defer stuck.Stop()
	res, err := http.Post(server.URL+"/fn/hello", "text/plain", body)
	if err != nil {
		t.Fatalf("no answer while the client waits for one: %v", err)
	}
	defer res.Body.Close()
	if _, err := client.Write([]byte(" again")); err != nil {
		t.Fatal(err)
	}
	client.Close()
	got, err := io.ReadAll(res.Body)
	if err != nil || string(got) != "hello again" || home.executed.Load() != 1 {
		t.Errorf("%q, %v, executed %d times", got, err, home.executed.Load())
	}
	http.DefaultClient.CloseIdleConnections()
}

// TestWhatAFormerAttemptReadsIsKept: the client's bytes go to the attempt that
// counts, in order, whoever read them.
func TestWhatAFormerAttemptReadsIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src, client := io.Pipe()
		b := newReplayBody(src, nil)
		first, _ := b.attempt()
		read := make(chan error)
		go func() { _, err := first.Read(make([]byte, 100)); read <- err }()
		synctest.Wait() // it waits for the client
		second, ok := b.attempt()
		if !ok {
			t.Fatal("no second attempt")
		}
		go func() { _, _ = client.Write([]byte("hello")); client.Close() }()
		if err := <-read; err != errDetached {
			t.Errorf("the attempt that is over gets %v", err)
		}
		if got, err := io.ReadAll(second); err != nil || string(got) != "hello" {
			t.Errorf("the attempt that counts gets %q, %v", got, err)
		}
		if _, err := first.Read(make([]byte, 1)); err != errDetached {
			t.Errorf("the attempt that is over gets %v", err)
		}
	})
}

// TestEdgeMakesForwardedHeadersAnew: none of that family is the client's.
func TestEdgeMakesForwardedHeadersAnew(t *testing.T) {
	seen := make(chan http.Header, 1)
	container := newBackend(t, func(_ *backend, _ http.ResponseWriter, r *http.Request) { seen <- r.Header.Clone() })
	r := httptest.NewRequest(http.MethodGet, "/fn/hello", nil)
	for _, name := range []string{"X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-Prefix", "X-Forwarded-Port", "X-Forwarded-User"} {
		r.Header.Set(name, "forged")
	}
	call(t, newGateway(t, warmRoute(container.address(), "")), r)
	header := <-seen
	for name, values := range header {
		for _, value := range values {
			if value == "forged" {
				t.Errorf("%s is the client's", name)
			}
		}
	}
	if header.Get("X-Forwarded-For") != "127.0.0.1" || header.Get("X-Forwarded-Prefix") != "/fn/hello" {
		t.Errorf("the function sees %v", header)
	}
}

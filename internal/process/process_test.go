package process

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var quiet = slog.New(slog.DiscardHandler)

type journal struct {
	mu    sync.Mutex
	lines []string
}

func (j *journal) add(s string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lines = append(j.lines, s)
}

func (j *journal) part(name string) Part {
	return Part{Name: name, Run: func(ctx context.Context) error {
		<-ctx.Done()
		j.add(name)
		return nil
	}}
}

func TestRunStopsInReverse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var j journal
		health := NewHealth()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() {
			done <- Run(ctx, quiet, health,
				Group{Name: "first", Parts: []Part{j.part("store")}},
				Group{Name: "second", Parts: []Part{{Name: "server", Run: func(ctx context.Context) error {
					<-ctx.Done()
					if !errors.Is(health.Ready(context.Background()), ErrStopping) {
						t.Error("still ready while stopping")
					}
					j.add("server")
					return nil
				}}}})
		}()
		synctest.Wait()
		if err := health.Ready(ctx); err != nil {
			t.Errorf("not ready while running: %v", err)
		}
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
		if diff := cmp.Diff([]string{"server", "store"}, j.lines); diff != "" {
			t.Error(diff)
		}
	})
}

func TestRunFirstErrorStopsAll(t *testing.T) {
	var j journal
	boom := errors.New("boom")
	err := Run(t.Context(), quiet, nil,
		Group{Parts: []Part{j.part("a")}},
		Group{Parts: []Part{{Name: "b", Run: func(context.Context) error { return boom }}, j.part("c")}})
	if !errors.Is(err, boom) || !strings.HasPrefix(err.Error(), "b: ") {
		t.Errorf("error %v does not name the part and its cause", err)
	}
	if diff := cmp.Diff([]string{"c", "a"}, j.lines); diff != "" {
		t.Error(diff)
	}
}

func TestRunPartThatEndsByItself(t *testing.T) {
	err := Run(t.Context(), quiet, nil, Group{Parts: []Part{{Name: "a", Run: func(context.Context) error { return nil }}}})
	if !errors.Is(err, ErrEnded) {
		t.Errorf("got %v, want ErrEnded", err)
	}
}

func TestRunAbandonsWhatDoesNotStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		begin := time.Now()
		err := Run(ctx, quiet, nil, Group{StopWithin: 3 * time.Second, Parts: []Part{
			{Name: "stuck", Run: func(context.Context) error { <-release; return nil }},
			{Name: "fine", Run: func(ctx context.Context) error { <-ctx.Done(); return nil }},
		}})
		if !errors.Is(err, ErrStopTimeout) || !strings.Contains(err.Error(), "stuck") || strings.Contains(err.Error(), "fine") {
			t.Errorf("got %v, want one stop timeout naming stuck", err)
		}
		if took := time.Since(begin); took != 3*time.Second {
			t.Errorf("took %v, want 3s", took)
		}
		close(release)
	})
}

func TestHealthHandler(t *testing.T) {
	health := NewHealth()
	var reason error
	health.Check("routes", func(context.Context) error { return reason })
	get := func(path string) (int, string) {
		w := httptest.NewRecorder()
		health.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		return w.Code, strings.TrimSpace(w.Body.String())
	}
	if code, _ := get("/readyz"); code != 200 {
		t.Errorf("ready: %d", code)
	}
	reason = errors.New("no snapshot yet")
	if code, body := get("/readyz"); code != 503 || body != "routes: no snapshot yet" {
		t.Errorf("not ready: %d %q", code, body)
	}
	health.stop()
	if code, body := get("/readyz"); code != 503 || body != ErrStopping.Error() {
		t.Errorf("stopping: %d %q", code, body)
	}
	if code, _ := get("/healthz"); code != 200 {
		t.Errorf("alive while stopping: %d", code)
	}
}

func TestServeHTTPLetsRequestsFinish(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	entered, release := make(chan struct{}), make(chan struct{})
	part := ServeHTTP("test", listener, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		close(entered)
		<-release
		io.WriteString(w, "done")
	}), 10*time.Second)
	ctx, cancel := context.WithCancel(t.Context())
	stopped := make(chan error, 1)
	go func() { stopped <- part.Run(ctx) }()
	got := make(chan string, 1)
	go func() {
		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		resp, err := client.Get("http://" + listener.Addr().String())
		if err != nil {
			got <- err.Error()
			return
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		got <- string(body)
	}()
	<-entered
	cancel()
	close(release)
	if body := <-got; body != "done" {
		t.Errorf("request in flight got %q", body)
	}
	if err := <-stopped; err != nil {
		t.Errorf("part: %v", err)
	}
}

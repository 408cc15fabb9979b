package process

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"
)

// ErrStopping is why a process that has begun to stop is not ready.
var ErrStopping = errors.New("the process is stopping")

// Health answers whether a process is alive (it answers at all) and ready
// (every check passes and it is not stopping). A nil *Health may be stopped
// and does nothing. It is safe for concurrent use.
type Health struct {
	mu       sync.Mutex
	checks   map[string]func(context.Context) error
	stopping bool
}

// NewHealth returns a Health without checks, which is ready.
func NewHealth() *Health {
	return &Health{checks: make(map[string]func(context.Context) error)}
}

// Check adds a readiness check. It is called at every probe, perhaps
// concurrently, with 2 s to answer; its error is shown to whoever probes.
func (h *Health) Check(name string, check func(context.Context) error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.checks[name] = check
}

// Ready returns why the process is not ready, or nil.
func (h *Health) Ready(ctx context.Context) error {
	h.mu.Lock()
	stopping := h.stopping
	names := make([]string, 0, len(h.checks))
	checks := make(map[string]func(context.Context) error, len(h.checks))
	for name, check := range h.checks {
		names = append(names, name)
		checks[name] = check
	}
	h.mu.Unlock()
	if stopping {
		return ErrStopping
	}
	slices.Sort(names)
	var errs []error
	for _, name := range names {
		if err := checks[name](ctx); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", name, err))
		}
	}
	return errors.Join(errs...)
}

func (h *Health) stop() {
	if h == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.stopping = true
}

// Handler serves /healthz, which always answers 200, and /readyz, which
// answers 503 with the reasons while the process is not ready.
func (h *Health) Handler() *http.ServeMux {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, "ok")
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), 2*time.Second)
		defer cancel()
		if err := h.Ready(ctx); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	return mux
}

// ServeHTTP returns a part that serves handler on listener until it is told
// to stop, and then lets requests in flight finish for at most grace.
func ServeHTTP(name string, listener net.Listener, handler http.Handler, grace time.Duration) Part {
	return Part{Name: name, Run: func(ctx context.Context) error {
		server := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute}
		failed := make(chan error, 1)
		go func() { failed <- server.Serve(listener) }()
		select {
		case err := <-failed:
			return fmt.Errorf("serve HTTP on %v: %w", listener.Addr(), err)
		case <-ctx.Done():
		}
		stopCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
		defer cancel()
		err := server.Shutdown(stopCtx)
		if err != nil {
			err = errors.Join(fmt.Errorf("requests were cut off after %v: %w", grace, err), server.Close())
		}
		<-failed
		return err
	}}
}

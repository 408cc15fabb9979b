package router

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// ServerConfig makes a Server. The zero value of each limit is its default.
type ServerConfig struct {
	Handler http.Handler
	// HeaderTimeout is how long a client may take for a request's headers and for
	// the TLS handshake. Default 10 s.
	HeaderTimeout time.Duration
	// MaxHeaderBytes bounds the request line and headers; what is longer is answered
	// with 431. Default 32 KiB: Node.js takes 16.
	MaxHeaderBytes int
	// MaxConnections bounds the connections of clients; see [Connections]. Default
	// [DefaultConnections].
	MaxConnections int
	// Metrics tells how many connections there are; nil: nobody does.
	Metrics *Metrics
	Log     *slog.Logger
}

// Server serves a gateway's clients: HTTP/1.1 and, by prior knowledge or over TLS,
// HTTP/2. It bounds what a slow or greedy client can hold, and it drains: see
// [Server.Drain]. It is safe for concurrent use.
type Server struct {
	handler     http.Handler
	http        *http.Server
	connections *Connections
	draining    atomic.Bool
	// stop ends what goes on over hijacked connections.
	stop context.CancelFunc

	mu sync.Mutex
	// active counts requests, upgraded connections included, which http.Server does
	// not wait for. none is closed when it is 0 and somebody waits for that.
	active int
	none   chan struct{}
}

// HTTP2Limits bound what a client of HTTP/2 can hold that has gone without a word, or
// takes nothing.
func HTTP2Limits() *http.HTTP2Config {
	return &http.HTTP2Config{MaxConcurrentStreams: 250, SendPingTimeout: 30 * time.Second, WriteByteTimeout: time.Minute}
}

// NewServer returns a Server.
func NewServer(cfg ServerConfig) *Server {
	if cfg.HeaderTimeout == 0 {
		cfg.HeaderTimeout = 10 * time.Second
	}
	if cfg.MaxHeaderBytes == 0 {
		cfg.MaxHeaderBytes = 32 << 10
	}
	if cfg.MaxConnections == 0 {
		cfg.MaxConnections = DefaultConnections
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	ctx, stop := context.WithCancel(context.Background())
	s := &Server{handler: cfg.Handler, connections: NewConnections(cfg.MaxConnections), stop: stop}
	cfg.Metrics.connects(s.connections)
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(true)
	s.http = &http.Server{
		Handler:           WholeRequests(FewHeaders(s)),
		ReadHeaderTimeout: cfg.HeaderTimeout,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    cfg.MaxHeaderBytes,
		Protocols:         protocols,
		HTTP2:             HTTP2Limits(),
		BaseContext:       func(net.Listener) context.Context { return ctx },
		// Clients' nonsense is theirs.
		ErrorLog: slog.NewLogLogger(cfg.Log.Handler(), slog.LevelDebug),
	}
	s.connections.Bound(s.http)
	return s
}

// Serve serves a TCP listener until [Server.Shutdown], with TLS if certificate is not
// nil. It returns nil after Shutdown.
func (s *Server) Serve(listener net.Listener, certificate *Certificate) error {
	listener = s.connections.Listener(listener)
	var err error
	if certificate == nil {
		err = s.http.Serve(listener)
	} else {
		listener = tls.NewListener(listener, &tls.Config{
			MinVersion:     tls.VersionTLS12,
			GetCertificate: certificate.get,
			NextProtos:     []string{"h2", "http/1.1"},
		})
		err = s.http.Serve(listener)
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serve HTTP on %v: %w", listener.Addr(), err)
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.begin()
	defer s.end()
	if s.draining.Load() {
		// The client's next request is to go elsewhere: HTTP/2 says GOAWAY for it.
		w.Header().Set("Connection", "close")
	}
	if r.Method == http.MethodConnect && !isTunnel(r) {
		w.Header().Set("Connection", "close")
		WriteProblem(w, r, *noProxy())
		return
	}
	s.handler.ServeHTTP(w, r)
}

func (s *Server) begin() {
	s.mu.Lock()
	s.active++
	s.mu.Unlock()
}

func (s *Server) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.active--; s.active == 0 && s.none != nil {
		close(s.none)
		s.none = nil
	}
}

// Drain has every answer from now on tell its client to open another connection.
// Requests are served as before: a connection on which nothing is said before
// [Server.Shutdown] may lose its next request, as always in HTTP/1.1.
func (s *Server) Drain() { s.draining.Store(true) }

// Shutdown takes no further requests and waits until those in flight, upgraded
// connections included, have ended. When ctx ends before, they are cut off, and
// the error says so. It is called once.
func (s *Server) Shutdown(ctx context.Context) error {
	defer s.stop()
	s.Drain()
	err := s.http.Shutdown(ctx)
	if err == nil {
		err = s.wait(ctx)
	}
	if err == nil {
		return nil
	}
	s.stop()
	return errors.Join(fmt.Errorf("requests were cut off: %w", err), s.http.Close())
}

// wait returns when no request is left.
func (s *Server) wait(ctx context.Context) error {
	s.mu.Lock()
	none := make(chan struct{})
	if s.active == 0 {
		close(none)
	} else {
		s.none = none
	}
	s.mu.Unlock()
	select {
	case <-none:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

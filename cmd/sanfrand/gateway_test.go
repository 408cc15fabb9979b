package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sanfran.dev/internal/process"
	routesv1 "sanfran.dev/proto/sanfran/routes/v1"
	"sanfran.dev/router"
)

// rollingGateway is one replica, from its start to its end.
type rollingGateway struct {
	address string
	health  *process.Health
	stop    context.CancelFunc
	ended   chan error
}

func startRollingGateway(t *testing.T, table *router.Table) *rollingGateway {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	forwarder := router.NewForwarder(router.ForwarderConfig{Log: log})
	server := router.NewServer(router.ServerConfig{Handler: router.NewGateway(router.GatewayConfig{Table: table, Forwarder: forwarder, Log: log}), Log: log})
	ctx, stop := context.WithCancel(t.Context())
	g := &rollingGateway{address: listener.Addr().String(), health: process.NewHealth(), stop: stop, ended: make(chan error, 1)}
	go func() {
		defer forwarder.Close()
		g.ended <- process.Run(ctx, log, g.health, process.Group{Name: "gateway", StopWithin: time.Minute, Parts: []process.Part{
			serveGateway(server, []gatewayListener{{Listener: listener}}, 300*time.Millisecond, 30*time.Second),
		}})
	}()
	return g
}

// TestRollingRestartLosesNothing restarts two gateways, one after the other, under
// load of clients that open their connections to whoever is ready, as behind a
// Service, and keep them for as long as they are not told otherwise. No request
// fails, and none is executed twice.
func TestRollingRestartLosesNothing(t *testing.T) {
	for _, version := range []int{1, 2} {
		t.Run(fmt.Sprintf("HTTP/%d", version), func(t *testing.T) {
			var executed atomic.Int64
			function := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				executed.Add(1)
				_, _ = io.Copy(w, r.Body)
			}))
			defer function.Close()
			table := router.NewTable()
			if _, err := table.Apply(&routesv1.WatchResponse{Change: &routesv1.WatchResponse_Snapshot{Snapshot: &routesv1.Snapshot{Routes: []*routesv1.Route{{
				PodUid: "a", Namespace: "default", PodName: "a", Function: "hello", Address: "10.0.0.1", Port: 8080, Exposed: true, Ready: true, HomeAddress: "127.0.0.1:1",
				Instances: []*routesv1.Instance{{LeaseId: "L", Nonce: "N", Address: function.Listener.Addr().String()}},
			}}}}}); err != nil {
				t.Fatal(err)
			}
			var mu sync.Mutex
			gateways := []*rollingGateway{startRollingGateway(t, table), startRollingGateway(t, table)}
			next := 0
			ready := func(ctx context.Context, network, _ string) (net.Conn, error) {
				mu.Lock()
				defer mu.Unlock()
				for range gateways {
					g := gateways[next%len(gateways)]
					next++
					if g.health.Ready(ctx) == nil {
						return new(net.Dialer).DialContext(ctx, network, g.address)
					}
				}
				return nil, errors.New("no gateway is ready")
			}
			var clients sync.WaitGroup
			var sent atomic.Int64
			over, answered, failed := make(chan struct{}), make(chan struct{}), make(chan struct{}, 8)
			for range 8 {
				clients.Go(func() {
					protocols := new(http.Protocols)
					protocols.SetHTTP1(version == 1)
					protocols.SetUnencryptedHTTP2(version == 2)
					transport := &http.Transport{DialContext: ready, Protocols: protocols}
					defer transport.CloseIdleConnections()
					client := &http.Client{Transport: transport}
					for {
						select {
						case <-over:
							return
						default:
						}
						// A body that cannot be sent again: the client itself repeats nothing.
						res, err := client.Post("http://gateway/fn/hello", "text/plain", struct{ io.Reader }{bytes.NewReader([]byte("body"))})
						if err != nil {
							t.Error(err)
							failed <- struct{}{}
							return
						}
						body, err := io.ReadAll(res.Body)
						res.Body.Close()
						if err != nil || res.StatusCode != 200 || string(body) != "body" {
							t.Errorf("%d %q, %v", res.StatusCode, body, err)
							failed <- struct{}{}
							return
						}
						sent.Add(1)
						select {
						case answered <- struct{}{}:
						default:
						}
					}
				})
			}
			load := func() {
				for range 50 {
					select {
					case <-answered:
					case <-failed:
						t.FailNow()
					}
				}
			}
			load()
			for i, old := range gateways {
				old.stop()
				if err := <-old.ended; err != nil {
					t.Error(err)
				}
				mu.Lock()
				gateways[i] = startRollingGateway(t, table)
				mu.Unlock()
				load()
			}
			close(over)
			clients.Wait()
			for _, g := range gateways {
				g.stop()
				if err := <-g.ended; err != nil {
					t.Error(err)
				}
			}
			if executed.Load() != sent.Load() {
				t.Errorf("%d requests, executed %d times", sent.Load(), executed.Load())
			}
		})
	}
}

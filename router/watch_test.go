package router

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"

	routesv1 "sanfran.dev/proto/sanfran/routes/v1"
)

// streams is a control plane: it answers each Watch with the next script.
type streams struct {
	scripts  []script
	requests []*routesv1.WatchRequest // the first of each stream
	heard    []*routesv1.WatchRequest // all later ones
}

type script struct {
	responses []*routesv1.WatchResponse
	err       error // nil: the stream stays open
}

// Watch implements routesv1.RouteServiceClient.
func (s *streams) Watch(ctx context.Context, _ ...grpc.CallOption) (grpc.BidiStreamingClient[routesv1.WatchRequest, routesv1.WatchResponse], error) {
	if len(s.scripts) == 0 {
		return nil, errors.New("no control plane")
	}
	next := s.scripts[0]
	s.scripts = s.scripts[1:]
	return &stream{ctx: ctx, script: next, control: s}, nil
}

type stream struct {
	grpc.ClientStream
	ctx     context.Context
	script  script
	control *streams
	begun   bool
}

// Send implements grpc.BidiStreamingClient.
func (s *stream) Send(r *routesv1.WatchRequest) error {
	if s.begun {
		s.control.heard = append(s.control.heard, r)
	} else {
		s.control.requests = append(s.control.requests, r)
	}
	s.begun = true
	return nil
}

// Recv implements grpc.BidiStreamingClient.
func (s *stream) Recv() (*routesv1.WatchResponse, error) {
	if len(s.script.responses) > 0 {
		next := s.script.responses[0]
		s.script.responses = s.script.responses[1:]
		return next, nil
	}
	if s.script.err != nil {
		return nil, s.script.err
	}
	<-s.ctx.Done()
	return nil, s.ctx.Err()
}

func at(revision uint64, response *routesv1.WatchResponse) *routesv1.WatchResponse {
	response.Generation, response.Revision = 7, revision
	return response
}

func TestWatcherGoesOnWhereABrokenStreamEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		control := &streams{scripts: []script{
			{responses: []*routesv1.WatchResponse{at(1, snapshotOf(route("a", "f", "10.0.0.1"))), at(2, delta([]*routesv1.Route{route("b", "f", "10.0.0.2")}))}, err: io.EOF},
			{responses: []*routesv1.WatchResponse{at(3, delta(nil, "a"))}},
		}}
		table := NewTable()
		watcher, err := NewWatcher(WatcherConfig{Client: control, Table: table})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- watcher.Run(ctx) }()
		<-time.After(time.Minute) // of the bubble's clock: both streams are through
		synctest.Wait()
		if table.Pod("a") != nil || table.Pod("b") == nil {
			t.Error("the second stream's delta is not in the table")
		}
		if got := control.requests[1]; got.GetGeneration() != 7 || got.GetRevision() != 2 {
			t.Errorf("the second watch asked from (%d, %d), want (7, 2)", got.GetGeneration(), got.GetRevision())
		}
		var heard []uint64
		for _, r := range control.heard {
			heard = append(heard, r.GetRevision())
		}
		if !slices.Equal(heard, []uint64{1, 2, 3}) {
			t.Errorf("acknowledged %v, want each revision once it was applied", heard)
		}
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Run: %v, want context.Canceled", err)
		}
	})
}

func TestI3WatcherKnowsItsRoutesWithoutAControlPlane(t *testing.T) {
	file := filepath.Join(t.TempDir(), "routes")
	synctest.Test(t, func(t *testing.T) {
		control := &streams{scripts: []script{{responses: []*routesv1.WatchResponse{at(1, snapshotOf(route("a", "f", "10.0.0.1", "lease")))}}}}
		watcher, err := NewWatcher(WatcherConfig{Client: control, Table: NewTable(), File: file})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- watcher.Run(ctx) }()
		<-time.After(5 * time.Second) // of the bubble's clock
		cancel()
		<-done
	})
	table := NewTable()
	watcher, err := NewWatcher(WatcherConfig{Client: &streams{}, Table: table, File: file})
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-watcher.Ready():
	default:
		t.Error("not ready with a kept table")
	}
	if pod := table.Pod("a"); pod == nil || len(pod.Instances) != 1 || pod.Instances[0].Lease != "lease" {
		t.Errorf("the kept table has pod a as %+v", pod)
	}
}

// TestWatcherKeepsItsLastTable: what came in just before the end is kept too.
func TestWatcherKeepsItsLastTable(t *testing.T) {
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for range 20 { // the end and the change are seen in either order
		file := filepath.Join(t.TempDir(), "routes")
		watcher, err := NewWatcher(WatcherConfig{Table: NewTable(), File: file})
		if err != nil {
			t.Fatal(err)
		}
		dirty := make(chan struct{}, 1)
		dirty <- struct{}{}
		watcher.keep(ended, dirty)
		if _, err := os.Stat(file); err != nil {
			t.Fatalf("the last table is not kept: %v", err)
		}
	}
}

func TestWatcherLeavesADamagedFileAside(t *testing.T) {
	file := filepath.Join(t.TempDir(), "routes")
	if err := os.WriteFile(file, []byte("not a table"), 0o600); err != nil {
		t.Fatal(err)
	}
	watcher, err := NewWatcher(WatcherConfig{Client: &streams{}, Table: NewTable(), File: file})
	if err != nil {
		t.Fatalf("a damaged copy keeps the router from starting: %v", err)
	}
	select {
	case <-watcher.Ready():
		t.Error("ready without routes")
	default:
	}
}

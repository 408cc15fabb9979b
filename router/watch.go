package router

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"time"

	"google.golang.org/protobuf/proto"

	routesv1 "sanfran.dev/proto/sanfran/routes/v1"
)

// WatcherConfig makes a Watcher.
type WatcherConfig struct {
	Client routesv1.RouteServiceClient
	Table  *Table
	// File keeps the last table on disk; empty: it is not kept.
	File string
	// OnChange, if set, is called after each change, from Run's goroutine. The change
	// is acknowledged when it returns.
	OnChange func(Change)
	Log      *slog.Logger
}

// Watcher keeps a Table current. While the control plane is away the table
// stays as it was last, and Run keeps trying.
type Watcher struct {
	cfg   WatcherConfig
	ready chan struct{}
	known bool
}

// NewWatcher returns a Watcher whose table holds what its file has. A file that
// cannot be read is an error; one that is not there is not.
func NewWatcher(cfg WatcherConfig) (*Watcher, error) {
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	w := &Watcher{cfg: cfg, ready: make(chan struct{})}
	if cfg.File == "" {
		return w, nil
	}
	data, err := os.ReadFile(cfg.File)
	if errors.Is(err, fs.ErrNotExist) {
		return w, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the kept route table: %w", err)
	}
	response := new(routesv1.WatchResponse)
	if err := proto.Unmarshal(data, response); err != nil {
		// It is a copy; the control plane has the original.
		cfg.Log.Warn("the kept route table is damaged and is left aside", "file", cfg.File, "err", err)
		return w, nil
	}
	w.apply(response)
	return w, nil
}

// Ready is closed once the table holds routes of the control plane, be it from
// the stream or from the file.
func (w *Watcher) Ready() <-chan struct{} { return w.ready }

// Run follows the control plane's stream until ctx ends, and returns ctx's
// error. It is called once.
func (w *Watcher) Run(ctx context.Context) error {
	// One goroutine keeps the file; it always writes the newest table.
	dirty := make(chan struct{}, 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.keep(ctx, dirty)
	}()
	defer func() { <-done }()

	const minDelay, maxDelay = 50 * time.Millisecond, 2 * time.Second
	delay := minDelay
	for {
		received, err := w.follow(ctx, dirty)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if received {
			delay = minDelay
		}
		w.cfg.Log.Warn("the route stream broke; the table stays as it is meanwhile", "retryIn", delay, "err", err)
		// Half of the delay is random, so that routers do not come back in step.
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(delay/2 + rand.N(delay/2)):
		}
		delay = min(2*delay, maxDelay)
	}
}

// follow reads one stream to its end and reports whether it brought anything.
func (w *Watcher) follow(ctx context.Context, dirty chan<- struct{}) (received bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	generation, revision := w.cfg.Table.Position()
	stream, err := w.cfg.Client.Watch(ctx)
	if err != nil {
		return false, err
	}
	// A message that cannot be sent belongs to a stream that has ended; why is what
	// Recv says.
	_ = stream.Send(&routesv1.WatchRequest{Generation: generation, Revision: revision})
	for {
		response, err := stream.Recv()
		if err != nil {
			return received, err
		}
		received = true
		w.apply(response)
		// What was left out of it was heard all the same.
		_ = stream.Send(&routesv1.WatchRequest{Generation: response.GetGeneration(), Revision: response.GetRevision()})
		select {
		case dirty <- struct{}{}:
		default:
		}
	}
}

func (w *Watcher) apply(response *routesv1.WatchResponse) {
	change, err := w.cfg.Table.Apply(response)
	if err != nil {
		w.cfg.Log.Error("a route was left out", "err", err)
	}
	if w.cfg.OnChange != nil {
		w.cfg.OnChange(change)
	}
	if !w.known {
		w.known = true
		close(w.ready)
	}
}

// keep writes the table to its file whenever it is dirty, at most once a second
// and once more at the end.
func (w *Watcher) keep(ctx context.Context, dirty <-chan struct{}) {
	if w.cfg.File == "" {
		<-ctx.Done()
		return
	}
	for {
		select {
		case <-ctx.Done():
		case <-dirty:
			w.write()
		}
		select {
		case <-ctx.Done():
			select {
			case <-dirty:
				w.write()
			default:
			}
			return
		case <-time.After(time.Second):
		}
	}
}

func (w *Watcher) write() {
	if err := writeFile(w.cfg.File, w.cfg.Table.snapshot()); err != nil {
		w.cfg.Log.Error("the route table is not kept on disk; a restart without the control plane would find an older one", "err", err)
	}
}

// writeFile replaces the file in one step. It is a copy that may be lost, so
// it is not synced to disk.
func writeFile(name string, table *routesv1.WatchResponse) error {
	data, err := proto.Marshal(table)
	if err != nil {
		return fmt.Errorf("encode the route table: %w", err)
	}
	// Always of the same name: what a killed process has left is written over.
	partial := name + ".partial"
	if err := os.WriteFile(partial, data, 0o600); err != nil {
		return fmt.Errorf("keep the route table: %w", errors.Join(err, os.Remove(partial)))
	}
	if err := os.Rename(partial, name); err != nil {
		return fmt.Errorf("keep the route table: %w", errors.Join(err, os.Remove(partial)))
	}
	return nil
}

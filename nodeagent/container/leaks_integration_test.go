//go:build integration

package container_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"sanfran.dev/nodeagent/container"
)

// Many containers, several at once, some of them cancelled while they start,
// some destroyed before they have booted. The machine looks as before.
func TestNothingLeaksOverManyLives(t *testing.T) { eachRuntime(t, nothingLeaksOverManyLives) }

func nothingLeaksOverManyLives(t *testing.T, h *host) {
	h.serve(t, "first", nil).Destroy(t.Context()) // whatever is made once is made now
	before := footprint(t)
	root := rootFS(t)
	ids := make(chan int)
	var workers sync.WaitGroup
	for range 4 {
		workers.Go(func() {
			for id := range ids {
				oneLife(t, h, root, id)
			}
		})
	}
	for id := range 60 {
		ids <- id
	}
	close(ids)
	workers.Wait()
	if left := h.left(); len(left) > 0 {
		t.Errorf("left on the host: %q", left)
	}
	runtime.GC() // closes what only a finalizer would: a leak, but of the test's
	if after := footprint(t); after != before {
		t.Errorf("before %+v, after %+v", before, after)
	}
}

func oneLife(t *testing.T, h *host, root string, id int) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Error(err)
		return
	}
	defer ln.Close()
	file, err := ln.(*net.TCPListener).File()
	if err != nil {
		t.Error(err)
		return
	}
	defer file.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if id%3 == 0 {
		defer time.AfterFunc(time.Duration(id)*time.Millisecond, cancel).Stop()
	}
	c, err := h.runc.Start(ctx, container.Config{
		ID: fmt.Sprint("life", id), RootFS: root, Listener: file, Control: file, Args: node(`setInterval(() => {}, 1e9)`),
	})
	if err != nil {
		if ctx.Err() == nil {
			t.Errorf("Start: %v", err)
		}
		return
	}
	if err := c.Mount(t.Context(), container.Mount{Source: "/etc", Target: "/function", ReadOnly: true}); err != nil {
		t.Errorf("Mount: %v", err)
	}
	if err := c.Destroy(ctx); err != nil {
		t.Errorf("Destroy: %v", err)
	}
}

type machine struct{ files, mounts, overlays, goroutines int }

func footprint(t *testing.T) machine {
	t.Helper()
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	return machine{
		files:      len(files),
		mounts:     strings.Count(string(mounts), "\n"),
		overlays:   strings.Count(string(mounts), " - overlay "),
		goroutines: runtime.NumGoroutine(),
	}
}

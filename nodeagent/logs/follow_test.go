package logs

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"
)

// follower reads with Follow in a goroutine.
type follower struct {
	mu   sync.Mutex
	text strings.Builder
	more chan struct{}
	done chan error
}

func follow(ctx context.Context, t *testing.T, l *Log, opts ReadOptions) *follower {
	t.Helper()
	opts.Follow = true
	r, err := l.Read(opts)
	if err != nil {
		t.Fatal(err)
	}
	f := &follower{more: make(chan struct{}, 1), done: make(chan error, 1)}
	go func() {
		f.done <- r.Run(ctx, func(b []byte) error {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.text.Write(b)
			select {
			case f.more <- struct{}{}:
			default:
			}
			return nil
		})
	}()
	return f
}

func (f *follower) until(t *testing.T, want string) {
	t.Helper()
	limit := time.After(30 * time.Second)
	for {
		f.mu.Lock()
		got := f.text.String()
		f.mu.Unlock()
		if got == want {
			return
		}
		select {
		case <-f.more:
		case <-limit:
			t.Fatalf("followed %q, want %q", got, want)
		}
	}
}

func TestFollowEndsWithTheRun(t *testing.T) {
	s := open(t, t.TempDir(), func(o *Options) { o.MaxFileBytes = 200 })
	l := pod(s)
	c := container(l)
	write(c, words(0, 3)...)
	all := follow(t.Context(), t, l, ReadOptions{})
	one := int64(1)
	tail := follow(t.Context(), t, l, ReadOptions{Tail: &one})
	all.until(t, text(0, 3))
	tail.until(t, text(2, 3))
	for i := 3; i < 50; i++ {
		write(c, words(i, i+1)...)
		all.until(t, text(0, i+1))
		tail.until(t, text(2, i+1))
	}
	c.End() // parked
	c = container(l)
	write(c, words(50, 51)...)
	all.until(t, text(0, 51))
	write(c, words(51, 52)...)
	c.End()
	l.Crashed(c)
	for _, f := range []*follower{all, tail} {
		if err := <-f.done; err != nil {
			t.Error(err)
		}
	}
	all.until(t, text(0, 52))

	next := container(l)
	write(next, "next")
	cut, cancel := context.WithCancelCause(t.Context())
	gone, cancelled := follow(t.Context(), t, l, ReadOptions{}), follow(cut, t, l, ReadOptions{})
	gone.until(t, "next\n")
	cancelled.until(t, "next\n")
	enough := errors.New("enough of it")
	cancel(enough)
	if err := <-cancelled.done; !errors.Is(err, enough) {
		t.Errorf("cancelled: %v", err)
	}
	if err := l.Remove(); err != nil {
		t.Error(err)
	}
	if err := <-gone.done; err != nil {
		t.Error(err)
	}
}

// A reader slower than rotation misses what is gone, and nothing else.
func TestASlowReaderGoesOnWithWhatIsThere(t *testing.T) {
	l := pod(open(t, t.TempDir(), func(o *Options) { o.MaxFileBytes, o.MaxFiles = 1000, 2 }))
	c := container(l)
	write(c, words(0, 10)...)
	r, err := l.Read(ReadOptions{Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	begun, goOn := make(chan struct{}), make(chan struct{})
	var got strings.Builder
	done := make(chan error)
	first := sync.OnceFunc(func() { close(begun); <-goOn })
	go func() {
		done <- r.Run(t.Context(), func(b []byte) error { got.Write(b); first(); return nil })
	}()
	<-begun
	write(c, words(10, 500)...)
	close(goOn)
	c.End()
	l.Crashed(c)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	lines := strings.Fields(got.String())
	last := ""
	for _, line := range lines {
		if line <= last {
			t.Fatalf("%s after %s", line, last)
		}
		last = line
	}
	if !strings.HasPrefix(got.String(), text(0, 10)) || last != "line-0499" {
		t.Errorf("%d lines, from %s to %s", len(lines), lines[0], last)
	}
}

package flow

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"testing"
	"testing/synctest"

	"pgregory.net/rapid"
)

// pair joins two ends directly.
type pair struct {
	w *Writer
	r *Reader
}

func newPair(t interface{ Fatal(...any) }) *pair {
	p := &pair{}
	p.r = NewReader(func(n int) error { return p.w.Taken(n) })
	p.w = NewWriter(func(b []byte) error {
		if len(b) == 0 || len(b) > Chunk {
			t.Fatal("a chunk of", len(b))
		}
		return p.r.Receive(b)
	})
	return p
}

// Whatever the sizes of writes and reads, all bytes arrive, in order, and the window
// is kept: Receive fails otherwise.
func TestAllBytesArriveInOrder(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		sizes := rapid.SliceOfN(rapid.IntRange(0, 3*Window), 0, 8).Draw(rt, "writes")
		most := rapid.IntRange(1, 2*Window).Draw(rt, "read at most")
		var want []byte
		for _, n := range sizes {
			for range n {
				want = append(want, byte(len(want)*7>>3))
			}
		}
		p := newPair(rt)
		go func() {
			rest := want
			for _, n := range sizes {
				if _, err := p.w.Write(rest[:n]); err != nil {
					p.r.Fail(err)
					return
				}
				rest = rest[n:]
			}
			p.r.Fail(io.EOF)
		}()
		var got []byte
		for b := make([]byte, most); ; {
			n, err := p.r.Read(b[:1+rand.IntN(most)])
			got = append(got, b[:n]...)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				rt.Fatal(err)
			}
		}
		if !bytes.Equal(got, want) {
			rt.Fatalf("%d bytes arrived, not as the %d were sent", len(got), len(want))
		}
	})
}

// A reader that stops stops the writer, at the window; whoever receives does not
// wait meanwhile.
func TestAStoppedReaderStopsTheWriter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t)
		done := make(chan error, 1)
		go func() {
			_, err := p.w.Write(make([]byte, 10*Window))
			done <- err
		}()
		synctest.Wait()
		if p.r.data.Len() != Window {
			t.Fatalf("%d bytes are kept, want %d", p.r.data.Len(), Window)
		}
		if _, err := io.ReadFull(p.r, make([]byte, Window/4)); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if p.r.data.Len() != Window {
			t.Fatalf("the writer does not go on: %d bytes are kept", p.r.data.Len())
		}
		broken := errors.New("broken")
		p.w.Fail(broken)
		if err := <-done; !errors.Is(err, broken) {
			t.Errorf("a waiting write ends with %v", err)
		}
	})
}

func TestBothEndsAreHeldToTheWindow(t *testing.T) {
	r := NewReader(func(int) error { return nil })
	if err := r.Receive(make([]byte, Window)); err != nil {
		t.Fatal(err)
	}
	if err := r.Receive([]byte{1}); !errors.Is(err, ErrOverrun) {
		t.Errorf("beyond the window: %v", err)
	}
	// What was read and not said to be taken counts: the writer cannot know.
	if _, err := io.ReadFull(r, make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	if err := r.Receive([]byte{1}); !errors.Is(err, ErrOverrun) {
		t.Errorf("before it was said to be taken: %v", err)
	}
	w := NewWriter(func([]byte) error { return nil })
	if _, err := w.Write(make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{11, -1} {
		if err := w.Taken(n); err == nil {
			t.Errorf("%d bytes were taken of 10", n)
		}
	}
}

func TestFailuresArrive(t *testing.T) {
	broken := errors.New("broken")
	r := NewReader(func(int) error { return broken })
	if err := r.Receive(make([]byte, Window/4)); err != nil {
		t.Fatal(err)
	}
	if n, err := r.Read(make([]byte, Window)); n != Window/4 || !errors.Is(err, broken) {
		t.Errorf("it cannot be said what was taken: %d, %v", n, err)
	}
	if err := r.Receive([]byte("last")); err != nil {
		t.Fatal(err)
	}
	r.Fail(broken)
	r.Fail(io.EOF)
	if got, err := io.ReadAll(r); string(got) != "last" || !errors.Is(err, broken) {
		t.Errorf("%q, %v", got, err)
	}
	w := NewWriter(func([]byte) error { return broken })
	if n, err := w.Write([]byte("x")); n != 0 || !errors.Is(err, broken) {
		t.Errorf("a failed send: %d, %v", n, err)
	}
}

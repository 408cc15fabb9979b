package bundle

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// code is an archive whose bundle takes so many blocks of the budget.
func code(t testing.TB, name string, blocksWanted int) (digest string, data []byte) {
	t.Helper()
	data = archive(t, reg("index.js", name+strings.Repeat("x", (blocksWanted-3)*blockSize-len(name))))
	return digestOf(data), data
}

// isKept says whether the store has a bundle on its disk.
func isKept(s *Store, digest string) bool {
	_, err := os.Lstat(s.path(keptAs(digest)))
	return err == nil
}

func mustGet(t testing.TB, s *Store, digest string) *Bundle {
	t.Helper()
	b, err := s.Get(context.Background(), namespace, digest)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestTheLeastRecentlyUsedGoes(t *testing.T) {
	f := &fetcher{data: map[string][]byte{}}
	digests := make([]string, 4)
	for i := range digests {
		var data []byte
		digests[i], data = code(t, fmt.Sprint(i), 10)
		f.data[digests[i]] = data
	}
	s := openIn(t, t.TempDir(), f, Options{Budget: 30 * blockSize})
	held := mustGet(t, s, digests[0]) // the oldest, and in use
	mustGet(t, s, digests[1]).Release()
	mustGet(t, s, digests[2]).Release()
	mustGet(t, s, digests[1]).Release() // used again
	mustGet(t, s, digests[3]).Release()
	for i, want := range []bool{true, true, false, true} {
		if got := isKept(s, digests[i]); got != want {
			t.Errorf("bundle %d: kept %v, want %v", i, got, want)
		}
	}
	if stats := s.Stats(); stats != (Stats{Bundles: 3, Bytes: 30 * blockSize, Budget: 30 * blockSize, InUse: 10 * blockSize, Evicted: 1}) {
		t.Errorf("%+v", stats)
	}
	held.Release()
	assertNoPartials(t, s)
}

func TestWhatIsInUseIsNeverDropped(t *testing.T) {
	f := &fetcher{data: map[string][]byte{}}
	first, data := code(t, "first", 10)
	f.data[first] = data
	second, data := code(t, "second", 10)
	f.data[second] = data
	s := openIn(t, t.TempDir(), f, Options{Budget: 19 * blockSize})
	held := mustGet(t, s, first)
	_, err := s.Get(t.Context(), namespace, second)
	if !errors.Is(err, ErrNoRoom) || errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "use take 40960 of the 77824 bytes") {
		t.Fatalf("got %v, want ErrNoRoom with the numbers", err)
	}
	if !isKept(s, first) {
		t.Fatal("a bundle in use was dropped")
	}
	assertNoPartials(t, s)
	held.Release()
	mustGet(t, s, second).Release()
	if isKept(s, first) {
		t.Error("both are there")
	}
}

func TestABundleLargerThanTheBudgetIsRefused(t *testing.T) {
	digest, data := code(t, "large", 10)
	small, other := code(t, "small", 5)
	f := &fetcher{data: map[string][]byte{digest: data, small: other}}
	s := openIn(t, t.TempDir(), f, Options{Budget: 9 * blockSize})
	mustGet(t, s, small).Release()
	_, err := s.Get(t.Context(), namespace, digest)
	if !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), `"index.js"`) || !strings.Contains(err.Error(), "agent.bundleMiB") {
		t.Errorf("got %v, want a refusal that says what to do", err)
	}
	if s.Stats().Evicted != 0 {
		t.Error("another bundle was dropped for it in vain")
	}
	assertNoPartials(t, s)
}

func TestALowerBudgetIsKeptFromTheStart(t *testing.T) {
	dir := t.TempDir()
	f := &fetcher{data: map[string][]byte{}}
	s := openIn(t, dir, f, Options{})
	digests := make([]string, 3)
	for i := range digests {
		var data []byte
		digests[i], data = code(t, fmt.Sprint(i), 10)
		f.data[digests[i]] = data
		mustGet(t, s, digests[i]).Release()
		s.touch(s.entries[keptAs(digests[i])], time.Unix(1e9-int64(i), 0)) // the last is the oldest
	}
	s.Close()
	s = openIn(t, dir, f, Options{Budget: 20 * blockSize})
	for i, want := range []bool{true, true, false} {
		if got := isKept(s, digests[i]); got != want {
			t.Errorf("bundle %d: kept %v, want %v", i, got, want)
		}
	}
	assertNoPartials(t, s)
}

func TestTheFetchesAtOnceAreBounded(t *testing.T) {
	f := &fetcher{data: map[string][]byte{}, gate: make(chan struct{})}
	s := openStore(t, f, Limits{})
	var wg sync.WaitGroup
	for i := range 3 * maxBusy {
		digest, data := code(t, fmt.Sprint(i), 4)
		f.data[digest] = data
		wg.Go(func() { mustGet(t, s, digest).Release() })
	}
	for range 3 * maxBusy {
		f.gate <- struct{}{}
		if n := len(s.busy); n > maxBusy {
			t.Errorf("%d fetches at once", n)
		}
	}
	wg.Wait()
	if most := f.most.Load(); most > maxBusy {
		t.Errorf("%d fetches at once", most)
	}
}

func TestTwoStoresDoNotShareAFolder(t *testing.T) {
	dir := t.TempDir()
	s := openIn(t, dir, &fetcher{}, Options{})
	if other, err := Open(dir, &fetcher{}, Options{}); err == nil {
		other.Close()
		t.Fatal("the folder was opened twice")
	} else if !strings.Contains(err.Error(), "in use by another process") {
		t.Error(err)
	}
	s.Close()
	openIn(t, dir, &fetcher{}, Options{})
}

// Whatever is asked for in whatever order, by however many, over restarts and
// damage: what Get returns is the bundle, whole, as long as it is in use; the
// budget holds; and the books are those of the disk.
func TestTheBooksAreThoseOfTheDisk(t *testing.T) {
	const budget = 20 * blockSize
	f := &fetcher{data: map[string][]byte{}}
	var digests, contents []string
	for i := range 8 {
		digest, data := code(t, fmt.Sprint(i), 4+i)
		f.data[digest] = data
		digests = append(digests, digest)
		contents = append(contents, fmt.Sprint(i))
	}
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp("", "bundles")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		s, err := Open(dir, f, Options{Budget: budget, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		held := map[int][]*Bundle{}
		defer func() { s.Close() }()
		check := func() {
			for i, uses := range held {
				if len(uses) == 0 {
					continue
				}
				got, err := os.ReadFile(filepath.Join(uses[0].Dir(), "index.js"))
				if err != nil || len(got) != (1+i)*blockSize || !strings.HasPrefix(string(got), contents[i]+"x") {
					t.Fatalf("bundle %d in use: %d bytes, %v", i, len(got), err)
				}
			}
			names, err := os.ReadDir(filepath.Join(dir, "sha256"))
			if err != nil {
				t.Fatal(err)
			}
			var sum int64
			for _, n := range names {
				m, err := readManifest(s.path(n.Name()))
				if err != nil {
					t.Fatal(err)
				}
				sum += m.Bytes
			}
			if stats := s.Stats(); stats.Bytes != sum || stats.Bundles != len(names) || sum > budget {
				t.Fatalf("%d bundles of %d bytes are on the disk, the budget is %d and the books say %+v", len(names), sum, budget, stats)
			}
			if left, err := os.ReadDir(filepath.Join(dir, "partial")); err != nil || len(left) > 0 {
				t.Fatalf("left behind: %v (%v)", left, err)
			}
		}
		which := rapid.IntRange(0, len(digests)-1)
		t.Repeat(map[string]func(*rapid.T){
			"get": func(t *rapid.T) {
				i := which.Draw(t, "bundle")
				b, err := s.Get(context.Background(), namespace, digests[i])
				if errors.Is(err, ErrNoRoom) {
					var others int64
					for j, uses := range held {
						if len(uses) > 0 {
							others += int64(4+j) * blockSize
						}
					}
					if others+int64(4+i)*blockSize <= budget {
						t.Fatalf("bundle %d: %v, but only %d bytes are in use", i, err, others)
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				held[i] = append(held[i], b)
			},
			"get many": func(t *rapid.T) {
				i := which.Draw(t, "bundle")
				var wg sync.WaitGroup
				for j := range 4 {
					wg.Go(func() {
						ctx, cancel := context.WithCancel(context.Background())
						if j > 0 {
							cancel()
						}
						defer cancel()
						if b, err := s.Get(ctx, namespace, digests[i]); err == nil {
							b.Release()
						}
					})
				}
				wg.Wait()
				s.running.Wait()
			},
			"release": func(t *rapid.T) {
				i := which.Draw(t, "bundle")
				if n := len(held[i]); n > 0 {
					held[i][n-1].Release()
					held[i] = held[i][:n-1]
				}
			},
			"damage": func(t *rapid.T) {
				i := which.Draw(t, "bundle")
				if len(held[i]) == 0 && isKept(s, digests[i]) {
					if err := os.Truncate(filepath.Join(s.path(keptAs(digests[i])), "content", "index.js"), 1); err != nil {
						t.Fatal(err)
					}
				}
			},
			"restart": func(t *rapid.T) {
				s.Close()
				clear(held)
				if s, err = Open(dir, f, Options{Budget: budget, Log: slog.New(slog.DiscardHandler)}); err != nil {
					t.Fatal(err)
				}
			},
			"": func(*rapid.T) { check() },
		})
	})
}

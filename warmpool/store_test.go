package warmpool

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	bolt "go.etcd.io/bbolt"
	"go.uber.org/goleak"

	agentv1 "sanfran.dev/proto/sanfran/agent/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func openStore(t *testing.T, path string) *Store {
	t.Helper()
	s, err := OpenStore(path, 8<<20)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func content(seed uint64, size int) ([]byte, string) {
	data := make([]byte, size)
	rng := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	rng.Read(data)
	sum := sha256.Sum256(data)
	return data, "sha256:" + hex.EncodeToString(sum[:])
}

func read(t *testing.T, s *Store, digest string) []byte {
	t.Helper()
	r, err := s.Open(digest)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	data, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func countChunks(t *testing.T, s *Store) (n int) {
	t.Helper()
	if err := s.db.View(func(tx *bolt.Tx) error {
		n = tx.Bucket(bucketChunks).Stats().KeyN
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestPutAndOpen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a", "store.db")
	s := openStore(t, path)
	for i, size := range []int{0, 1, chunkBytes - 1, chunkBytes, chunkBytes + 1, 3*chunkBytes + 7} {
		data, digest := content(uint64(i), size)
		if err := s.Put(t.Context(), digest, bytes.NewReader(data)); err != nil {
			t.Fatalf("size %d: %v", size, err)
		}
		if got := read(t, s, digest); !bytes.Equal(got, data) {
			t.Errorf("size %d: read back %d other bytes", size, len(got))
		}
		if err := s.Put(t.Context(), digest, nil); err != nil {
			t.Errorf("size %d: a second Put: %v", size, err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openStore(t, path)
	data, digest := content(5, 3*chunkBytes+7)
	if got := read(t, s, digest); !bytes.Equal(got, data) {
		t.Error("another content after opening anew")
	}
}

func TestPutRefuses(t *testing.T) {
	s := openStore(t, filepath.Join(t.TempDir(), "store.db"))
	data, digest := content(1, 2*chunkBytes)
	_, other := content(2, 10)
	_, large := content(3, 10)
	broken := io.MultiReader(bytes.NewReader(data), &failing{})
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	for name, err := range map[string]error{
		"wrong content": s.Put(t.Context(), other, bytes.NewReader(data)),
		"too large":     s.Put(t.Context(), large, io.LimitReader(zeros{}, 9<<20)),
		"broken reader": s.Put(t.Context(), digest, broken),
		"cancelled":     s.Put(cancelled, digest, bytes.NewReader(data)),
		"no digest":     s.Put(t.Context(), "", bytes.NewReader(data)),
		"upper case":    s.Put(t.Context(), strings.ToUpper(digest), bytes.NewReader(data)),
		"path":          s.Put(t.Context(), "sha256:../../x", bytes.NewReader(data)),
	} {
		if err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if n := countChunks(t, s); n != 0 {
		t.Errorf("%d chunks are left", n)
	}
	if _, err := s.Open(digest); !errors.Is(err, ErrNoBundle) {
		t.Errorf("Open: %v, want ErrNoBundle", err)
	}
}

type failing struct{}

func (*failing) Read([]byte) (int, error) { return 0, errors.New("the connection broke") }

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestPutConcurrently(t *testing.T) {
	s := openStore(t, filepath.Join(t.TempDir(), "store.db"))
	data, digest := content(1, 2*chunkBytes)
	var all sync.WaitGroup
	for range 6 {
		all.Go(func() {
			if err := s.Put(t.Context(), digest, bytes.NewReader(data)); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if got := read(t, s, digest); !bytes.Equal(got, data) {
		t.Error("another content")
	}
	if n := countChunks(t, s); n != 2 {
		t.Errorf("%d chunks, want 2", n)
	}
}

// TestI6CrashAtAnyChunk copies the file as it is on disk while a bundle is
// being written, after every chunk and after the acknowledgement: what a power
// loss at that instruction would leave. The copy must open, hold every bundle
// that had been acknowledged, and nothing of the other.
func TestI6CrashAtAnyChunk(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "store.db")
	s := openStore(t, path)
	first, firstDigest := content(1, chunkBytes+1)
	if err := s.Put(t.Context(), firstDigest, bytes.NewReader(first)); err != nil {
		t.Fatal(err)
	}
	second, secondDigest := content(2, 4*chunkBytes)
	crashes := 0
	crash := func(acknowledged bool) {
		crashes++
		image, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		copyPath := filepath.Join(dir, "crash.db")
		if err := os.WriteFile(copyPath, image, 0o600); err != nil {
			t.Fatal(err)
		}
		after := openStore(t, copyPath)
		defer after.Close()
		if got := read(t, after, firstDigest); !bytes.Equal(got, first) {
			t.Error("the acknowledged bundle is lost")
		}
		ok, err := after.Has(secondDigest)
		if err != nil || ok != acknowledged {
			t.Errorf("crash %d: has the other: %v, %v, want %v", crashes, ok, err, acknowledged)
		}
		want := 2
		if acknowledged {
			want = 6
		}
		if n := countChunks(t, after); n != want {
			t.Errorf("crash %d: %d chunks, want %d", crashes, n, want)
		}
	}
	if err := s.Put(t.Context(), secondDigest, &hooked{r: bytes.NewReader(second), hook: func() { crash(false) }}); err != nil {
		t.Fatal(err)
	}
	crash(true)
	if crashes < 5 {
		t.Errorf("only %d crashes were tried", crashes)
	}
}

// hooked calls hook before each chunk's first byte.
type hooked struct {
	r    io.Reader
	n    int
	hook func()
}

func (h *hooked) Read(p []byte) (int, error) {
	if h.n%chunkBytes == 0 {
		h.hook()
	}
	n, err := h.r.Read(p)
	h.n += n
	return n, err
}

func TestSweep(t *testing.T) {
	s := openStore(t, filepath.Join(t.TempDir(), "store.db"))
	kept, keptDigest := content(1, 10)
	unused, unusedDigest := content(2, 70*chunkBytes/16)
	for digest, data := range map[string][]byte{keptDigest: kept, unusedDigest: unused} {
		if err := s.Put(t.Context(), digest, bytes.NewReader(data)); err != nil {
			t.Fatal(err)
		}
	}
	referenced := func(digest string) bool { return digest == keptDigest }
	if n, err := s.Sweep(referenced, time.Hour); n != 0 || err != nil {
		t.Errorf("young bundles: %d, %v", n, err)
	}
	reader, err := s.Open(unusedDigest)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := s.Sweep(referenced, -time.Second); n != 1 || err != nil {
		t.Errorf("swept %d, %v, want 1", n, err)
	}
	if _, err := io.ReadAll(reader); !errors.Is(err, ErrNoBundle) {
		t.Errorf("reading on: %v, want ErrNoBundle", err)
	}
	if n := countChunks(t, s); n != 1 {
		t.Errorf("%d chunks, want 1", n)
	}
	if got := read(t, s, keptDigest); !bytes.Equal(got, kept) {
		t.Error("the kept bundle changed")
	}
}

// TestSweepSparesWhatIsStoredAgain: it is old, but its assignment is coming.
func TestSweepSparesWhatIsStoredAgain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	synctest.Test(t, func(t *testing.T) {
		s, err := OpenStore(path, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		data, digest := content(1, 10)
		nobody := func(string) bool { return false }
		for range 2 {
			if err := s.Put(t.Context(), digest, bytes.NewReader(data)); err != nil {
				t.Fatal(err)
			}
			if n, err := s.Sweep(nobody, sweepMinAge); n != 0 || err != nil {
				t.Errorf("swept %d, %v, though it was stored this moment", n, err)
			}
			time.Sleep(2 * sweepMinAge)
		}
		if n, err := s.Sweep(nobody, sweepMinAge); n != 1 || err != nil {
			t.Errorf("swept %d, %v, want 1", n, err)
		}
	})
}

func TestLedger(t *testing.T) {
	s := openStore(t, filepath.Join(t.TempDir(), "store.db"))
	a := Home{Node: "n1", Epoch: &agentv1.Epoch{Generation: 2, Counter: 7}, Content: "c"}
	if err := s.WriteLedger(map[string]Home{"a": a, "b": a}); err != nil {
		t.Fatal(err)
	}
	if err := s.WriteLedger(map[string]Home{"b": {}, "never": {}}); err != nil {
		t.Fatal(err)
	}
	got, err := s.ReadLedger()
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 1 || got["a"].Node != "n1" || got["a"].Content != "c" || compareEpochs(got["a"].Epoch, a.Epoch) != 0 {
		t.Errorf("read back %v", got)
	}
}

func TestOpenStoreRefusesALaterVersion(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	s := openStore(t, path)
	if err := s.db.Update(func(tx *bolt.Tx) error {
		return tx.Bucket(bucketMeta).Put(keyVersion, binary.BigEndian.AppendUint64(nil, 99))
	}); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenStore(path, 1); err == nil || !strings.Contains(err.Error(), "99") {
		t.Errorf("got %v, want a refusal that names version 99", err)
	}
}

func TestPlace(t *testing.T) {
	for _, c := range []struct {
		name       string
		candidates []Candidate
		want       map[string]bool
	}{
		{"none", nil, map[string]bool{"": true}},
		{"one", []Candidate{{Node: "a"}}, map[string]bool{"a": true}},
		{"warm first", []Candidate{{Node: "a", HasBundle: true}, {Node: "b", FreeWarm: 1}}, map[string]bool{"b": true}},
		{"bundle and warm", []Candidate{{Node: "a", FreeWarm: 9}, {Node: "b", FreeWarm: 1, HasBundle: true}, {Node: "c", FreeWarm: 9}}, map[string]bool{"b": true}},
		{"more warm", []Candidate{{Node: "a", FreeWarm: 3}, {Node: "b", FreeWarm: 2}}, map[string]bool{"a": true}},
		{"fewer pods", []Candidate{{Node: "a", Pods: 3}, {Node: "b", Pods: 2}}, map[string]bool{"b": true}},
		{"the worst of three never", []Candidate{{Node: "a", FreeWarm: 3}, {Node: "b", FreeWarm: 2}, {Node: "c", FreeWarm: 1}}, map[string]bool{"a": true, "b": true}},
	} {
		got := make(map[string]bool)
		for seed := range uint64(200) {
			node, ok := Place(rand.New(rand.NewPCG(seed, 1)), c.candidates)
			if ok != (len(c.candidates) > 0) {
				t.Errorf("%s: ok %v", c.name, ok)
			}
			again, _ := Place(rand.New(rand.NewPCG(seed, 1)), c.candidates)
			if again != node {
				t.Errorf("%s: %q and then %q with the same seed", c.name, node, again)
			}
			got[node] = true
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s: %s", c.name, diff)
		}
	}
}

func TestPoolSizing(t *testing.T) {
	s := PoolSizing{Floor: 3, Unused: 1, Max: 20, DefaultRuntime: "node24", Refill: 500 * time.Millisecond}
	for _, used := range []bool{true, false} {
		for peak, want := range map[float64]int{0: 3, 1: 3, 5: 5, 19: 19, 1000: 20} {
			for _, runtime := range []string{"node24", "node26"} {
				if peak == 0 && runtime == "node26" && !used {
					want = 1
				}
				if got := s.Target(runtime, used, peak); got != want {
					t.Errorf("%v leases of %s a second, with pods %v: %d, want %d", peak, runtime, used, got, want)
				}
			}
		}
	}
	for _, c := range []struct {
		sizing PoolSizing
		want   int
	}{
		{PoolSizing{Floor: 3, DefaultRuntime: "node24", Max: 20}, 0},
		{PoolSizing{Floor: 3, Unused: 5, DefaultRuntime: "node24", Max: 20}, 3},
	} {
		if got := c.sizing.Target("node26", false, 0); got != c.want {
			t.Errorf("%+v: %d of a runtime that nobody uses, want %d", c.sizing, got, c.want)
		}
	}
	var a arrivals
	now := time.Unix(1_000_000, 0)
	for i := range 7 {
		a.add(now.Add(time.Duration(i) * time.Millisecond))
	}
	a.add(now.Add(30 * time.Second))
	if got := a.peak(now.Add(59 * time.Second)); got != 7 {
		t.Errorf("peak %v, want 7", got)
	}
	if got := a.peak(now.Add(61 * time.Second)); got != 1 {
		t.Errorf("peak %v after a minute, want 1", got)
	}
}

package bundle

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// namespace is whose bundles these tests get, unless they are about several.
const namespace = "default"

// keptAs is the name of a bundle's folder.
func keptAs(digest string) string {
	name, err := nameOf(namespace, digest)
	if err != nil {
		panic(err)
	}
	return name
}

func digestOf(data []byte) string {
	sum := sha256.Sum256(data)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// archive makes a tar of the headers; a regular file's content is its Linkname
// when Size is zero.
func archive(t testing.TB, headers ...tar.Header) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, h := range headers {
		content := ""
		if h.Typeflag == tar.TypeReg {
			content, h.Linkname = h.Linkname, ""
			h.Size = int64(len(content))
		}
		if h.Mode == 0 {
			h.Mode = 0o600
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func reg(name, content string) tar.Header {
	return tar.Header{Typeflag: tar.TypeReg, Name: name, Linkname: content}
}

// fetcher serves archives from memory and counts. With a gate each fetch waits
// for an element of it.
type fetcher struct {
	data             map[string][]byte
	calls, now, most atomic.Int32
	gate             chan struct{}
}

func (f *fetcher) Fetch(ctx context.Context, digest string) (io.ReadCloser, error) {
	f.most.Store(max(f.most.Load(), f.now.Add(1)))
	defer f.now.Add(-1)
	f.calls.Add(1)
	if f.gate != nil {
		select {
		case <-f.gate:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	data, ok := f.data[digest]
	if !ok {
		return nil, errors.New("unknown digest")
	}
	return io.NopCloser(bytes.NewReader(data)), nil
}

// waiting returns once so many fetches have begun.
func (f *fetcher) waiting(n int32) {
	for f.calls.Load() < n {
		runtime.Gosched()
	}
}

func openStore(t *testing.T, f Fetcher, limits Limits) *Store {
	t.Helper()
	return openIn(t, t.TempDir(), f, Options{Limits: limits})
}

func openIn(t *testing.T, dir string, f Fetcher, opts Options) *Store {
	t.Helper()
	opts.Log = slog.New(slog.NewTextHandler(t.Output(), nil))
	s, err := Open(dir, f, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func assertNoPartials(t *testing.T, s *Store) {
	t.Helper()
	left, err := os.ReadDir(filepath.Join(s.dir, "partial"))
	if err != nil {
		t.Fatal(err)
	}
	if len(left) != 0 {
		t.Errorf("left behind in partial: %v", left)
	}
}

func TestGetUnpacksForEverybodyToRead(t *testing.T) {
	data := archive(t,
		reg("./index.js", "module.exports = 1"),
		tar.Header{Typeflag: tar.TypeReg, Name: "bin/run", Linkname: "#!", Mode: 0o4700},
		tar.Header{Typeflag: tar.TypeSymlink, Name: "node_modules/.bin/x", Linkname: "../x/cli.js"},
		reg("node_modules/x/cli.js", "cli"),
		tar.Header{Typeflag: tar.TypeLink, Name: "copy.js", Linkname: "./index.js"},
		tar.Header{Typeflag: tar.TypeDir, Name: "empty/", Mode: 0o700},
	)
	f := &fetcher{data: map[string][]byte{digestOf(data): data}}
	s := openStore(t, f, Limits{})
	b, err := s.Get(t.Context(), namespace, digestOf(data))
	if err != nil {
		t.Fatal(err)
	}
	defer b.Release()
	for name, want := range map[string]string{
		"index.js": "module.exports = 1", "copy.js": "module.exports = 1", "bin/run": "#!", "node_modules/.bin/x": "cli",
	} {
		got, err := os.ReadFile(filepath.Join(b.Dir(), name))
		if err != nil || string(got) != want {
			t.Errorf("%s: %q, %v; want %q", name, got, err, want)
		}
	}
	for name, want := range map[string]os.FileMode{
		".": os.ModeDir | 0o755, "index.js": 0o644, "bin": os.ModeDir | 0o755, "bin/run": 0o755, "empty": os.ModeDir | 0o755,
	} {
		info, err := os.Lstat(filepath.Join(b.Dir(), name))
		if err != nil || info.Mode() != want {
			t.Errorf("mode of %s: %v, %v; want %v", name, info.Mode(), err, want)
		}
	}
	assertNoPartials(t, s)
}

func TestGetSharesOneFetch(t *testing.T) {
	data := archive(t, reg("index.js", "x"))
	f := &fetcher{data: map[string][]byte{digestOf(data): data}, gate: make(chan struct{})}
	s := openStore(t, f, Limits{})
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			b, err := s.Get(t.Context(), namespace, digestOf(data))
			if err != nil {
				t.Error(err)
				return
			}
			b.Release()
			b.Release()
		})
	}
	close(f.gate)
	wg.Wait()
	if n := f.calls.Load(); n != 1 {
		t.Errorf("%d fetches, want 1", n)
	}
}

func TestGetGivenUpByAllEndsTheFetch(t *testing.T) {
	f := &fetcher{gate: make(chan struct{})}
	s := openStore(t, f, Limits{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Get(ctx, namespace, digestOf(nil)); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v, want context.Canceled", err)
	}
	s.running.Wait()
	assertNoPartials(t, s)
}

func TestFailureIsNotRemembered(t *testing.T) {
	data := archive(t, reg("index.js", "x"))
	f := &fetcher{data: map[string][]byte{}}
	s := openStore(t, f, Limits{})
	if _, err := s.Get(t.Context(), namespace, digestOf(data)); err == nil {
		t.Fatal("an unknown digest was found")
	}
	f.data[digestOf(data)] = data
	b, err := s.Get(t.Context(), namespace, digestOf(data))
	if err != nil {
		t.Fatal(err)
	}
	b.Release()
}

func TestRefusesWhatIsNotTheDigest(t *testing.T) {
	data := archive(t, reg("index.js", "x"))
	good := digestOf(data)
	for name, served := range map[string][]byte{
		"other content":         archive(t, reg("index.js", "y")),
		"more after the end":    append(bytes.Clone(data), 0),
		"another after the end": append(bytes.Clone(data), data...),
		"no archive":            bytes.Repeat([]byte("garbage!"), 200),
		"nothing":               {},
		"end of the archive":    data[:len(data)-512],
		"cut inside a header":   data[:100],
	} {
		t.Run(name, func(t *testing.T) {
			s := openStore(t, &fetcher{data: map[string][]byte{good: served}}, Limits{})
			if b, err := s.Get(t.Context(), namespace, good); err == nil {
				t.Fatalf("unpacked to %s", b.Dir())
			}
			if _, err := os.Stat(s.path(keptAs(good))); err == nil {
				t.Error("a wrong bundle stands under the digest's name")
			}
			assertNoPartials(t, s)
		})
	}
}

func TestGetRefusesMalformedDigests(t *testing.T) {
	s := openStore(t, &fetcher{}, Limits{})
	for _, digest := range []string{"", "sha256:", "sha256:../../etc", "sha1:" + strings.Repeat("a", 64), "sha256:" + strings.Repeat("A", 64), strings.Repeat("a", 64)} {
		if _, err := s.Get(t.Context(), namespace, digest); err == nil {
			t.Errorf("%q was taken for a digest", digest)
		}
	}
}

func TestGetAfterClose(t *testing.T) {
	s := openStore(t, &fetcher{}, Limits{})
	s.Close()
	if _, err := s.Get(t.Context(), namespace, digestOf(nil)); !errors.Is(err, ErrClosed) {
		t.Errorf("got %v, want ErrClosed", err)
	}
}

func TestNamespacesShareNoFiles(t *testing.T) {
	data := archive(t, reg("index.js", "x"))
	s := openStore(t, &fetcher{data: map[string][]byte{digestOf(data): data}}, Limits{})
	files := map[string]os.FileInfo{}
	var each int64
	for i, ns := range []string{"a", "b"} {
		for range 2 { // the second time it is there
			b, err := s.Get(t.Context(), ns, digestOf(data))
			if err != nil {
				t.Fatal(err)
			}
			defer b.Release()
			if files[ns], err = os.Stat(filepath.Join(b.Dir(), "index.js")); err != nil {
				t.Fatal(err)
			}
		}
		stats := s.Stats()
		if i == 0 {
			each = stats.Bytes
		}
		if want := int64(i + 1); stats.Bundles != i+1 || stats.Bytes != want*each {
			t.Errorf("%d bundles of %d bytes for %d namespaces, the first had %d", stats.Bundles, stats.Bytes, want, each)
		}
	}
	if os.SameFile(files["a"], files["b"]) {
		t.Error("two namespaces have the same file")
	}
}

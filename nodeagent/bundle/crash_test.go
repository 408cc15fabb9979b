package bundle

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// disk is a store's folder as a crash left it.
type disk struct {
	after string
	dir   string
}

func copyTree(t *testing.T, from string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "store")
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	return to
}

// record makes a store whose disk is copied before each of its steps.
func record(t *testing.T, s *Store) func() []disk {
	var disks []disk
	n := 0
	s.step = func(what string) {
		n++
		disks = append(disks, disk{after: fmt.Sprintf("%d: %s", n, what), dir: copyTree(t, s.dir)})
	}
	return func() []disk {
		s.step("the end")
		return disks
	}
}

// bundleFiles are the files of the bundle that the tests here crash with.
var bundleFiles = map[string]string{"index.js": strings.Repeat("module.exports = 1\n", 500), "lib/a.js": "a", "lib/b.js": "b"}

func crashArchive(t *testing.T, extra string) []byte {
	return archive(t, reg("index.js", bundleFiles["index.js"]), reg("lib/a.js", "a"), reg("lib/b.js", "b"),
		tar.Header{Typeflag: tar.TypeDir, Name: "empty/" + extra}, symlink("main.js", "index.js"))
}

// wantWhole fails unless the store serves exactly the bundle.
func wantWhole(t *testing.T, s *Store, digest string) {
	t.Helper()
	b, err := s.Get(t.Context(), namespace, digest)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Release()
	for name, want := range bundleFiles {
		if got, err := os.ReadFile(filepath.Join(b.Dir(), name)); err != nil || string(got) != want {
			t.Errorf("%s has %d bytes (%v), want %d", name, len(got), err, len(want))
		}
	}
	if _, err := os.Stat(filepath.Join(b.Dir(), "empty")); err != nil {
		t.Error(err)
	}
	if got, err := os.ReadFile(filepath.Join(b.Dir(), "main.js")); err != nil || string(got) != bundleFiles["index.js"] {
		t.Errorf("main.js: %v", err)
	}
}

// steps runs a store through everything that it does to its disk, and returns
// the disk before each step.
func steps(t *testing.T, f *fetcher, digest, other string) []disk {
	dir := t.TempDir()
	s := openIn(t, dir, f, Options{})
	end := record(t, s)
	mustGet(t, s, digest).Release() // fetched
	if err := os.Remove(filepath.Join(s.path(keptAs(digest)), "content", "lib", "a.js")); err != nil {
		t.Fatal(err)
	}
	mustGet(t, s, digest).Release() // found damaged, taken away, fetched
	s.boot = "a later boot"
	mustGet(t, s, digest).Release() // checked, its manifest renewed
	s.opts.Budget = s.Stats().Bytes + blockSize
	mustGet(t, s, other).Release() // evicted
	disks := end()
	s.Close()
	return disks
}

// I8, and never half a bundle: the agent may be killed before any step.
func TestKilledAtAnyStep(t *testing.T) {
	data, otherData := crashArchive(t, ""), crashArchive(t, "other")
	f := &fetcher{data: map[string][]byte{digestOf(data): data, digestOf(otherData): otherData}}
	disks := steps(t, f, digestOf(data), digestOf(otherData))
	if len(disks) < 12 {
		t.Fatalf("only %d steps", len(disks))
	}
	for _, d := range disks {
		t.Run(d.after, func(t *testing.T) {
			s := openIn(t, d.dir, f, Options{})
			wantWhole(t, s, digestOf(data))
			wantWhole(t, s, digestOf(otherData))
			assertNoPartials(t, s)
		})
	}
}

// The power may fail before any step, too: whatever was written since the
// machine was booted may be lost, of each file some or all.
func TestPowerLossAtAnyStep(t *testing.T) {
	data, otherData := crashArchive(t, ""), crashArchive(t, "other")
	f := &fetcher{data: map[string][]byte{digestOf(data): data, digestOf(otherData): otherData}}
	disks := steps(t, f, digestOf(data), digestOf(otherData))
	losses := map[string]func(path string, size int64) error{
		"nothing": func(string, int64) error { return nil },
		"content": func(path string, _ int64) error { return os.Truncate(path, 0) },
		"the end": func(path string, size int64) error { return os.Truncate(path, size/2) },
		"zeros": func(path string, size int64) error {
			if err := os.Truncate(path, 0); err != nil {
				return err
			}
			return os.Truncate(path, size)
		},
		"the file": func(path string, _ int64) error { return os.Remove(path) },
	}
	for n, d := range disks {
		var files []string
		err := filepath.WalkDir(d.dir, func(path string, e fs.DirEntry, err error) error {
			if err == nil && e.Type().IsRegular() {
				files = append(files, strings.TrimPrefix(path, d.dir))
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		for loss, lose := range losses {
			for i := range len(files) + 1 { // each file alone, and all
				if i < len(files) && n < len(disks)-1 {
					continue // each alone is tried where all has been done
				}
				name := "all"
				if i < len(files) {
					name = files[i]
				}
				t.Run(fmt.Sprintf("%s/%s of %s", d.after, loss, strings.ReplaceAll(name, "/", "|")), func(t *testing.T) {
					dir := copyTree(t, d.dir)
					for j, file := range files {
						info, err := os.Lstat(dir + file)
						if err != nil {
							t.Fatal(err)
						}
						if i == j || i == len(files) {
							if err := lose(dir+file, info.Size()); err != nil {
								t.Fatal(err)
							}
						}
					}
					s := openIn(t, dir, f, Options{})
					s.boot = "the boot after the power loss"
					wantWhole(t, s, digestOf(data))
					wantWhole(t, s, digestOf(otherData))
					assertNoPartials(t, s)
				})
			}
		}
	}
}

func TestBundlesSurviveRestartsAndBoots(t *testing.T) {
	data := crashArchive(t, "")
	f := &fetcher{data: map[string][]byte{digestOf(data): data}}
	dir := t.TempDir()
	for _, boot := range []string{"first", "first", "second", "second"} {
		s := openIn(t, dir, f, Options{})
		s.boot = boot
		wantWhole(t, s, digestOf(data))
		if m, err := readManifest(s.path(keptAs(digestOf(data)))); err != nil || m.Boot != boot {
			t.Errorf("in the boot %q the manifest is %+v, %v", boot, m, err)
		}
		s.Close()
		if n := f.calls.Load(); n != 1 {
			t.Errorf("after the boot %q: %d fetches, want 1", boot, n)
		}
	}
}

func TestADamagedBundleIsFetchedAgain(t *testing.T) {
	data := crashArchive(t, "")
	digest := digestOf(data)
	for name, damage := range map[string]struct {
		afterBoot bool
		do        func(dir string) error
	}{
		"file removed":    {false, func(dir string) error { return os.Remove(filepath.Join(dir, "content/lib/a.js")) }},
		"file added":      {false, func(dir string) error { return os.WriteFile(filepath.Join(dir, "content/x"), nil, 0o644) }},
		"file cut":        {false, func(dir string) error { return os.Truncate(filepath.Join(dir, "content/index.js"), 10) }},
		"file now folder": {false, func(dir string) error { return swap(dir, func(p string) error { return os.Mkdir(p, 0o755) }) }},
		"file now link":   {false, func(dir string) error { return swap(dir, func(p string) error { return os.Symlink("b.js", p) }) }},
		"file executable": {false, func(dir string) error { return os.Chmod(filepath.Join(dir, "content/index.js"), 0o755) }},
		"folder removed":  {false, func(dir string) error { return os.RemoveAll(filepath.Join(dir, "content/empty")) }},
		"all removed":     {false, os.RemoveAll},
		"store emptied": {false, func(dir string) error {
			return errors.Join(os.RemoveAll(filepath.Dir(dir)), os.RemoveAll(filepath.Join(dir, "../../partial")))
		}},
		"content removed":  {false, func(dir string) error { return os.RemoveAll(filepath.Join(dir, "content")) }},
		"manifest removed": {false, func(dir string) error { return os.Remove(filepath.Join(dir, manifestName)) }},
		"other bytes": {true, func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "content/lib/a.js"), []byte("z"), 0o644)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			f := &fetcher{data: map[string][]byte{digest: data}}
			dir := t.TempDir()
			for _, restarted := range []bool{false, true} {
				s := openIn(t, dir, f, Options{})
				mustGet(t, s, digest).Release()
				before := f.calls.Load()
				if err := damage.do(s.path(keptAs(digest))); err != nil {
					t.Fatal(err)
				}
				if restarted {
					s.Close()
					s = openIn(t, dir, f, Options{})
				}
				if damage.afterBoot {
					s.boot = fmt.Sprint("another boot ", restarted)
				}
				wantWhole(t, s, digest)
				if n := f.calls.Load() - before; n != 1 {
					t.Errorf("restarted %v: %d fetches, want 1", restarted, n)
				}
				if stats := s.Stats(); stats.Bundles != 1 || stats.Bytes != s.entries[keptAs(digest)].bytes {
					t.Errorf("restarted %v: %+v", restarted, stats)
				}
				assertNoPartials(t, s)
				s.Close()
			}
		})
	}
}

func swap(dir string, with func(path string) error) error {
	path := filepath.Join(dir, "content/lib/a.js")
	if err := os.Remove(path); err != nil {
		return err
	}
	return with(path)
}

func TestWhatIsNoBundleIsRemovedAtOpen(t *testing.T) {
	dir := t.TempDir()
	openIn(t, dir, &fetcher{}, Options{}).Close()
	for _, name := range []string{"sha256/" + strings.Repeat("a", 32) + "-" + strings.Repeat("a", 64) + "/content", "sha256/x", "partial/1/content", "partial/old-2/old/content"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "sha256", strings.Repeat("b", 64)), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s := openIn(t, dir, &fetcher{}, Options{})
	assertNoPartials(t, s)
	if left, err := os.ReadDir(filepath.Join(dir, "sha256")); err != nil || len(left) != 0 {
		t.Errorf("left: %v (%v)", left, err)
	}
}

func TestWhoComesWhenAFetchIsGivenUpGetsAnother(t *testing.T) {
	data := crashArchive(t, "")
	digest := digestOf(data)
	f := &fetcher{data: map[string][]byte{digest: data}, gate: make(chan struct{})}
	var told []error
	s := openIn(t, t.TempDir(), f, Options{Fetched: func(_ time.Duration, err error) { told = append(told, err) }})
	ctx, giveUp := context.WithCancel(t.Context())
	first := make(chan error, 1)
	go func() { _, err := s.Get(ctx, namespace, digest); first <- err }()
	f.waiting(1)
	giveUp()
	<-first
	second := make(chan error, 1)
	go func() {
		b, err := s.Get(context.Background(), namespace, digest)
		if err == nil {
			b.Release()
		}
		second <- err
	}()
	f.waiting(2)
	close(f.gate)
	if err := <-second; err != nil {
		t.Error(err)
	}
	s.Close()
	if len(told) != 1 || told[0] != nil {
		t.Errorf("told of the fetches %v, want one success", told)
	}
}

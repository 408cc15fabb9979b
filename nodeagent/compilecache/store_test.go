package compilecache

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func open(t *testing.T, dir string, limits Limits) *Store {
	t.Helper()
	s, err := Open(dir, limits)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// write does what a container does, into a plain folder instead of a mount.
func write(t *testing.T, c *Claim, files map[string]string) {
	t.Helper()
	dir, err := c.folder(scratchName)
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func keep(t *testing.T, s *Store, key string, files map[string]string) {
	t.Helper()
	c := s.Claim(key)
	if c == nil {
		t.Fatalf("no claim on %s", key)
	}
	write(t, c, files)
	if _, err := c.Keep(); err != nil {
		t.Fatal(err)
	}
}

func content(t *testing.T, dir string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		files[e.Name()] = string(data)
	}
	return files
}

// left are the names of what is half done.
func left(t *testing.T, s *Store) []string {
	t.Helper()
	entries, err := os.ReadDir(s.path("partial"))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestACacheIsKeptAndUsed(t *testing.T) {
	s := open(t, t.TempDir(), Limits{Least: 5})
	key := Key("default", "bundle")
	if s.Use(key) != nil {
		t.Fatal("a cache before there is one")
	}
	files := map[string]string{"0123abcd": "compiled", PathsFile: "{}", "0123abcd.x1Y2z3": "unfinished"}
	keep(t, s, key, files)
	c := s.Use(key)
	if c == nil {
		t.Fatal("no cache after it was kept")
	}
	delete(files, "0123abcd.x1Y2z3")
	if diff := cmp.Diff(files, content(t, c.Dir())); diff != "" {
		t.Error(diff)
	}
	for name := range files {
		if info, err := os.Stat(filepath.Join(c.Dir(), name)); err != nil || info.Mode() != 0o444 {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
	}
	c.Release()
	c.Release()
	if s.Claim(key) != nil {
		t.Error("a claim on what is there")
	}
	if s.Use(Key("other", "bundle")) != nil {
		t.Error("another key's cache")
	}
	if names := left(t, s); names != nil {
		t.Errorf("left: %q", names)
	}
	if diff := cmp.Diff(Stats{Caches: 1, Bytes: 10}, s.Stats()); diff != "" {
		t.Error(diff)
	}
}

func TestKeysOfDifferentPartsDiffer(t *testing.T) {
	seen := map[string]bool{}
	for _, parts := range [][]string{{"ab", "c"}, {"a", "bc"}, {"abc"}, {"abc", ""}, {"c", "ab"}, {"2 ab\n1 c"}} {
		key := Key(parts...)
		if seen[key] {
			t.Errorf("%q has another's key", parts)
		}
		seen[key] = true
	}
}

func TestATooSmallCacheIsRememberedAndNotUsed(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Limits{Least: 100})
	key := Key("small")
	c := s.Claim(key)
	write(t, c, map[string]string{"0123abcd": "little"})
	result, err := c.Keep()
	if diff := cmp.Diff(Result{Files: 1, Bytes: 6}, result); err != nil || diff != "" {
		t.Errorf("%v %s", err, diff)
	}
	for _, s := range []*Store{s, open(t, dir, Limits{})} {
		if s.Use(key) != nil || s.Claim(key) != nil || s.Stats() != (Stats{}) {
			t.Errorf("used or claimed again: %+v", s.Stats())
		}
	}
}

func TestOneWriterWins(t *testing.T) {
	s := open(t, t.TempDir(), Limits{Least: 1})
	key := Key("raced")
	var won atomic.Int32
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			c := s.Claim(key)
			if c == nil {
				return
			}
			won.Add(1)
			write(t, c, map[string]string{"0123abcd": "x"})
			if _, err := c.Keep(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if won.Load() != 1 {
		t.Errorf("%d writers", won.Load())
	}
	given := Key("given up")
	c := s.Claim(given)
	if s.Claim(given) != nil {
		t.Error("two claims")
	}
	c.GiveUp()
	c.GiveUp()
	if c = s.Claim(given); c == nil {
		t.Fatal("no claim after one was given up")
	}
	if _, err := c.Keep(); err == nil {
		t.Error("kept without anything written")
	}
	if s.Claim(given) == nil {
		t.Error("no claim after one that failed")
	}
}

func TestTheLeastRecentlyUsedGoesFirstAndNeverOneInUse(t *testing.T) {
	s := open(t, t.TempDir(), Limits{Least: 1, Budget: 30})
	ten := map[string]string{"0123abcd": "0123456789"}
	a, b, c, d := Key("a"), Key("b"), Key("c"), Key("d")
	for _, key := range []string{a, b, c} {
		keep(t, s, key, ten)
	}
	used := s.Use(a) // the oldest, but in use
	keep(t, s, d, ten)
	for key, want := range map[string]bool{a: true, b: false, c: true, d: true} {
		if got := s.Use(key); (got != nil) != want {
			t.Errorf("%s is there: %v", key, got != nil)
		} else if got != nil && key != a {
			got.Release()
		}
	}
	if _, err := os.Stat(s.path("functions", b)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what was dropped: %v", err)
	}
	inUse := []*Cache{used, s.Use(a), s.Use(c), s.Use(d)}
	e := s.Claim(Key("e"))
	write(t, e, ten)
	if _, err := e.Keep(); err == nil || !strings.Contains(err.Error(), "no room") {
		t.Errorf("everything in use, and one more: %v", err)
	}
	for _, cache := range inUse {
		if len(content(t, cache.Dir())) != 1 {
			t.Error("a cache in use has lost its files")
		}
		cache.Release()
	}
	if names := left(t, s); names != nil {
		t.Errorf("left: %q", names)
	}
	if diff := cmp.Diff(Stats{Caches: 3, Bytes: 30, Evicted: 1}, s.Stats()); diff != "" {
		t.Error(diff)
	}
}

func TestTheBoundsHoldWhoeverAdds(t *testing.T) {
	s := open(t, t.TempDir(), Limits{Least: 1, Budget: 35, Caches: 3})
	var adding sync.WaitGroup
	for n := range 8 {
		adding.Go(func() {
			for i := range 20 {
				key := Key(fmt.Sprint((n + i) % 5))
				if c := s.Use(key); c != nil {
					if len(content(t, c.Dir())) != 1 {
						t.Error("a cache in use has no files")
					}
					c.Release()
				}
				c := s.Claim(key)
				if c == nil {
					continue
				}
				write(t, c, map[string]string{"0123abcd": "0123456789"})
				if _, err := c.Keep(); err != nil && !strings.Contains(err.Error(), "no room") {
					t.Error(err)
				}
			}
		})
	}
	adding.Wait()
	stats := s.Stats()
	kept, err := os.ReadDir(s.path("functions"))
	if err != nil || len(kept) != stats.Caches || stats.Caches > 3 || stats.Bytes != 10*int64(stats.Caches) || stats.Evicted == 0 {
		t.Errorf("%d folders, %+v, %v", len(kept), stats, err)
	}
	if names := left(t, s); names != nil {
		t.Errorf("left: %q", names)
	}
}

func TestUsesAreIndependent(t *testing.T) {
	s := open(t, t.TempDir(), Limits{Least: 1})
	keep(t, s, Key("a"), map[string]string{"00000001": "x"})
	var uses sync.WaitGroup
	for range 4 {
		uses.Go(func() {
			for range 50 {
				s.Use(Key("a")).Release()
			}
		})
	}
	uses.Wait()
}

func TestTheNumberOfCachesIsBounded(t *testing.T) {
	s := open(t, t.TempDir(), Limits{Caches: 3})
	for i := range 10 {
		keep(t, s, Key(fmt.Sprint(i)), map[string]string{"0123abcd": "x"}) // too small: a note only
	}
	if len(s.entries) != 3 {
		t.Errorf("%d", len(s.entries))
	}
}

func TestOpenKeepsWhatIsWholeAndSweepsTheRest(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Limits{Least: 1})
	old, newer := Key("old"), Key("newer")
	keep(t, s, old, map[string]string{"0123abcd": "0123456789"})
	keep(t, s, newer, map[string]string{"0123abcd": "0123456789"})
	past := time.Now().Add(-time.Hour)
	if err := os.Chtimes(s.path("functions", old), past, past); err != nil {
		t.Fatal(err)
	}
	write(t, s.Claim(Key("half")), map[string]string{"0123abcd": "x"}) // and then the agent dies
	foreign := []string{s.path("stranger"), s.path("functions", "stranger"), s.path("functions", strings.Repeat("z", 64))}
	for _, name := range foreign {
		if err := os.Mkdir(name, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	linked := s.path("functions", Key("linked"))
	if err := os.Mkdir(linked, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc/passwd", filepath.Join(linked, "0123abcd")); err != nil {
		t.Fatal(err)
	}

	s = open(t, dir, Limits{Least: 1, Budget: 25})
	for _, name := range append(foreign, linked) {
		if _, err := os.Lstat(name); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is still there: %v", name, err)
		}
	}
	if names := left(t, s); names != nil {
		t.Errorf("left: %q", names)
	}
	if diff := cmp.Diff(Stats{Caches: 2, Bytes: 20}, s.Stats()); diff != "" {
		t.Error(diff)
	}
	keep(t, s, Key("third"), map[string]string{"0123abcd": "0123456789"})
	if s.Use(old) != nil || s.Use(newer) == nil {
		t.Error("the order of use was lost")
	}

	if got := open(t, dir, Limits{Budget: 1}).Stats(); got.Bytes != 0 || got.Evicted != 2 {
		t.Errorf("opened with a smaller budget: %+v", got)
	}
}

func TestCachesOfAnEarlierBootAreDropped(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Limits{Least: 1})
	keep(t, s, Key("a"), map[string]string{"0123abcd": "x"})
	if err := os.WriteFile(s.path("boot"), []byte("another"), 0o600); err != nil {
		t.Fatal(err)
	}
	if s = open(t, dir, Limits{}); s.Stats() != (Stats{}) || s.Use(Key("a")) != nil {
		t.Errorf("%+v", s.Stats())
	}
}

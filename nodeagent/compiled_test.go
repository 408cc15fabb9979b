package nodeagent

import (
	"bytes"
	"context"
	"net"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"sanfran.dev/nodeagent/compilecache"
	"sanfran.dev/nodeagent/container"
	"sanfran.dev/nodeagent/workerconn"
)

func TestWhoSharesACompileCache(t *testing.T) {
	const digest, other = "sha256:aa", "sha256:bb"
	base := func() *Assignment {
		return &Assignment{Namespace: "default", Runtime: "node24", Entry: "/function", Mounts: []PodMount{{Path: "/function", Bundle: digest}}}
	}
	want, ok := compiledOf(base())
	if !ok {
		t.Fatal("an ordinary pod has no cache")
	}
	for name, c := range map[string]struct {
		change     func(*Assignment)
		none, same bool
	}{
		"another pod":        {change: func(a *Assignment) { a.PodName, a.PodUID, a.Hostname = "x", "y", "z" }, same: true},
		"other variables":    {change: func(a *Assignment) { a.Env = map[string]string{"A": "b", "NODE_COMPILE_CACHE": "/x"} }, same: true},
		"a volume elsewhere": {change: func(a *Assignment) { a.Mounts = append(a.Mounts, PodMount{Path: "/functions", EmptyDir: "x"}) }, same: true},
		"another namespace":  {change: func(a *Assignment) { a.Namespace = "other" }},
		"another runtime":    {change: func(a *Assignment) { a.Runtime = "node26" }},
		"another entry":      {change: func(a *Assignment) { a.Entry = "/function/b.js" }},
		"a command":          {change: func(a *Assignment) { a.Command = []string{"node", "b.js"} }},
		"other code":         {change: func(a *Assignment) { a.Mounts[0].Bundle = other }},
		"code elsewhere":     {change: func(a *Assignment) { a.Mounts[0].Path = "/app" }},
		"more code":          {change: func(a *Assignment) { a.Mounts = append(a.Mounts, PodMount{Path: "/function/lib", Bundle: other}) }},
		"no code":            {change: func(a *Assignment) { a.Mounts = []PodMount{{Path: "/function", EmptyDir: "x"}} }, none: true},
		"not wanted":         {change: func(a *Assignment) { a.Env = map[string]string{"NODE_DISABLE_COMPILE_CACHE": "1"} }, none: true},
		"files in the code": {change: func(a *Assignment) {
			a.Mounts = append(a.Mounts, PodMount{Path: "/function/c", Files: map[string][]byte{"a": nil}})
		}, none: true},
		"a volume over the code":         {change: func(a *Assignment) { a.Mounts = append(a.Mounts, PodMount{Path: "/function", EmptyDir: "x"}) }, none: true},
		"a volume above the cache":       {change: func(a *Assignment) { a.Mounts = append(a.Mounts, PodMount{Path: "/run", EmptyDir: "x"}) }, none: true},
		"a volume in place of the cache": {change: func(a *Assignment) { a.Mounts = append(a.Mounts, PodMount{Path: compileCacheBase, EmptyDir: "x"}) }, none: true},
		"a volume in the cache": {change: func(a *Assignment) {
			a.Mounts = append(a.Mounts, PodMount{Path: compileCacheBase + "/v24", EmptyDir: "x"})
		}, none: true},
	} {
		a := base()
		c.change(a)
		got, ok := compiledOf(a)
		if ok == c.none || ok && cmp.Equal(want, got) != c.same {
			t.Errorf("%s: %q, %v", name, got, ok)
		}
	}
}

func TestEnoughCode(t *testing.T) {
	large := bytes.Repeat([]byte("x"), leastCode)
	for name, c := range map[string]struct {
		files map[string][]byte
		want  bool
	}{
		"nothing":    {nil, false},
		"small":      {map[string][]byte{"index.js": large[1:]}, false},
		"large":      {map[string][]byte{"index.js": large}, true},
		"in parts":   {map[string][]byte{"index.mjs": large[:40<<10], "lib/deep/a.ts": large[:40<<10]}, true},
		"large data": {map[string][]byte{"index.js": nil, "data.json": large, "photo.png": large}, false},
	} {
		dir := t.TempDir()
		for file, content := range c.files {
			file = filepath.Join(dir, file)
			if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, content, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if got := enoughCode(dir); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestNamesOfCompileCaches(t *testing.T) {
	for name, want := range map[string]bool{
		"v24.21.0-x64-964aae3f-65534": true, "v26.10.0-nightly-arm64-0-0": true,
		"": false, "v24/../..": false, "..": false, "24": false, "v\x00": false, "V24": false, "v" + string(bytes.Repeat([]byte("1"), 100)): false,
	} {
		if got := validCompileCache(name); got != want {
			t.Errorf("%q: %v", name, got)
		}
	}
}

// TestACacheIsWrittenInAQuietMoment: not while requests come, once, and the
// instance can be retired meanwhile.
func TestACacheIsWrittenInAQuietMoment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, err := compilecache.Open(t.TempDir(), compilecache.Limits{})
		if err != nil {
			t.Fatal(err)
		}
		ours, worker := net.Pipe()
		conn := workerconn.New(ours, nil)
		defer conn.Close()
		defer worker.Close()
		i := newInstance(&warmContainer{container: idleContainer{}, conn: conn}, time.Now(), 0, func(string, time.Duration) {})
		i.compiled.claim = store.Claim("key")
		begun := time.Now()
		var at []time.Duration
		ended := make(chan cause)
		go func() {
			ended <- i.watch(time.Hour, func(time.Duration) bool { return false }, func(ctx context.Context) {
				at = append(at, time.Since(begun))
				<-ctx.Done() // as long as it takes
			})
		}()
		time.Sleep(compileQuiet / 2)
		i.usage.begin()
		time.Sleep(10 * compileQuiet)
		i.usage.end(time.Now())
		time.Sleep(10 * compileQuiet)
		i.retire(0)
		if c := <-ended; c != causeRetired {
			t.Error(c)
		}
		if len(at) != 1 || at[0] < 11*compileQuiet+compileQuiet/2 || at[0] > 13*compileQuiet {
			t.Errorf("written at %v", at)
		}
	})
}

// idleContainer does nothing and never ends.
type idleContainer struct{ container.Container }

func (idleContainer) Exited() <-chan struct{} { return nil }

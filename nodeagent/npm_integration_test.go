//go:build integration

package nodeagent

import (
	"archive/tar"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/durationpb"

	agentv1 "sanfran.dev/proto/sanfran/agent/v1"
	"sanfran.dev/router"
)

// npmTest is the folder of functions that exercise npm packages.
const npmTest = "../test/npm"

// npmPackages is where test/npm/install.sh has put the packages.
func npmPackages(t testing.TB) string {
	t.Helper()
	dir := os.Getenv("SANFRAN_NPM")
	if dir == "" {
		t.Fatal("SANFRAN_NPM does not name the installed npm packages: export SANFRAN_NPM=$(test/npm/install.sh)")
	}
	return dir
}

// npmCase is one function of test/npm/functions: what it needs, what it is
// asked, and what it must answer.
type npmCase struct {
	Group    string   `json:"group"` // for the docs, like Proves
	Proves   string   `json:"proves"`
	Packages []string `json:"packages"`
	// Command runs an unmodified server; without it the bundle says what it is.
	Command []string `json:"command"`
	// Requests are made one after the other.
	Requests []npmRequest `json:"requests"`
}

type npmRequest struct {
	Method  string            `json:"method"` // GET if empty
	Path    string            `json:"path"`   // / if empty
	Headers map[string]string `json:"headers"`
	Body    string            `json:"body"`
	Status  int               `json:"status"` // 200 if zero
	// Answer is what a JSON answer holds, or the text of another.
	Answer any `json:"answer"`
}

func npmCases(t testing.TB) map[string]*npmCase {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(npmTest, "corpus.json"))
	if err != nil {
		t.Fatal(err)
	}
	cases := map[string]*npmCase{}
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&cases); err != nil {
		t.Fatalf("corpus.json: %v", err)
	}
	return cases
}

// closest are the groups that depend on Node.js and on the agent the most: they
// run on the newest runtime, too, and answer again from a second container. With
// npmLong all others do as well.
var closest = []string{"Unmodified servers", "Native addons", "Node.js itself"}

// npmLong, if it is "true", asks for all of it, which takes minutes.
const npmLong = "SANFRAN_NPM_LONG"

// TestNpmPackages runs real npm packages in real containers: each function gets
// a bundle of itself and all that its packages depend on, wakes in a container
// of its own, and must answer what it answers under plain Node.js. Those closest
// to Node.js are then parked, and must answer the same from another container.
func TestNpmPackages(t *testing.T) {
	suite := &npmSuite{installed: npmPackages(t), lock: readNpmLock(t), cases: npmCases(t)}
	newest := os.Getenv("SANFRAN_NODE26_ROOTFS")
	if newest == "" {
		t.Fatal("SANFRAN_NODE26_ROOTFS does not name a root filesystem of Node.js 26: make one with `go run ./deploy/images --rootfs --runtimes node26`")
	}
	suite.agent = startAgent(t, func(c *Config) {
		c.Runtimes["node26"] = newest
		c.PoolTarget, c.RouteSettle = 2, 10*time.Millisecond
	})
	for _, name := range slices.Sorted(maps.Keys(suite.cases)) {
		t.Run(name, func(t *testing.T) { suite.run(t, name, "node24") })
		if suite.cases[name].close() {
			t.Run(name+" on node26", func(t *testing.T) { suite.run(t, name, "node26") })
		}
	}
}

func (c *npmCase) close() bool {
	return slices.Contains(closest, c.Group) || os.Getenv(npmLong) == "true"
}

type npmSuite struct {
	agent     *realAgent
	installed string
	lock      npmLock
	cases     map[string]*npmCase
	pods      atomic.Uint32
}

func (s *npmSuite) run(t *testing.T, name, runtime string) {
	t.Parallel()
	a, test := s.agent, s.cases[name]
	bundle := npmBundle(t, name, s.installed, s.lock.closure(t, test.Packages))
	files := bundle.files
	pod := assignment(strings.ReplaceAll(name, ".", "-"), fmt.Sprintf("10.245.10.%d", s.pods.Add(1)), a.cp.store(bundle.archive))
	bundle.archive = nil
	pod.PodUid += "-" + runtime
	pod.Runtime = runtime
	pod.StartParked = true
	pod.IdleTimeout = durationpb.New(npmIdle)
	pod.Command, pod.ParkServer = test.Command, true
	pod.Env = []*agentv1.EnvVar{{Name: "PORT", Value: "8080"}} // as a provider sets it
	a.cp.assign(pod)
	a.npmState(t, pod, agentv1.PodState_POD_STATE_PARKED)

	cold := a.npmAnswers(t, pod, test.Requests)
	var again npmMeasure
	if test.close() {
		if cold.ended != nil {
			select {
			case <-cold.ended: // parked
			case <-time.After(patience):
				t.Fatalf("not parked %v after its last request", patience)
			}
		}
		again = a.npmAnswers(t, pod, test.Requests)
	}
	t.Logf("%d files, %.1f MB; loaded in %v, answered a cold request after %v; again in %v, %v; %.0f MB of memory",
		files, float64(bundle.size)/1e6, cold.loaded, cold.took, again.loaded, again.took, float64(cold.memory)/1e6)
	a.cp.withdraw(pod, 0)
	a.npmState(t, pod, agentv1.PodState_POD_STATE_GONE)
	a.cp.drop(pod)
}

// npmMeasure is how long a container took from a parked pod to an answer.
type npmMeasure struct {
	// loaded is the module's part of took.
	loaded, took time.Duration
	memory       int64
	// ended is closed when the container is gone; nil if it was before it could
	// be looked at.
	ended chan struct{}
}

// npmIdle is long enough to look at the container after its answer.
const npmIdle = 250 * time.Millisecond

// npmAnswers makes the requests of a test to a parked pod. What is measured
// ends with the first answer.
func (a *realAgent) npmAnswers(t *testing.T, pod *agentv1.Assignment, requests []npmRequest) npmMeasure {
	t.Helper()
	var m npmMeasure
	begun := time.Now()
	for _, r := range requests {
		a.npmAnswer(t, pod, r)
		if m.took == 0 {
			m.took = time.Since(begun).Round(time.Millisecond)
		}
	}
	inst := a.pods.get(pod.GetPodUid()).status().Instance
	if inst == nil { // on a slow machine it may be parked by now
		a.npmState(t, pod, agentv1.PodState_POD_STATE_PARKED)
		return m
	}
	m.loaded, m.memory, m.ended = inst.loaded.Round(time.Millisecond), anonymousMemory(t, a.cfg, inst.warm.container.ID()), inst.ended
	return m
}

func (a *realAgent) npmAnswer(t *testing.T, pod *agentv1.Assignment, ask npmRequest) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, ask.Method, "http://"+a.cfg.dataAddress()+cmp.Or(ask.Path, "/"), strings.NewReader(ask.Body))
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range ask.Headers {
		r.Header.Set(name, value)
	}
	r.Header.Set(router.HeaderPod, pod.GetPodUid())
	r.Header.Set(router.HeaderRevision, pod.GetRevision())
	res, err := client.Transport.RoundTrip(r) // a redirect is an answer, too
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(res.Body)
	res.Body.Close()
	if err != nil {
		t.Fatal(err)
	}
	if want := cmp.Or(ask.Status, http.StatusOK); res.StatusCode != want {
		t.Fatalf("%s %s answered %d %q, want %d", r.Method, r.URL.Path, res.StatusCode, body, want)
	}
	var answer any = string(body)
	if strings.Contains(res.Header.Get("Content-Type"), "json") {
		if err := json.Unmarshal(body, &answer); err != nil {
			t.Fatalf("%s %s answered %q: %v", r.Method, r.URL.Path, body, err)
		}
	}
	if diff := gocmp.Diff(ask.Answer, answer); diff != "" {
		t.Fatalf("the answer is not the one of corpus.json (-want +got):\n%s\n%s", diff, body)
	}
}

// npmState waits for a pod's state, or fails with the reason it gives.
func (a *realAgent) npmState(t *testing.T, pod *agentv1.Assignment, state agentv1.PodState) {
	t.Helper()
	var last *agentv1.PodStatus
	a.cp.waitIn(t, fmt.Sprintf("%s to be %s", pod.GetPodName(), state), func() bool {
		last = a.cp.newest(pod)
		return last.GetState() == state || last.GetState() == agentv1.PodState_POD_STATE_FAILED
	})
	if last.GetState() != state {
		t.Fatalf("%s: %s", last.GetReason(), last.GetMessage())
	}
}

// anonymousMemory is what a container uses but for files it has read, in bytes;
// zero where it is gone already.
func anonymousMemory(t *testing.T, cfg Config, id string) int64 {
	t.Helper()
	stats, err := filepath.Glob("/sys/fs/cgroup/*" + cfg.CgroupBase + "/functions/" + id + "/memory.stat")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range stats {
		data, err := os.ReadFile(name)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(data)) {
			var n int64
			if c, err := fmt.Sscanf(line, "total_rss %d", &n); c == 1 && err == nil {
				return n
			}
			if c, err := fmt.Sscanf(line, "anon %d", &n); c == 1 && err == nil {
				return n
			}
		}
	}
	return 0
}

// npmLock is what a package-lock.json says of installed packages, by their
// folder, "" being the project itself.
type npmLock map[string]struct {
	Version              string            `json:"version"`
	Dependencies         map[string]string `json:"dependencies"`
	OptionalDependencies map[string]string `json:"optionalDependencies"`
	PeerDependencies     map[string]string `json:"peerDependencies"`
	PeerDependenciesMeta map[string]struct {
		Optional bool `json:"optional"`
	} `json:"peerDependenciesMeta"`
}

func readNpmLock(t testing.TB) npmLock {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(npmTest, "package-lock.json"))
	if err != nil {
		t.Fatal(err)
	}
	var lock struct {
		Packages npmLock `json:"packages"`
	}
	if err := json.Unmarshal(data, &lock); err != nil {
		t.Fatalf("package-lock.json: %v", err)
	}
	return lock.Packages
}

// closure is the folders of the packages and of all they depend on, as a
// project of these packages alone would have them.
func (l npmLock) closure(t *testing.T, packages []string) []string {
	t.Helper()
	found := map[string]bool{}
	var add func(from, name string, optional bool)
	add = func(from, name string, optional bool) {
		dir, ok := l.resolve(from, name)
		switch {
		case !ok && optional:
			return
		case !ok:
			t.Fatalf("package-lock.json has no %s for %q: add it to test/npm/package.json", name, from)
		case found[dir]:
			return
		}
		found[dir] = true
		p := l[dir]
		for name := range p.Dependencies {
			_, optional := p.OptionalDependencies[name]
			add(dir, name, optional)
		}
		for name := range p.OptionalDependencies {
			add(dir, name, true)
		}
		for name := range p.PeerDependencies {
			if !p.PeerDependenciesMeta[name].Optional {
				add(dir, name, false)
			}
		}
	}
	for _, name := range packages {
		add("", name, false)
	}
	return slices.Sorted(maps.Keys(found))
}

// resolve finds a package as Node.js does: in the node_modules of the folder,
// or of one above.
func (l npmLock) resolve(from, name string) (string, bool) {
	for {
		dir := path.Join(from, "node_modules", name)
		if _, ok := l[dir]; ok {
			return dir, true
		}
		if from == "" {
			return "", false
		}
		from = strings.TrimSuffix(from[:strings.LastIndex("/"+from, "/node_modules/")], "/")
	}
}

// npmArchive is a bundle as it travels.
type npmArchive struct {
	archive     []byte
	files, size int
}

// npmBundle packs a function with the folders of its packages.
func npmBundle(t *testing.T, name, installed string, packages []string) *npmArchive {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	b := &npmArchive{}
	add := func(file, as string, info fs.FileInfo) {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: as, Mode: int64(info.Mode().Perm()), Size: int64(len(content))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(content); err != nil {
			t.Fatal(err)
		}
		b.files++
		b.size += len(content)
	}
	tree := func(dir, as string, skip func(string) bool) {
		if err := filepath.WalkDir(dir, func(file string, entry fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			rel, err := filepath.Rel(dir, file)
			if err != nil {
				return err
			}
			if entry.IsDir() && skip(rel) {
				return fs.SkipDir
			}
			if !entry.Type().IsRegular() {
				return nil
			}
			info, err := entry.Info()
			if err != nil {
				return err
			}
			add(file, path.Join(as, filepath.ToSlash(rel)), info)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	for _, shared := range []string{"loopback.js", "redis-server.js", "mongo-server.js"} {
		file := filepath.Join(npmTest, shared)
		info, err := os.Stat(file)
		if err != nil {
			t.Fatal(err)
		}
		add(file, shared, info)
	}
	own := filepath.Join(npmTest, "functions", name)
	if info, err := os.Stat(own); err == nil && info.IsDir() {
		tree(own, "", func(string) bool { return false })
	} else {
		files, err := filepath.Glob(own + ".*[jt]s")
		if err != nil || len(files) != 1 {
			t.Fatalf("functions/%s.*[jt]s: %v, %v; want one", name, files, err)
		}
		info, err := os.Stat(files[0])
		if err != nil {
			t.Fatal(err)
		}
		add(files[0], "index"+filepath.Ext(files[0]), info)
	}
	for _, dir := range packages {
		from := filepath.Join(installed, filepath.FromSlash(dir))
		if _, err := os.Stat(from); err != nil {
			continue // of another platform
		}
		// What is nested in a package is a package of its own.
		tree(from, dir, func(rel string) bool { return rel == "node_modules" })
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	b.archive = buf.Bytes()
	return b
}

//go:build integration

package nodeagent

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/durationpb"

	agentv1 "sanfran.dev/proto/sanfran/agent/v1"
)

// looks is a function that says what it sees of the compile cache.
const looks = `
const fs = require('node:fs'), { getCompileCacheDir } = require('node:module')
module.exports = (req, res) => {
	const dir = getCompileCacheDir()
	if (dir === undefined) return res.json({})
	let wrote = 'yes'
	try { fs.writeFileSync(dir + '/00000000', '') } catch (error) { wrote = error.code }
	const mounts = fs.readFileSync('/proc/self/mountinfo', 'utf8').split('\n').filter((line) => line.includes(' ' + dir + ' '))
	const files = fs.readdirSync(dir).length
	res.json({ dir, wrote, files, mounts: mounts.map((line) => line.split(' ')[5]) })
}
`

type seen struct {
	Dir, Wrote string
	Files      int
	Mounts     []string
}

func (a *realAgent) looked(t testing.TB, pod *agentv1.Assignment) seen {
	t.Helper()
	code, body, _ := a.viaData(t, pod, "/")
	var s seen
	if err := json.Unmarshal([]byte(body), &s); err != nil || code != 200 {
		t.Fatalf("%d %q", code, body)
	}
	return s
}

// thousandModules is a bundle that is large enough for a cache: as many modules
// of code as real functions bring, of the sizes of npm's (a third are a few
// lines, some are long). Each of the three kinds of module is among them.
func thousandModules() map[string]string {
	files := map[string]string{"package.json": `{"main":"index.js"}`, "data/taken": "the place of a mount"}
	var index strings.Builder
	for i := range 1000 {
		name := fmt.Sprintf("lib/m%d.js", i)
		functions := []int{1, 2, 4, 12, 40}[i%5]
		switch i % 100 {
		case 1:
			name = fmt.Sprintf("lib/m%d.ts", i)
		case 2:
			name = fmt.Sprintf("lib/m%d.mjs", i)
		}
		files[name] = module(i, functions, filepath.Ext(name))
		fmt.Fprintf(&index, "require('./%s')\n", name)
	}
	files["index.js"] = index.String() + looks
	return files
}

func module(i, functions int, kind string) string {
	var b, names strings.Builder
	argument := "input, options = {}"
	if kind == ".ts" {
		argument = "input: unknown, options: Record<string, any> = {}"
	}
	for f := range functions {
		fmt.Fprintf(&b, `
function handle%[1]d(%[2]s) {
  const result = { name: 'm%[3]d', items: [] %[4]s}
  for (const [key, value] of Object.entries(options)) {
    if (typeof value === 'string') result.items.push(key + '=' + value.trim())
    else if (Array.isArray(value)) result.items.push(...value.map((v, at) => ({ v, at, key })))
    else result.items.push({ key, value: input ?? value })
  }
  return result
}
`, f, argument, i, map[string]string{".ts": "as any[] "}[kind])
		fmt.Fprintf(&names, "handle%d, ", f)
	}
	fmt.Fprintf(&b, "handle0('x', { a: ' b', list: [%d] })\n", i)
	if kind == ".js" {
		return "'use strict'" + b.String() + "module.exports = { " + names.String() + "}\n"
	}
	return b.String() + "export { " + names.String() + "}\n"
}

func (a *realAgent) waitParked(t testing.TB, pod *agentv1.Assignment) {
	t.Helper()
	a.cp.waitState(pod, agentv1.PodState_POD_STATE_PARKED)
}

// written are the caches on disk: each file with when it was written.
func written(t testing.TB, a *realAgent) map[string]time.Time {
	t.Helper()
	files := map[string]time.Time{}
	dir := filepath.Join(a.cfg.CacheDir, "compiled", "functions")
	err := filepath.WalkDir(dir, func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		info, err := entry.Info()
		files[strings.TrimPrefix(name, dir)] = info.ModTime()
		if err == nil && info.Mode() != 0o444 {
			t.Errorf("%s is %v", name, info.Mode())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func (a *realAgent) asked(t testing.TB, result string) int {
	return a.counted(t, "sanfran_agent_compile_cache_activations_total", result)
}

func (a *realAgent) wrote(t testing.TB, result string) int {
	return a.counted(t, "sanfran_agent_compile_cache_writes_total", result)
}

// counted is a metric with the label result.
func (a *realAgent) counted(t testing.TB, name, result string) int {
	t.Helper()
	families, err := a.metrics.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		for _, metric := range family.GetMetric() {
			if family.GetName() == name && metric.GetLabel()[0].GetValue() == result {
				return int(metric.GetCounter().GetValue())
			}
		}
	}
	return 0
}

func TestTheSecondActivationUsesTheCompileCache(t *testing.T) {
	dir, cp := newWorkDir(t), newFakeControlPlane(t)
	a := startAgentIn(t, dir, cp, nil)
	digest := a.cp.bundle(thousandModules())
	pod := assignment("large", "10.245.3.30", digest)
	pod.IdleTimeout = durationpb.New(compileQuiet + time.Second)
	a.cp.assign(pod)
	a.cp.waitState(pod, agentv1.PodState_POD_STATE_ACTIVE)
	first := a.pods.get(pod.GetPodUid()).status().Instance
	none := a.looked(t, pod)
	if !strings.HasPrefix(none.Dir, compileCacheBase+"/v") || none.Wrote != "EROFS" || len(none.Mounts) != 1 || none.Files != 0 {
		t.Errorf("without a cache: %+v", none)
	}
	a.waitParked(t, pod)
	before := written(t, a)
	// Every module, the index, the stripped TypeScript, and what was found where.
	if a.wrote(t, "kept") != 1 || len(before) < 1000 || len(before) > 1100 {
		t.Fatalf("%d caches kept, %d files", a.wrote(t, "kept"), len(before))
	}

	some := a.looked(t, pod)
	second := a.pods.get(pod.GetPodUid()).status().Instance
	if len(some.Mounts) != 1 || some.Files != len(before) || some.Wrote != "EROFS" || some.Dir != none.Dir {
		t.Fatalf("with a cache of %d files: %+v", len(before), some)
	}
	for _, option := range []string{"ro", "nosuid", "nodev", "noexec"} {
		if !strings.Contains(some.Mounts[0]+",", option+",") {
			t.Errorf("mounted %s, without %s", some.Mounts[0], option)
		}
	}
	t.Logf("1,000 modules loaded in %v, with the cache in %v: %.1f times faster", first.loaded, second.loaded, first.loaded.Seconds()/second.loaded.Seconds())
	a.waitParked(t, pod)

	// The same code in another namespace has nothing of it, and makes its own.
	other := assignment("large-elsewhere", "10.245.3.31", digest)
	other.Namespace, other.IdleTimeout = "other", pod.GetIdleTimeout()
	a.cp.assign(other)
	a.cp.waitState(other, agentv1.PodState_POD_STATE_ACTIVE)
	if s := a.looked(t, other); s.Files != 0 || s.Wrote != "EROFS" {
		t.Errorf("another namespace sees a cache: %+v", s)
	}
	a.waitParked(t, other)
	if after := written(t, a); len(after) != 2*len(before) || a.wrote(t, "kept") != 2 {
		t.Errorf("%d files of two namespaces, %d caches kept", len(after), a.wrote(t, "kept"))
	} else {
		maps.DeleteFunc(after, func(name string, _ time.Time) bool { _, had := before[name]; return !had })
		if diff := cmp.Diff(before, after); diff != "" {
			t.Errorf("the second activation has written:\n%s", diff)
		}
	}

	// Those who do not want it have none; nor have those in whose code
	// something is mounted.
	unwilling := assignment("unwilling", "10.245.3.32", digest)
	unwilling.Env = []*agentv1.EnvVar{{Name: "NODE_DISABLE_COMPILE_CACHE", Value: "1"}}
	mixed := assignment("mixed", "10.245.3.33", digest)
	mixed.Mounts = append(mixed.Mounts, &agentv1.Mount{Path: "/function/data", Source: &agentv1.Mount_EmptyDir{EmptyDir: &agentv1.EmptyDir{Name: "data"}}})
	for _, p := range []*agentv1.Assignment{unwilling, mixed} {
		a.cp.assign(p)
		a.cp.waitState(p, agentv1.PodState_POD_STATE_ACTIVE)
		if s := a.looked(t, p); s.Dir != "" {
			t.Errorf("%s has a cache: %+v", p.GetPodName(), s)
		}
	}

	// A small function has none, and its file is its own.
	small := assignment("small", "10.245.3.35", a.cp.bundle(map[string]string{"index.js": looks}))
	a.cp.assign(small)
	a.cp.waitState(small, agentv1.PodState_POD_STATE_ACTIVE)
	if s := a.looked(t, small); s.Dir != "" {
		t.Errorf("a small function has a cache: %+v", s)
	}

	if err := a.stop(); err != nil {
		t.Fatal(err)
	}
	a = startAgentIn(t, dir, newFakeControlPlane(t), nil)
	if got := a.cp.bundle(thousandModules()); got != digest {
		t.Fatal("the bundle is another one now")
	}
	again := assignment("again", "10.245.3.34", digest)
	a.cp.assign(again)
	a.cp.waitState(again, agentv1.PodState_POD_STATE_ACTIVE)
	if s := a.looked(t, again); len(s.Mounts) != 1 || s.Files != len(before) || a.asked(t, "hit") != 1 {
		t.Errorf("after a restart of the agent: %+v, %d hits", s, a.asked(t, "hit"))
	}
	if err := a.stop(); err != nil {
		t.Fatal(err)
	}
	assertNothingLeft(t, a.cfg)
}

// What a function plants where Node.js writes is found, and nobody gets it.
func TestAHostileFunctionsCompileCacheIsRefused(t *testing.T) {
	secret := filepath.Join(newWorkDir(t), "secret")
	if err := os.WriteFile(secret, []byte("of the node"), 0o644); err != nil {
		t.Fatal(err)
	}
	a := startAgent(t, nil)
	// Another thread waits for the moment in which the folder can be written.
	pod := assignment("hostile", "10.245.3.40", a.cp.bundle(map[string]string{"index.js": `
		const { Worker } = require('node:worker_threads')
		new Worker("const fs = require('node:fs'); const { workerData: dir } = require('node:worker_threads');" +
			"for (;;) { try { fs.symlinkSync('` + secret + `', dir + '/ffffffff'); break } catch {} Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 0.1) }",
			{ eval: true, workerData: require('node:module').getCompileCacheDir() }).unref()
		` + strings.Repeat("require('./big.js')\n", 3) + looks,
		"big.js": "module.exports = [\n" + strings.Repeat("  (a, b) => a * b + Math.max(a, b) - 'a string that makes it longer'.length,\n", 4000) + "]\n",
	}))
	pod.IdleTimeout = durationpb.New(compileQuiet + time.Second)
	a.cp.assign(pod)
	a.cp.waitState(pod, agentv1.PodState_POD_STATE_ACTIVE)
	a.waitParked(t, pod)
	if a.wrote(t, "refused") != 1 {
		t.Fatalf("%d refused, %d kept, %d small, %d failed", a.wrote(t, "refused"), a.wrote(t, "kept"), a.wrote(t, "small"), a.wrote(t, "failed"))
	}
	if s := a.looked(t, pod); s.Dir != "" || a.asked(t, "hit") != 0 {
		t.Errorf("the next container has %+v", s)
	}
	if files := written(t, a); len(files) > 0 {
		t.Errorf("kept: %v", files)
	}
	a.waitParked(t, pod)
	if a.wrote(t, "refused") != 1 {
		t.Error("it was tried again")
	}
}

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestCacheKeyFollowsWhatIsBuilt(t *testing.T) {
	source := t.TempDir()
	write := func(name, content string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(source, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("go.mod", "module x")
	write("go.sum", "")
	write("main.go", "package main")
	p := program{name: "x", packages: []string{"."}, ownSource: true}
	key := func(p program, goVersion, arch string) string {
		t.Helper()
		k, err := cacheKey(p, source, goVersion, arch)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	first := key(p, "go1.26", "amd64")
	if again := key(p, "go1.26", "amd64"); again != first {
		t.Errorf("the same build has the keys %s and %s", first, again)
	}
	write("main_test.go", "package main")
	if again := key(p, "go1.26", "amd64"); again != first {
		t.Error("a test changed the key of a build")
	}
	tagged := p
	tagged.tags = "seccomp"
	seen := map[string]string{first: "the first build"}
	for what, k := range map[string]string{
		"another Go":      key(p, "go1.27", "amd64"),
		"another machine": key(p, "go1.26", "arm64"),
		"another tag":     key(tagged, "go1.26", "amd64"),
	} {
		if other := seen[k]; other != "" {
			t.Errorf("%s has the key of %s", what, other)
		}
		seen[k] = what
	}
	write("main.go", "package main // changed")
	if again := key(p, "go1.26", "amd64"); seen[again] != "" {
		t.Error("a changed source file left the key as it was")
	}
	if _, err := cacheKey(p, filepath.Join(source, "absent"), "go1.26", "amd64"); err == nil {
		t.Error("a module that is not there has a key")
	}
}

func TestLinkIsReplaced(t *testing.T) {
	name := filepath.Join(t.TempDir(), "kubectl")
	for _, target := range []string{"/a", "/b", "/b"} {
		if err := link(target, name); err != nil {
			t.Fatal(err)
		}
		if have, err := os.Readlink(name); err != nil || have != target {
			t.Errorf("link leads to %q (%v), want %q", have, err, target)
		}
	}
}

func TestProgressLineGivesNoEstimateTooEarly(t *testing.T) {
	for _, test := range []struct {
		done, total int
		taken       time.Duration
		want        string
	}{
		{10, 1000, 5 * time.Second, "kube: 10 of 1000 packages compiled, 5s"},
		{250, 1000, time.Minute, "kube: 250 of 1000 packages compiled, 1m0s, about 3 min left"},
		{900, 1000, time.Minute, "kube: 900 of 1000 packages compiled, 1m0s, less than a minute left"},
		{1000, 1000, time.Minute, "kube: 1000 of 1000 packages compiled, 1m0s, linking"},
		{0, 0, time.Second, "kube: 0 of 0 packages compiled, 1s, linking"},
	} {
		if have := progressLine("kube", test.done, test.total, test.taken); have != test.want {
			t.Errorf("have %q, want %q", have, test.want)
		}
	}
}

// Every program that a node runs must come out of some build.
func TestEveryUnitHasABuild(t *testing.T) {
	bin := binaries{}
	for _, p := range programs() {
		for _, name := range p.outputs {
			bin[name] = "/bin-of/" + name
		}
		for name := range p.aliases {
			bin[name] = "/bin-of/" + name
		}
	}
	c := testCluster()
	n := c.node(1)
	units := append(c.controllerUnits(bin), c.etcdUnit(bin), c.apiServerUnit(bin), n.containerdUnit(bin, nil))
	units = append(units, n.kubeletUnits(bin, nil)...)
	for _, u := range units {
		if !strings.HasPrefix(u.Command[0], "/bin-of/") {
			t.Errorf("%s has no program to run: %q", u.Name, u.Command[0])
		}
	}
}

// Package arch holds ARCHITECTURE.md's rules about which part may know which,
// as tests.
package arch

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "sanfran.dev"

// components talk to each other through proto/ only.
var components = []string{"provider", "warmpool", "nodeagent", "router"}

// A source is one Go file of the root module that is not generated.
type source struct {
	path    string // relative to the root, with slashes
	syntax  *ast.File
	imports []string
	test    bool
}

func (s source) dir() string { return path.Dir(s.path) }

// sources parses the whole root module.
func sources(t *testing.T) []source {
	t.Helper()
	root := filepath.Join("..", "..")
	var all []source
	err := filepath.WalkDir(root, func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			if name == root {
				return nil
			}
			if base := entry.Name(); base == "node_modules" || base == "testdata" || strings.HasPrefix(base, ".") {
				return fs.SkipDir
			}
			if _, err := os.Stat(filepath.Join(name, "go.mod")); err == nil {
				return fs.SkipDir // a module of its own
			}
			return nil
		}
		if !strings.HasSuffix(name, ".go") {
			return nil
		}
		syntax, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		if ast.IsGenerated(syntax) {
			return nil
		}
		rel, err := filepath.Rel(root, name)
		if err != nil {
			return err
		}
		s := source{path: filepath.ToSlash(rel), syntax: syntax, test: strings.HasSuffix(name, "_test.go")}
		for _, spec := range syntax.Imports {
			imported, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			s.imports = append(s.imports, imported)
		}
		all = append(all, s)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 20 {
		t.Fatalf("found %d Go files; the walk misses the tree", len(all))
	}
	return all
}

// under reports whether an import path is, or is below, prefix.
func under(imported, prefix string) bool {
	return imported == prefix || strings.HasPrefix(imported, prefix+"/")
}

func componentOf(dir string) string {
	first, _, _ := strings.Cut(dir, "/")
	if slices.Contains(components, first) {
		return first
	}
	return ""
}

func TestComponentsImportProtoAndInternalNeverEachOther(t *testing.T) {
	for _, s := range sources(t) {
		own := componentOf(s.dir())
		if own == "" {
			continue
		}
		for _, imported := range s.imports {
			other := componentOf(strings.TrimPrefix(imported, module+"/"))
			if !under(imported, module) || other == own {
				continue
			}
			if own == "nodeagent" && other == "router" {
				continue // the one library among the components
			}
			if other != "" || under(imported, module+"/cmd") || under(imported, module+"/deploy") {
				t.Errorf("%s imports %s; components talk through proto/ only, cmd/ wires them", s.path, imported)
			}
		}
	}
}

func TestInternalHasNoDomain(t *testing.T) {
	for _, s := range sources(t) {
		if !under(s.dir(), "internal") {
			continue
		}
		for _, imported := range s.imports {
			if componentOf(strings.TrimPrefix(imported, module+"/")) != "" {
				t.Errorf("%s imports %s; internal/ is plumbing that knows no component", s.path, imported)
			}
		}
	}
}

// confined imports may appear only in the named places.
var confined = []struct {
	imports string
	why     string
	// allowed says whether a file of a component may have the import.
	allowed func(s source) bool
}{
	{"k8s.io", "provider is the only package that knows Kubernetes", func(s source) bool { return under(s.dir(), "provider") }},
	{"github.com/virtual-kubelet", "provider is the only package that knows Kubernetes", func(s source) bool { return under(s.dir(), "provider") }},
	{"go.etcd.io/bbolt", "bbolt lives in store.go", func(s source) bool { return strings.HasPrefix(path.Base(s.path), "store") }},
	{"github.com/prometheus", "Prometheus lives in metrics.go", func(s source) bool { return path.Base(s.path) == "metrics.go" }},
	{"google.golang.org/grpc", "gRPC lives at a component's edge, in server.go or controlplane.go", func(s source) bool {
		return slices.Contains([]string{"server.go", "controlplane.go"}, path.Base(s.path))
	}},
	{"github.com/containerd/go-runc", "runc is behind the Runtime seam", func(s source) bool { return under(s.dir(), "nodeagent/container") }},
	{"github.com/cilium/ebpf", "BPF is podaddress's own", func(s source) bool { return under(s.dir(), "nodeagent/podaddress") }},
}

func TestConfinedImports(t *testing.T) {
	for _, s := range sources(t) {
		if s.test || componentOf(s.dir()) == "" {
			continue
		}
		for _, rule := range confined {
			for _, imported := range s.imports {
				if under(imported, rule.imports) && !rule.allowed(s) {
					t.Errorf("%s imports %s: %s", s.path, imported, rule.why)
				}
			}
		}
	}
}

// pure files decide and do nothing else, so that tables and properties test
// them.
var pure = []string{
	"warmpool/placement.go", "warmpool/sizing.go",
	"provider/function.go", "provider/status.go",
}

func TestDecisionsDoNoIO(t *testing.T) {
	effects := []string{"os", "net", "net/http", "time/tick", "io/ioutil", "os/exec", "database/sql", "google.golang.org/grpc", "k8s.io/client-go"}
	seen := 0
	for _, s := range sources(t) {
		if !slices.Contains(pure, s.path) {
			continue
		}
		seen++
		for _, imported := range s.imports {
			for _, effect := range effects {
				if imported == effect || (strings.Contains(effect, ".") && under(imported, effect)) {
					t.Errorf("%s imports %s; it decides, others act", s.path, imported)
				}
			}
		}
	}
	if seen != len(pure) {
		t.Errorf("found %d of the %d files %v; keep the list true", seen, len(pure), pure)
	}
}

func TestEveryPackageSaysWhatItIs(t *testing.T) {
	documented := map[string]int{}
	for _, s := range sources(t) {
		if s.test {
			continue
		}
		documented[s.dir()] += 0
		if s.syntax.Doc != nil {
			documented[s.dir()]++
		}
	}
	for dir, comments := range documented {
		if comments != 1 {
			t.Errorf("package %s has %d package comments, want one", dir, comments)
		}
	}
}

func TestFilesAreOfOneIdea(t *testing.T) {
	const most = 450
	for _, s := range sources(t) {
		data, err := os.ReadFile(filepath.Join("..", "..", filepath.FromSlash(s.path)))
		if err != nil {
			t.Fatal(err)
		}
		if lines := strings.Count(string(data), "\n"); lines > most && !s.test {
			t.Errorf("%s has %d lines; a file of one idea has fewer than %d", s.path, lines, most)
		}
		switch base := path.Base(s.dir()); base {
		case "util", "utils", "common", "helpers", "helper", "manager", "misc":
			t.Errorf("%s: %q does not say what the package is for", s.path, base)
		}
	}
}

package npm

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the table into docs/npm.md")

const (
	docs  = "../../docs/npm.md"
	begin = "<!-- the table is made by: go test ./test/npm -update -->\n"
	end   = "<!-- end of the table -->\n"
)

// TestDocsListWhatIsTested compares the table of docs/npm.md with what the
// integration test runs.
func TestDocsListWhatIsTested(t *testing.T) {
	var project struct {
		Dependencies map[string]string `json:"dependencies"`
	}
	read(t, "package.json", &project)
	want := table(t, project.Dependencies)
	data, err := os.ReadFile(docs)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(data), begin)
	got, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s has no lines %q and %q", docs, begin, end)
	}
	if *update {
		if err := os.WriteFile(docs, []byte(before+begin+want+end+after), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(got, want); diff != "" {
		t.Errorf("%s is not what test/npm runs; go test ./test/npm -update writes it (-there +want):\n%s", docs, diff)
	}
	for name := range project.Dependencies {
		if !strings.Contains(want, name+" ") {
			t.Errorf("package.json has %s, which no function of corpus.json uses", name)
		}
	}
}

func read(t *testing.T, file string, into any) {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, into); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
}

// table is one line for each function, in the order of corpus.json.
func table(t *testing.T, versions map[string]string) string {
	t.Helper()
	file, err := os.Open("corpus.json")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	decoder := json.NewDecoder(file)
	if _, err := decoder.Token(); err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	b.WriteString("| kind | packages | what runs |\n|---|---|---|\n")
	last := ""
	for decoder.More() {
		name, err := decoder.Token()
		if err != nil {
			t.Fatal(err)
		}
		var entry struct {
			Group, Proves string
			Packages      []string
		}
		if err := decoder.Decode(&entry); err != nil {
			t.Fatal(err)
		}
		if entry.Group == "" || entry.Proves == "" {
			t.Errorf("corpus.json: %v says no group or not what it proves", name)
		}
		var packages []string
		for _, p := range entry.Packages {
			version, ok := versions[p]
			if !ok {
				t.Errorf("corpus.json: %v uses %s, which package.json has not", name, p)
			}
			packages = append(packages, p+" "+version)
		}
		group := entry.Group
		if group == last {
			group = ""
		}
		last = entry.Group
		fmt.Fprintf(&b, "| %s | %s | %s |\n", group, strings.Join(packages, ", "), entry.Proves)
	}
	return b.String()
}

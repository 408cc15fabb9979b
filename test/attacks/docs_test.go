package attacks

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the table of docs/isolation.md instead of comparing it")

// The table of docs/isolation.md is the list.
func TestDocsHaveTheList(t *testing.T) {
	const file, begin, end = "../../docs/isolation.md", "<!-- attacks -->\n", "<!-- end of attacks -->\n"
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, found := strings.Cut(string(data), begin)
	got, after, ended := strings.Cut(rest, end)
	if !found || !ended {
		t.Fatalf("%s has no %q … %q", file, begin, end)
	}
	want := table()
	if *update {
		if err := os.WriteFile(file, []byte(before+begin+want+end+after), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s differs from the list (go test ./test/attacks -update writes it; -want +got):\n%s", file, diff)
	}
}

// table has a row for each aim, with its attacks.
func table() string {
	type row struct{ aim, wall string }
	var rows []row
	names := map[row][]string{}
	for _, a := range slices.Concat(List(), Leftovers(), Floods()) {
		r := row{a.Aim, a.Wall}
		if names[r] == nil {
			rows = append(rows, r)
		}
		names[r] = append(names[r], "`"+a.Name+"`")
	}
	var b strings.Builder
	b.WriteString("| goes for | held by | attacks |\n| --- | --- | --- |\n")
	for _, r := range rows {
		fmt.Fprintf(&b, "| %s | %s | %s |\n", r.aim, r.wall, strings.Join(names[r], ", "))
	}
	return b.String()
}

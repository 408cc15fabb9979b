package attacks

import (
	"io/fs"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// all is every attack there is.
func all() []Attack { return slices.Concat(List(), Floods(), Leftovers()) }

func TestEveryAttackIsWholeAndOnce(t *testing.T) {
	seen := map[string]bool{}
	for _, a := range all() {
		if a.Aim == "" || a.Wall == "" {
			t.Errorf("%s does not say what it goes for, or what stands in its way", a.Name)
		}
		if seen[a.Name] {
			t.Errorf("%s is twice in the list", a.Name)
		}
		seen[a.Name] = true
		if a.Refusals == "" && !a.Once {
			t.Errorf("%s is to be contained, and leaves its function to others", a.Name)
		}
	}
}

// The list and the function know the same attacks.
func TestTheFunctionHasEveryAttack(t *testing.T) {
	listed := map[string]map[string]bool{}
	for _, a := range all() {
		family, name, _ := strings.Cut(a.Name, "/")
		if listed[family] == nil {
			listed[family] = map[string]bool{}
		}
		listed[family][name] = true
	}
	own := map[string]bool{"network/beyond": true, "network/beyond-udp": true, "leftovers/leave": true} // the suite's own
	for family, names := range listed {
		var have []string
		if family == "kernel" {
			have = nativeAttacks(t)
			names = intersect(names, have) // the program has those of others, too
			if len(names) != len(listed[family]) {
				t.Errorf("native.c lacks some of %v", listed[family])
			}
			continue
		}
		out, err := exec.CommandContext(t.Context(), "node", "-p", "Object.keys(require('./functions/"+family+".js')).join('\\n')").CombinedOutput()
		if err != nil {
			t.Fatalf("%s.js: %v %s", family, err, out)
		}
		have = strings.Fields(string(out))
		for name := range names {
			if !slices.Contains(have, name) {
				t.Errorf("%s.js has no attack %s", family, name)
			}
		}
		for _, name := range have {
			if !names[name] && !own[family+"/"+name] {
				t.Errorf("%s/%s is not in the list", family, name)
			}
		}
	}
}

func nativeAttacks(t *testing.T) []string {
	t.Helper()
	source, err := fs.ReadFile(functions, "functions/native.c")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(source), "} attacks[] = {")
	var names []string
	for _, match := range regexp.MustCompile(`\{ "([^"]+)", `).FindAllStringSubmatch(table, -1) {
		names = append(names, match[1])
	}
	return names
}

func intersect(names map[string]bool, with []string) map[string]bool {
	both := map[string]bool{}
	for name := range names {
		if slices.Contains(with, name) {
			both[name] = true
		}
	}
	return both
}

func TestJudge(t *testing.T) {
	refusable := Attack{Name: "kernel/mount", Refusals: "EPERM EACCES"}
	flood := Attack{Name: "floods/disk", Refusals: "ENOSPC"}
	open := Attack{Name: "neighbours/watch-bundle", Refusals: "NONE", Open: "because"}
	contained := Attack{Name: "descriptors/control-garbage"}
	for _, c := range []struct {
		name   string
		attack Attack
		got    answer
		failed string
	}{
		{"refused as it should be", refusable, answer{Refused: true, Code: "EPERM"}, ""},
		{"refused in another way", refusable, answer{Refused: true, Code: "ENOENT"}, "none of"},
		{"let in", refusable, answer{How: "mounted"}, "SUCCEEDED"},
		{"without an answer", refusable, answer{silent: true}, "no answer"},
		{"a mistake in the attack", refusable, answer{Broken: "TypeError"}, "could not be made"},
		{"a mistake in a flood", flood, answer{Broken: "TypeError"}, "could not be made"},
		{"a flood that met another limit", flood, answer{Refused: true, Code: "EMFILE"}, "none of"},
		{"a flood that ended its function", flood, answer{silent: true}, ""},
		{"known to succeed", open, answer{How: "saw"}, ""},
		{"known to succeed, and refused now", open, answer{Refused: true, Code: "NONE"}, "open no more"},
		{"known to succeed, without an answer", open, answer{silent: true}, "no answer"},
		{"contained", contained, answer{How: "sent"}, ""},
		{"contained and killed", contained, answer{silent: true}, ""},
	} {
		r := judge(c.attack, c.got)
		if c.failed == "" && r.Err != nil || c.failed != "" && (r.Err == nil || !strings.Contains(r.Err.Error(), c.failed)) {
			t.Errorf("%s: %v, want %q", c.name, r.Err, c.failed)
		}
	}
}

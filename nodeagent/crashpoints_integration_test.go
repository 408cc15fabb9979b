//go:build integration

package nodeagent

import (
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sanfran.dev/nodeagent/container/containertest"
)

// crashPoint is a moment at which an agent dies.
type crashPoint struct {
	// name is the failpoint's; nth the time it is come by, from 1 (0 is 1).
	name string
	nth  int
	// after is a point at which an agent before this one has died.
	after string
	// runtime, instead of a name: the agent dies while the OCI runtime, as far
	// as this, is at work.
	runtime containertest.Progress
	// long points are left to make test-long: another that leaves as much is
	// in every run.
	long bool
	// alone points are in every run of TestEveryCrashOfTheAgentAloneIsRecoveredFrom:
	// one of a start, of a lease, of draining, and of an end.
	alone bool
}

func (p crashPoint) String() string {
	switch {
	case p.runtime != "":
		return fmt.Sprintf("runtime: %s, not done", p.runtime)
	case p.after != "":
		return p.name + ", again after " + p.after
	case p.nth > 0:
		return fmt.Sprintf("%s, %d", p.name, p.nth)
	}
	return p.name
}

// crashPoints are all points of an agent's life, in the order of a life.
var crashPoints = []crashPoint{
	// The agent sets its node up.
	{name: "node: sockets confined", long: true},
	{name: "node: work directory ready", long: true},
	{name: "node: containers swept", long: true},
	{name: "network: rules installed", long: true},
	{name: "network: bridge made"},
	{name: "node: network ready", long: true},
	{name: "pod addresses: maps pinned", long: true},
	{name: "pod addresses: program attached"},
	{name: "node: pod addresses owned", long: true},

	// A container is started for the pool.
	{name: "start: socket opened", long: true},
	{name: "network: file made", long: true},
	{name: "network: pair made", long: true},
	{name: "network: namespace mounted"},
	{name: "network: port named", long: true},
	{name: "network: port joined"},
	{name: "start: network made", long: true},
	{name: "container: folder made", long: true},
	{name: "container: overlay mounted", alone: true},
	{name: "container: spec written", long: true},
	{runtime: containertest.Nothing, long: true},
	{runtime: containertest.Created},
	{runtime: containertest.Started},
	{name: "container: started, not adopted"},
	{name: "container: adopted", long: true},
	{name: "start: container started", long: true},
	{name: "start: warm"},

	// A pod is assigned: it is prepared, and activated.
	{name: "address: assigned", long: true},
	{name: "volumes: folder made"},
	{name: "bundle: unpacked"},
	{name: "bundle: in place", long: true},
	{name: "volumes: filled"},
	{name: "snapshot: written"},
	{name: "snapshot: in place", long: true},
	{name: "activate: container leased", long: true},
	{name: "container: limits set", long: true},
	{name: "container: named", long: true},
	{name: "container: mount point made", long: true},
	{name: "container: mounted", long: true},
	{name: "container: mounted", nth: 3, long: true},
	{name: "activate: all mounted", long: true},
	{name: "activate: worker told", alone: true},
	{name: "activate: attempt over", long: true},
	{name: "address: directed", long: true},

	// It is idle, and parked; its container ends.
	{name: "end: parked", long: true},
	{name: "address: parked", nth: 2, long: true},
	{name: "end: out of service", alone: true},
	{name: "end: drained", long: true},
	{name: "compile cache: scratch mounted"},
	{name: "compile cache: in place", long: true},
	{name: "end: lingered", long: true},
	{name: "container: killed", long: true},
	{name: "container: control group removed", alone: true},
	{name: "container: state removed", long: true},
	{name: "container: overlay unmounted", long: true},
	{name: "container: folder removed", long: true},
	{name: "network: namespace unmounted"},
	{name: "network: file removed", long: true},
	{name: "end: destroyed", long: true},
	{name: "end: queue taken over", long: true},

	// It is withdrawn.
	{name: "address: given up", long: true},
	{name: "volumes: removed"},

	// The agent stops.
	{name: "stop: no request is served any more", long: true},
	{name: "stop: pods gone", long: true},
	{name: "node: one more thing taken down", nth: 1, long: true}, // the pool
	{name: "node: one more thing taken down", nth: 2},             // the pod addresses
	{name: "node: one more thing taken down", nth: 3, long: true}, // a listener
	{name: "node: one more thing taken down", nth: 4, long: true}, // the other
	{name: "node: one more thing taken down", nth: 5, long: true}, // the network
	{name: "node: one more thing taken down", nth: 6, long: true}, // the work directory
	{name: "node: one more thing taken down", nth: 7, long: true}, // control groups
	{name: "node: one more thing taken down", nth: 8, long: true}, // the sockets' rules

	// An agent that recovers from a crash dies, too.
	{name: "node: work directory ready", after: "activate: worker told", long: true},
	{name: "container: control group removed", after: "activate: worker told"},
	{name: "node: containers swept", after: "activate: worker told", long: true},
	{name: "network: namespace unmounted", after: "activate: worker told", long: true},
	{name: "node: pod addresses owned", after: "activate: worker told", long: true},
	{name: "start: container started", after: "activate: worker told", long: true},
}

// TestAllCrashPointsAreListed compares crashPoints with the code.
func TestAllCrashPointsAreListed(t *testing.T) {
	call := regexp.MustCompile(`failpoint\.(?:Here|After)\("([^"]+)"`)
	inCode := map[string]int{}
	err := filepath.WalkDir(".", func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && entry.Name() == "node_modules":
			return fs.SkipDir
		case filepath.Ext(name) != ".go" || strings.HasSuffix(name, "_test.go"):
			return nil
		}
		code, err := os.ReadFile(name)
		for _, match := range call.FindAllSubmatch(code, -1) {
			inCode[string(match[1])]++
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	listed := map[string]bool{"": true} // a runtime's
	for _, p := range crashPoints {
		listed[p.name] = true
		if p.name != "" && inCode[p.name] == 0 {
			t.Errorf("%q is in no code", p.name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(inCode)) {
		if !listed[name] {
			t.Errorf("%q is not in crashPoints", name)
		}
		if inCode[name] > 1 {
			t.Errorf("%q is in the code %d times: a point is one instruction", name, inCode[name])
		}
	}
}

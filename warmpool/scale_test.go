package warmpool

import (
	"errors"
	"fmt"
	"testing"
	"time"

	agentv1 "sanfran.dev/proto/sanfran/agent/v1"
)

// TestManyPodsWait: what one more pod costs must not grow with those that wait.
// Work is measured in allocations, which do not depend on the machine.
func TestManyPodsWait(t *testing.T) {
	const many = 1000
	w := fresh(t)
	for i := range many {
		w.assign(fmt.Sprint(i), "r1")
	}
	next := many
	if n := testing.AllocsPerRun(20, func() { w.assign(fmt.Sprint(next), "r1"); next++ }); n > many/4 {
		t.Errorf("one more pod took %v allocations while %d wait", n, many)
	}
	last := 1
	if n := testing.AllocsPerRun(20, func() { w.books.Withdraw(fmt.Sprint(last), 0, w.now); last++ }); n > many/4 {
		t.Errorf("one pod less took %v allocations while %d wait", n, many)
	}

	hello := &agentv1.Hello{NodeName: "n1", DataAddress: "n1:7070", Runtimes: []string{"node24"}, Capacity: &agentv1.Capacity{Pods: 2 * many}}
	a := w.agent("n1")
	session, err := w.books.Connect(hello, func() time.Time { return w.now }, w.now)
	if err != nil {
		t.Fatal(err)
	}
	a.session = session
	w.deliver()
	w.report(a, "0", active)
	w.deliver()
	for i := last; i < next; i++ {
		w.expect(fmt.Sprint(i), parked, "")
	}
}

// withFiles is an assignment of so many bytes and a little more.
func withFiles(uid string, size int) *agentv1.Assignment {
	a := assignment(uid, "r1")
	a.Mounts = append(a.Mounts, &agentv1.Mount{Path: "/data", Source: &agentv1.Mount_Files{
		Files: &agentv1.FileSet{Files: map[string][]byte{"data": make([]byte, size)}},
	}})
	return a
}

// TestSyncFitsIntoAMessage: one that does not would end every stream of the
// agent, for ever, and with it all news of all its pods.
func TestSyncFitsIntoAMessage(t *testing.T) {
	w := fresh(t, "n1")
	w.books.budget = 10_000
	a := w.agent("n1")
	assign := func(uid string, size int) {
		t.Helper()
		if err := w.books.Assign(withFiles(uid, size), exposed, w.now); err != nil {
			t.Fatal(err)
		}
		w.deliver()
	}
	assign("a", 4000)
	w.report(a, "a", active)
	assign("b", 4000)
	assign("c", 4000)
	w.expect("b", parked, "")
	w.expect("c", preparing, "NoCapacity")
	assign("b", 8000) // a renewal that has grown
	w.expect("b", parked, "")
	w.disconnect(a)
	w.connect(a)
	if len(a.pods) != 2 || a.pods["a"] == nil || a.pods["c"] == nil {
		t.Errorf("the agent holds %d pods, want a and c, which fit", len(a.pods))
	}
	w.expect("b", preparing, "NoCapacity")
	w.books.Withdraw("a", 0, w.now)
	w.books.Withdraw("c", 0, w.now)
	w.deliver()
	w.deliver()
	if a.pods["b"] == nil || w.books.agents["n1"].size != w.books.pods["b"].size {
		t.Errorf("room of %d bytes was not used", w.books.budget-w.books.agents["n1"].size)
	}
	if err := w.books.Assign(withFiles("huge", maxAssignment), exposed, w.now); !errors.Is(err, ErrTooLarge) {
		t.Errorf("a pod with %d bytes of files gives %v", maxAssignment, err)
	}
}

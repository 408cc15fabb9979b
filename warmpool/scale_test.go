package warmpool

import (
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

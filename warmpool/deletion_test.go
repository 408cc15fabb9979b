package warmpool

import (
	"testing"
	"time"

	agentv1 "sanfran.dev/proto/sanfran/agent/v1"
)

// TestDeletionDoesNotWaitForAgents: the only agent is gone, and its pods are
// deleted, before or after that.
func TestDeletionDoesNotWaitForAgents(t *testing.T) {
	w := fresh(t, "n1")
	a := w.agent("n1")
	for _, uid := range []string{"before", "after", "stays"} {
		w.assign(uid, "r-"+uid)
		w.report(a, uid, active)
	}
	w.disconnect(a)
	w.books.Withdraw("before", time.Minute, w.now)
	w.pass(reconnectWithin + 500*time.Millisecond)
	if s := w.books.Status("before"); s != nil {
		t.Errorf("a pod waits to be deleted for an agent that is gone: %v", s)
	}
	w.books.Withdraw("after", time.Minute, w.now)
	w.pass(500 * time.Millisecond)
	if s := w.books.Status("after"); s != nil {
		t.Errorf("a pod waits to be deleted for an agent that is gone: %v", s)
	}
	w.expect("stays", active, "") // nobody is presumed gone yet
	w.connect(a)
	if len(a.pods) != 1 || a.pods["stays"] == nil {
		t.Errorf("the agent that came back holds %v, want the pod that stays", a.pods)
	}
}

// TestDeletionAfterControlPlaneStart: the agent of the ledger never comes.
func TestDeletionAfterControlPlaneStart(t *testing.T) {
	first := fresh(t, "n1")
	first.assign("a", "r1")
	w := newWorld(t, first.books.TakeHomes())
	w.assign("a", "r1")
	w.books.Resynced(w.now)
	w.books.Withdraw("a", time.Minute, w.now)
	w.pass(settleWithin + reconnectWithin + 500*time.Millisecond)
	if s := w.books.Status("a"); s != nil {
		t.Errorf("a pod waits to be deleted for an agent that is gone: %v", s)
	}
}

// TestSilentAgentHearsOfDeletion: its silence ends, and with it the pod that
// was deleted meanwhile.
func TestSilentAgentHearsOfDeletion(t *testing.T) {
	w := fresh(t, "n1")
	a := w.agent("n1")
	w.assign("a", "r1")
	w.books.Withdraw("a", time.Minute, w.now)
	w.books.Tick(w.now.Add(silentFor)) // before the withdrawal could be sent
	if s := w.books.Status("a"); s != nil {
		t.Fatalf("a pod waits to be deleted for a silent agent: %v", s)
	}
	w.deliver()
	if len(a.pods) != 0 {
		t.Error("the agent holds a pod that nobody will withdraw")
	}
}

// TestWithdrawalOvertakesChange: the agent is told of the end before it is told
// of the change, and answers under the epoch it knows.
func TestWithdrawalOvertakesChange(t *testing.T) {
	w := fresh(t, "n1")
	a := w.agent("n1")
	w.assign("a", "r1")
	old := a.pods["a"].GetEpoch()
	if err := w.books.Assign(assignment("a", "r2"), exposed, w.now); err != nil {
		t.Fatal(err)
	}
	w.books.Withdraw("a", time.Second, w.now)
	if n := len(w.books.Take(a.session)); n != 1 {
		t.Fatalf("%d messages, want the withdrawal alone", n)
	}
	delete(a.pods, "a")
	w.books.ReportPod(a.session, &agentv1.PodStatus{PodUid: "a", Epoch: old, State: goneState}, w.now)
	w.deliver()
	if s := w.books.Status("a"); s != nil {
		t.Errorf("the agent has let go, and the pod is still known: %v", s)
	}
}

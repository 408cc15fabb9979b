package main

import (
	"slices"
	"testing"
	"time"

	vegeta "github.com/tsenart/vegeta/v12/lib"
)

// A request that the attacker sends late has waited since it was due.
func TestLatenciesAreFromWhenARequestWasDue(t *testing.T) {
	begun := time.Now()
	at := func(seq uint64, sent, took time.Duration, code uint16) *vegeta.Result {
		return &vegeta.Result{Seq: seq, Timestamp: begun.Add(sent), Latency: took, Code: code}
	}
	const ms = time.Millisecond
	answers := []*vegeta.Result{
		at(1, 130*ms, 5*ms, 200), // due after 100 ms
		at(0, 0, 5*ms, 200),
		at(2, 200*ms, 5*ms, 503),
		at(3, 300*ms, 40*ms, 200),
	}
	latencies, failed := sinceDue(answers, 10)
	if want := []time.Duration{35 * ms, 5 * ms, 40 * ms}; !slices.Equal(latencies, want) || failed != 1 {
		t.Errorf("%v, %d failed; want %v and 1", latencies, failed, want)
	}
	if rate := sentRate(answers); rate != 10 {
		t.Errorf("sent %v in a second", rate)
	}
	if latencies, failed := sinceDue(nil, 10); latencies != nil || failed != 0 || sentRate(nil) != 0 {
		t.Error("of nothing there is something")
	}
}

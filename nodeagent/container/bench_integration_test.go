//go:build integration

package container_test

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// BenchmarkStart makes containers with each OCI runtime, in turns, so that what
// else the machine does meets all of them alike. It reports medians: until Start
// returns, until the program has booted, and of the removal.
func BenchmarkStart(b *testing.B) {
	hosts := map[string]*host{}
	for _, oci := range ociRuntimes {
		hosts[oci.name] = newHostOf(b, oci.binary)
	}
	times := map[string][]time.Duration{}
	n := 0
	for b.Loop() {
		for name, h := range hosts {
			began := time.Now()
			s := h.serve(b, fmt.Sprint("bench", n), nil)
			warm := time.Now()
			if err := s.Destroy(b.Context()); err != nil {
				b.Fatal(err)
			}
			times[name+"-start"] = append(times[name+"-start"], s.started.Sub(began))
			times[name+"-warm"] = append(times[name+"-warm"], warm.Sub(began))
			times[name+"-destroy"] = append(times[name+"-destroy"], time.Since(warm))
		}
		n++
	}
	for name, all := range times {
		slices.Sort(all)
		b.ReportMetric(float64(all[len(all)/2].Microseconds())/1000, name+"-ms")
	}
}

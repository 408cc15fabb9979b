//go:build integration

package container_test

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// BenchmarkStart makes containers one after the other with each OCI runtime, in
// one run: until Start returns, until the program has booted, and the removal.
func BenchmarkStart(b *testing.B) {
	for _, oci := range ociRuntimes {
		b.Run(oci.name, func(b *testing.B) {
			h := newHostOf(b, oci.binary)
			var started, warm, destroyed []time.Duration
			for b.Loop() {
				began := time.Now()
				s := h.serve(b, fmt.Sprint("bench", len(warm)), nil)
				warm = append(warm, time.Since(began))
				started = append(started, s.started.Sub(began))
				began = time.Now()
				if err := s.Destroy(b.Context()); err != nil {
					b.Fatal(err)
				}
				destroyed = append(destroyed, time.Since(began))
			}
			for name, times := range map[string][]time.Duration{"start": started, "warm": warm, "destroy": destroyed} {
				slices.Sort(times)
				b.ReportMetric(float64(times[len(times)/2].Microseconds())/1000, name+"-p50-ms")
			}
		})
	}
}

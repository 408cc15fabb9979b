package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestGoBenchmarksBecomeResults(t *testing.T) {
	const printed = `goos: linux
pkg: sanfran.dev/nodeagent
BenchmarkColdActivation-2   	      30	   3000000 ns/op	         2.210 p50-ms	         5.900 p99-ms
BenchmarkColdActivation-2   	      30	   3000000 ns/op	         2.410 p50-ms	         4.100 p99-ms
BenchmarkColdActivation-2   	      30	   3000000 ns/op	         2.300 p50-ms	         9.000 p99-ms
BenchmarkOfSomethingElse    	       1	         1 ns/op
BenchmarkWarmMemory-2       	       1	   5000000 ns/op	        41.25 MiB
BenchmarkAdmission/by_path-2	 1000000	       110.5 ns/op	       0 B/op	       0 allocs/op
PASS
`
	got, err := readGoBenchmarks(strings.NewReader(printed), "printed")
	if err != nil {
		t.Fatal(err)
	}
	want := []Result{
		{Case: "coldactivation", What: goBenchmarks["ColdActivation"].what, Figures: []Figure{
			{Name: "p50-ms", Unit: "p50-ms", Bar: "≤ 2.5 ms", Rounds: []float64{2.21, 2.41, 2.3}, Median: 2.3},
			{Name: "p99-ms", Unit: "p99-ms", Bar: "≤ 6 ms", Rounds: []float64{5.9, 4.1, 9}, Median: 5.9},
		}},
		{Case: "warmmemory", What: goBenchmarks["WarmMemory"].what, Figures: []Figure{
			{Name: "MiB", Unit: "MiB", Bar: "≤ 30 MB", Rounds: []float64{41.25}, Median: 41.25},
		}},
		{Case: "admission", What: goBenchmarks["Admission"].what, Figures: []Figure{
			{Name: "by path: ns/op", Unit: "ns/op", Rounds: []float64{110.5}, Median: 110.5},
			{Name: "by path: B/op", Unit: "B/op", Rounds: []float64{0}, Median: 0},
			{Name: "by path: allocs/op", Unit: "allocs/op", Bar: "0", Rounds: []float64{0}, Median: 0},
		}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if _, err := readGoBenchmarks(strings.NewReader("PASS\n"), "nothing"); err == nil {
		t.Error("no benchmarks, no error")
	}
}

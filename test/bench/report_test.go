package main

import (
	"encoding/xml"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestMedian(t *testing.T) {
	for _, c := range []struct {
		values []float64
		want   float64
	}{
		{[]float64{3}, 3}, {[]float64{9, 1, 2}, 2}, {[]float64{4, 1, 3, 2}, 2.5},
	} {
		if got := median(c.values); got != c.want {
			t.Errorf("median(%v) = %v, want %v", c.values, got, c.want)
		}
	}
	if got := median(nil); !math.IsNaN(got) {
		t.Errorf("median of nothing = %v, want NaN", got)
	}
}

func TestPercentile(t *testing.T) {
	var latencies []time.Duration
	for i := 100; i >= 1; i-- {
		latencies = append(latencies, time.Duration(i)*time.Millisecond)
	}
	for p, want := range map[float64]float64{.5: 51, .99: 100, 1: 100, 0: 1} {
		if got := percentile(latencies, p); got != want {
			t.Errorf("percentile %v = %v ms, want %v", p, got, want)
		}
	}
}

// Bars are those of ARCHITECTURE.md.
func TestBarsStandInArchitecture(t *testing.T) {
	data, err := os.ReadFile("../../ARCHITECTURE.md")
	if err != nil {
		t.Fatal(err)
	}
	_, numbers, _ := strings.Cut(string(data), "\n| what | bar |\n")
	table, _, _ := strings.Cut(numbers, "\n\n")
	bars := map[string]bool{}
	for _, c := range cases {
		for _, bar := range c.Bars {
			bars[bar] = true
		}
	}
	for _, b := range goBenchmarks {
		for _, bar := range b.bars {
			bars[bar] = true
		}
	}
	for bar := range bars {
		if !strings.Contains(table, bar+" ") && !strings.Contains(table, bar+",") && !strings.Contains(table, bar+";") {
			t.Errorf("a bar of %q is in no row of the table under Numbers", bar)
		}
	}
}

// TestAWalkComesEverywhere checks that the walk that describes a machine is one
// circle.
func TestAWalkComesEverywhere(t *testing.T) {
	p := newPath()
	at, seen := uint32(0), make(map[uint32]bool)
	for range p {
		at = p[at].next
		seen[at] = true
	}
	if at != 0 || len(seen) != len(p) {
		t.Errorf("ends at %d, %d of %d lines seen", at, len(seen), len(p))
	}
}

func TestReportIsWrittenAsJSONAndAsATable(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new")
	report := Report{name: "results", Machine: describeMachine(), Rounds: 1, Results: []Result{{Case: "c", What: "what", Figures: []Figure{{Name: "p50", Unit: "ms", Bar: "≤ 3 ms", Rounds: []float64{1.5}, Median: 1.5}}}}}
	if err := report.write(dir); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{"results.json": `"median": 1.5`, "results.md": "| what | p50 | 1.50 ms | 1.50 | ≤ 3 ms |"} {
		data, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(data), want) {
			t.Errorf("%s lacks %q:\n%s", file, want, data)
		}
	}
}

func TestReportHasPlotsOfWhatWasMeasured(t *testing.T) {
	dir := t.TempDir()
	samples := map[string][]float64{"cold": {3, 2, 5}, "warm, gateway": {.3, .2}, "burst": {10, 30, 20}}
	report := Report{name: "results", Rounds: 1, Results: []Result{
		{Case: "cold", Samples: samples},
		{Case: "throughput", Figures: []Figure{{Name: "gateway, c=1", Unit: "req/s", Median: 5}, {Name: "gateway, c=16", Unit: "req/s", Median: 9}, {Name: "gateway / nginx, c=16", Unit: "ratio", Median: 1}}},
	}}
	drawn, err := report.plots(dir)
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"results-latency.svg", "results-cold.svg", "results-throughput.svg", "results-burst.svg"}; !slices.Equal(drawn, want) {
		t.Fatalf("drawn %v, want %v", drawn, want)
	}
	for _, file := range drawn {
		data, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			t.Fatal(err)
		}
		if err := xml.Unmarshal(data, new(struct{ XMLName xml.Name })); err != nil {
			t.Errorf("%s is not well-formed: %v", file, err)
		}
	}
	if drawn, err := (Report{name: "long"}).plots(dir); err != nil || len(drawn) != 0 {
		t.Errorf("of nothing %v were drawn, %v", drawn, err)
	}
}

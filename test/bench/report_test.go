package main

import (
	"math"
	"os"
	"path/filepath"
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

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Figure is one number of a case.
type Figure struct {
	Name string `json:"name"`
	Unit string `json:"unit"` // ms, µs, req/s, ratio, count
	// Bar is what ARCHITECTURE.md holds it to, in words; empty: it is reported
	// only.
	Bar string `json:"bar,omitempty"`
	// Rounds are the measured values, Median theirs.
	Rounds []float64 `json:"rounds"`
	Median float64   `json:"median"`
}

// Result is a case's figures.
type Result struct {
	Case    string   `json:"case"`
	What    string   `json:"what"`
	Figures []Figure `json:"figures"`
	// Samples are single values of all rounds, in milliseconds, that plots are made of.
	Samples map[string][]float64 `json:"samples,omitempty"`
}

// Report is one run.
type Report struct {
	Machine Machine  `json:"machine"`
	Rounds  int      `json:"rounds"`
	Results []Result `json:"results"`

	name string // of the files, without their ending
}

// median is the middle of the values, the mean of the middle two if their
// number is even. It is NaN for none.
func median(values []float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(values))
	middle := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[middle]
	}
	return (sorted[middle-1] + sorted[middle]) / 2
}

// write puts the report into a folder: as JSON, as Markdown, and as plots.
func (r Report) write(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, r.name+".json"), append(data, '\n'), 0o644); err != nil {
		return err
	}
	plots, err := r.plots(dir)
	if err != nil {
		return err
	}
	var table strings.Builder
	if err := r.markdown(&table); err != nil {
		return err
	}
	for _, file := range plots {
		fmt.Fprintf(&table, "\n![%[1]s](%[1]s)\n", file)
	}
	return os.WriteFile(filepath.Join(dir, r.name+".md"), []byte(table.String()), 0o644)
}

// markdown prints the report as a table.
func (r Report) markdown(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "# Measured %s\n\n%d cores (%s), Linux %s, %s; medians of %d rounds, everything of a case in the same run.\n\n", r.Machine.Date, r.Machine.Cores, r.Machine.CPU, r.Machine.Kernel, r.Machine.Go, r.Rounds)
	fmt.Fprintf(&b, "A walk over 512 KiB of memory, line after line, takes a program %.0f µs, and %.0f µs after it has slept for 50 ms: what a cold request finds in no cache costs as much for each 64 bytes.\n\n", r.Machine.WalkMicroseconds, r.Machine.WalkAfterSleepMicroseconds)
	b.WriteString("| case | figure | median | rounds | bar |\n|---|---|---|---|---|\n")
	for _, result := range r.Results {
		for i, f := range result.Figures {
			name := ""
			if i == 0 {
				name = result.What
			}
			rounds := make([]string, len(f.Rounds))
			for i, value := range f.Rounds {
				rounds[i] = format(value)
			}
			fmt.Fprintf(&b, "| %s | %s | %s %s | %s | %s |\n", name, f.Name, format(f.Median), f.Unit, strings.Join(rounds, ", "), f.Bar)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func format(value float64) string {
	switch {
	case value >= 100:
		return fmt.Sprintf("%.0f", value)
	case value >= 10:
		return fmt.Sprintf("%.1f", value)
	default:
		return fmt.Sprintf("%.2f", value)
	}
}

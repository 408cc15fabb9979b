package main

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"golang.org/x/perf/benchfmt"
)

// goBenchmark says what a Go benchmark measures, for the reader of the table.
type goBenchmark struct {
	what string
	// bars by unit, as ARCHITECTURE.md has them.
	bars map[string]string
	// turns says that a turn is nothing but what is measured, so that its time and
	// memory are figures; in those of nodeagent a turn has preparations.
	turns bool
}

// goBenchmarks are the benchmarks of nodeagent and router that tables show, by name.
var goBenchmarks = map[string]goBenchmark{
	"ColdActivation": {
		what: "cold request at the agent, lease to answer of hello",
		bars: map[string]string{"p50-ms": "≤ 2.5 ms", "p99-ms": "≤ 6 ms"},
	},
	"ContainerStarts": {
		what: "containers started, each taken and destroyed at once",
		bars: map[string]string{"starts/s/core": "≥ 12", "failures": "0"},
	},
	"WarmMemory": {
		what: "memory of a warm container beside 20 others (PSS)",
		bars: map[string]string{"MiB": "≤ 30 MB"},
	},
	"CompileCache": {
		what: "loading 1,000 modules, without and with what V8 has compiled before",
		bars: map[string]string{"times-faster": "≥ 2"},
	},
	"Admission": {
		what:  "a request finds its route and is let in, among 1,000 functions",
		bars:  map[string]string{"allocs/op": "0"},
		turns: true,
	},
	"Gateway": {
		what:  "the gateway's own part of a warm request, with the upstream's",
		turns: true,
	},
	"Forward": {
		what:  "a warm request through a whole server, by number of connections",
		turns: true,
	},
}

// readGoBenchmarks turns what `go test -bench` has printed into results, in the
// order of the text. Runs of one benchmark (-count) become rounds.
func readGoBenchmarks(r io.Reader, file string) ([]Result, error) {
	var results []Result
	at := map[string]int{}
	reader := benchfmt.NewReader(r, file)
	for reader.Scan() {
		record, ok := reader.Result().(*benchfmt.Result)
		if !ok {
			continue // what tests and units print
		}
		base, parts := record.Name.Parts()
		known, ok := goBenchmarks[string(base)]
		if !ok {
			continue
		}
		i, seen := at[string(base)]
		if !seen {
			i = len(results)
			at[string(base)] = i
			results = append(results, Result{Case: strings.ToLower(string(base)), What: known.what})
		}
		for _, value := range record.Values {
			name, v := value.Unit, value.Value
			if value.OrigUnit != "" {
				name, v = value.OrigUnit, value.OrigValue
			}
			if name == "ns/op" && !known.turns {
				continue
			}
			results[i].add(of(parts)+name, name, v, known.bars[name])
		}
	}
	if err := reader.Err(); err != nil {
		return nil, err
	}
	if len(results) == 0 {
		return nil, fmt.Errorf("%s: %w", file, errors.New("no benchmark in it that a table shows"))
	}
	for _, result := range results {
		for i, f := range result.Figures {
			result.Figures[i].Median = median(f.Rounds)
		}
	}
	return results, nil
}

// of is the name of a part of a benchmark, before that of a figure: "/gateway/c=1",
// "-2" become "gateway, c=1: ".
func of(parts [][]byte) string {
	var names []string
	for _, part := range parts {
		if name, ok := strings.CutPrefix(string(part), "/"); ok {
			names = append(names, strings.ReplaceAll(name, "_", " "))
		}
	}
	if len(names) == 0 {
		return ""
	}
	return strings.Join(names, ", ") + ": "
}

// add appends a round's value to the figure of that name.
func (r *Result) add(name, unit string, value float64, bar string) {
	for i := range r.Figures {
		if r.Figures[i].Name == name {
			r.Figures[i].Rounds = append(r.Figures[i].Rounds, value)
			return
		}
	}
	r.Figures = append(r.Figures, Figure{Name: name, Unit: unit, Bar: bar, Rounds: []float64{value}})
}

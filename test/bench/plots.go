package main

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/plotutil"
	"gonum.org/v1/plot/vg"
)

// plots draws what is there of a report as SVG files in a folder, and returns their
// names: the latencies' distribution, the cold request's histogram, the throughput by
// number of connections and the course of a burst.
func (r Report) plots(dir string) ([]string, error) {
	samples := make(map[string][]float64)
	var byConnections *Result
	for i, result := range r.Results {
		for name, values := range result.Samples {
			samples[name] = slices.Sorted(slices.Values(values))
		}
		if result.Case == "throughput" {
			byConnections = &r.Results[i]
		}
	}
	var drawn []string
	save := func(name string, p *plot.Plot, err error) error {
		if err != nil || p == nil {
			return err
		}
		file := r.name + "-" + name + ".svg"
		if err := p.Save(20*vg.Centimeter, 11*vg.Centimeter, filepath.Join(dir, file)); err != nil {
			return fmt.Errorf("draw %s: %w", file, err)
		}
		// The library leaves spaces at lines' ends, which a repository does not want.
		drawn = append(drawn, file)
		return tidy(filepath.Join(dir, file))
	}
	for _, one := range []struct {
		name string
		draw func() (*plot.Plot, error)
	}{
		{"latency", func() (*plot.Plot, error) { return distribution(samples) }},
		{"cold", func() (*plot.Plot, error) { return histogram(samples["cold"]) }},
		{"throughput", func() (*plot.Plot, error) { return throughputs(byConnections) }},
		{"burst", func() (*plot.Plot, error) { return course(samples["burst"], r.Rounds) }},
	} {
		p, err := one.draw()
		if err := save(one.name, p, err); err != nil {
			return nil, err
		}
	}
	return drawn, nil
}

func tidy(file string) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	lines := strings.Split(string(data), "\n")
	for i, line := range lines {
		lines[i] = strings.TrimRight(line, " \t")
	}
	return os.WriteFile(file, []byte(strings.Join(lines, "\n")), 0o644)
}

func newPlot(title, x, y string) *plot.Plot {
	p := plot.New()
	p.Title.Text, p.X.Label.Text, p.Y.Label.Text = title, x, y
	p.Add(plotter.NewGrid())
	p.Legend.Top = true
	return p
}

// addLines adds a line for each name, in their order.
func addLines(p *plot.Plot, lines map[string]plotter.XYs) error {
	names := make([]string, 0, len(lines))
	for name := range lines {
		names = append(names, name)
	}
	slices.Sort(names)
	for i, name := range names {
		line, err := plotter.NewLine(lines[name])
		if err != nil {
			return err
		}
		line.Color, line.Width = plotutil.Color(i), vg.Points(1.5)
		p.Add(line)
		p.Legend.Add(name, line)
	}
	return nil
}

// distribution is the share of requests that took at most so long. Samples are sorted.
func distribution(samples map[string][]float64) (*plot.Plot, error) {
	lines := make(map[string]plotter.XYs)
	for name, sorted := range samples {
		if name == "burst" || len(sorted) == 0 || sorted[0] <= 0 {
			continue // a burst's requests wait for one another; it has its own plot
		}
		for i, v := range sorted {
			lines[name] = append(lines[name], plotter.XY{X: v, Y: float64(i+1) / float64(len(sorted)) * 100})
		}
	}
	if len(lines) == 0 {
		return nil, nil
	}
	p := newPlot("Latency", "ms", "% of requests")
	p.X.Scale, p.X.Tick.Marker = plot.LogScale{}, plot.LogTicks{Prec: -1}
	p.Legend.Top, p.Legend.Left = false, false
	return p, addLines(p, lines)
}

func histogram(values []float64) (*plot.Plot, error) {
	if len(values) == 0 {
		return nil, nil
	}
	p := newPlot("Cold requests at the gateway", "ms", "requests")
	h, err := plotter.NewHist(plotter.Values(values), 40)
	if err != nil {
		return nil, err
	}
	h.FillColor = plotutil.Color(2)
	p.Add(h)
	return p, nil
}

// throughputs reads the figures that are called "<server>, c=<connections>".
func throughputs(result *Result) (*plot.Plot, error) {
	if result == nil {
		return nil, nil
	}
	lines := make(map[string]plotter.XYs)
	for _, f := range result.Figures {
		server, connections, ok := strings.Cut(f.Name, ", c=")
		if !ok || f.Unit != "req/s" {
			continue
		}
		c, err := strconv.Atoi(connections)
		if err != nil {
			return nil, fmt.Errorf("the figure %q: %w", f.Name, err)
		}
		lines[server] = append(lines[server], plotter.XY{X: float64(c), Y: f.Median})
	}
	for _, line := range lines {
		slices.SortFunc(line, func(a, b plotter.XY) int { return cmp.Compare(a.X, b.X) })
	}
	p := newPlot("Warm requests", "connections", "requests/s")
	p.Y.Min = 0
	p.X.Scale, p.X.Tick.Marker = plot.LogScale{}, plot.LogTicks{Prec: -1}
	return p, addLines(p, lines)
}

// course is how many of a burst's requests had their answer when. The values of all
// rounds, sorted, are one mean round.
func course(sorted []float64, rounds int) (*plot.Plot, error) {
	if len(sorted) == 0 {
		return nil, nil
	}
	line := plotter.XYs{{}}
	for i, v := range sorted {
		line = append(line, plotter.XY{X: v, Y: float64(i+1) / float64(max(rounds, 1))})
	}
	p := newPlot("A burst of 50 cold functions", "ms since all were asked at once", "answered")
	p.Y.Min = 0
	return p, addLines(p, map[string]plotter.XYs{"mean of the rounds": line})
}

// Command bench measures SanFran on a running cluster beside what it is
// compared with, in the same run, and writes the figures as JSON and as a
// Markdown table. It asserts nothing: bars are in ARCHITECTURE.md, and a
// person reads both.
//
// It is started by test/bench/run.sh, inside the network of a node, where the
// gateway, Services and pods are reached as clients in the cluster reach them.
// A measurement is a [Case]; add one to the list in cases.go.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) (err error) {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	var (
		only    = flags.String("case", "", "run only the cases whose name holds `text`")
		rounds  = flags.Int("rounds", 3, "how often each case is measured; medians are reported")
		out     = flags.String("out", "docs/bench", "the `folder` that results.json and results.md (long.json and long.md) are written to")
		long    = flags.Bool("long", false, "run the long cases instead of the others")
		load    = flags.Duration("load", 5*time.Second, "how long one throughput measurement lasts")
		name    = flags.String("name", "agent", "the `name` of the files that --go-benchmarks writes, without their ending")
		printed = flags.String("go-benchmarks", "", "write a report from this `file` of what go test -bench has printed; nothing else is measured")
		proxied = flags.String("reverse-proxy", "", "be Go's ReverseProxy before the upstream of this `URL`, to be compared with; nothing is measured")
		root    = flags.String("chroot", "", "be the program of the arguments in this `folder` as its root; nothing is measured")
		image   = flags.String("image", "", "the SanFran `image`, whose Node.js the baseline pod runs")
	)
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *printed != "" {
		return reportGoBenchmarks(*printed, *out, *name)
	}
	if *proxied != "" {
		return reverseProxy(*proxied)
	}
	if *root != "" && flags.NArg() > 0 {
		return chrooted(*root, flags.Args())
	}
	if *image == "" || *rounds < 1 {
		return fmt.Errorf("--image is needed and --rounds must be at least 1; run test/bench/run.sh, which sets them")
	}
	env, err := setUp(ctx, *image)
	if err != nil {
		return err
	}
	defer func() {
		if e := env.tearDown(); err == nil {
			err = e
		}
	}()
	env.load = *load
	env.npm = os.Getenv("SANFRAN_NPM")

	report := Report{Machine: describeMachine(), Rounds: *rounds, name: "results"}
	if *long {
		report.name = "long"
	}
	for _, c := range cases {
		if c.Long != *long || !strings.Contains(c.Name, *only) {
			continue
		}
		fmt.Fprintf(os.Stderr, "bench: %s\n", c.Name)
		measured, err := c.measure(ctx, env, *rounds)
		if err != nil {
			return fmt.Errorf("case %s: %w", c.Name, err)
		}
		report.Results = append(report.Results, measured)
	}
	if len(report.Results) == 0 {
		return fmt.Errorf("no case's name holds %q (with --long=%v)", *only, *long)
	}
	if err := report.write(*out); err != nil {
		return err
	}
	return report.markdown(os.Stdout)
}

// reportGoBenchmarks writes the report of benchmarks that go test has run.
func reportGoBenchmarks(file, out, name string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	report := Report{Machine: describeMachine(), name: name}
	if report.Results, err = readGoBenchmarks(f, file); err != nil {
		return err
	}
	report.Rounds = len(report.Results[0].Figures[0].Rounds)
	if err := report.write(out); err != nil {
		return err
	}
	return report.markdown(os.Stdout)
}

// Command cluster attacks the installation of SanFran in the cluster that
// KUBECONFIG names, from functions in two namespaces of its own, which it
// removes; it prints what became of each attack and fails if one succeeded.
// test/attacks/run.sh starts it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"sanfran.dev/test/attacks"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintf(os.Stderr, "attacks: %v\n", err)
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) (err error) {
	flags := flag.NewFlagSet("attacks", flag.ContinueOnError)
	var (
		gateway = flags.String("gateway", os.Getenv("GATEWAY_URL"), "the gateway's base `URL` as reached from here")
		only    = flags.String("only", "", "make only the attacks whose name holds `text`")
		rounds  = flags.Int("rounds", 5, "how often each flood runs beside a neighbour whose p99 is measured; 0: once, unmeasured")
	)
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *gateway == "" || os.Getenv("KUBECONFIG") == "" {
		return errors.New("KUBECONFIG and --gateway name no installation; run test/attacks/run.sh, which sets them")
	}
	site, err := setUp(ctx, strings.TrimSuffix(*gateway, "/"))
	defer func() { err = errors.Join(err, tearDown()) }()
	if err != nil {
		return err
	}
	facts, err := site.facts(ctx)
	if err != nil {
		return err
	}
	held, open, skipped := 0, 0, 0
	suite := attacks.Suite{Installation: site, Facts: facts, Only: *only, Rounds: *rounds, Report: func(r attacks.Result) {
		verdict := "held"
		switch {
		case r.Skipped:
			verdict = "-"
			skipped++
		case r.Err != nil:
			verdict = "FAILED"
		case r.Open:
			verdict = "open"
			open++
		default:
			held++
		}
		fmt.Printf("%-6s  %-38s  %-58s  %s\n", verdict, r.Attack.Name, r.Attack.Aim, strings.TrimSpace(r.How))
	}}
	if err := suite.Run(ctx); err != nil {
		return err
	}
	if held+open == 0 {
		return fmt.Errorf("no attack's name holds %q", *only)
	}
	fmt.Printf("attacks: %d refused or contained, %d not made, %d known to succeed, and no other\n", held, skipped, open)
	return nil
}

package main

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// Case is one measurement.
type Case struct {
	Name string
	// What says it to the reader of the table.
	What string
	// Long cases run in bench-long only.
	Long bool
	// Bars by figure, as ARCHITECTURE.md has them.
	Bars map[string]string
	// Round measures once and returns its figures in the order of the table.
	Round func(ctx context.Context, env *environment) ([]value, error)
}

// value is one figure of one round.
type value struct {
	name, unit string
	value      float64
}

// measure runs a case's rounds.
func (c Case) measure(ctx context.Context, env *environment, rounds int) (Result, error) {
	result := Result{Case: c.Name, What: c.What}
	for round := range rounds {
		values, err := c.Round(ctx, env)
		if err != nil {
			return result, fmt.Errorf("round %d: %w", round+1, err)
		}
		for i, v := range values {
			if round == 0 {
				result.Figures = append(result.Figures, Figure{Name: v.name, Unit: v.unit, Bar: c.Bars[v.name]})
			}
			result.Figures[i].Rounds = append(result.Figures[i].Rounds, v.value)
		}
	}
	for i, f := range result.Figures {
		result.Figures[i].Median = median(f.Rounds)
	}
	return result, nil
}

var cases = []Case{
	{
		Name:  "cold",
		What:  "cold request at the gateway, warm container available",
		Bars:  map[string]string{"p50": "≤ 3 ms", "p99": "≤ 8 ms"},
		Round: cold,
	},
	{
		Name:  "warm-latency",
		What:  "warm request, one at a time",
		Bars:  map[string]string{"added by the gateway, p50": "≤ 100 µs"},
		Round: warmLatency,
	},
	{
		Name:  "cluster-ip",
		What:  "through a ClusterIP, 16 connections, pod active on this node",
		Bars:  map[string]string{"the same program as a function / ordinary pod": "≥ 0.95"},
		Round: clusterIP,
	},
	{
		Name:  "gateway",
		What:  "through the gateway, 16 connections",
		Round: gatewayThroughput,
	},
	{
		Name:  "burst",
		What:  "burst of 50 cold functions at once",
		Bars:  map[string]string{"errors": "0"},
		Round: burst,
	},
	{
		Name:  "parked-memory",
		What:  "memory of a parked function, over 1,000 of them",
		Bars:  map[string]string{"in all": "≤ 16 KB", "the agent's process, with all of them": "≤ 60 MB"},
		Long:  true,
		Round: parkedMemory,
	},
}

// coldPace is the time between two cold requests. To start a container and
// warm it up takes about 0.4 s of processor time, so that the pool is full
// again by then: what is measured is an activation, not a wait for a container
// and not the start of the next one, which would share the two cores with it.
const coldPace = 600 * time.Millisecond

func cold(ctx context.Context, env *environment) ([]value, error) {
	urls, remove, err := env.parkedFunctions(ctx, 100)
	if err != nil {
		return nil, err
	}
	client := newClient(1)
	defer client.CloseIdleConnections()
	if _, err := once(ctx, client, env.at("hello")); err != nil { // the connection to the gateway is no part of it
		return nil, err
	}
	pace := time.NewTicker(coldPace)
	defer pace.Stop()
	var latencies []time.Duration
	for _, url := range urls {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-pace.C:
		}
		took, err := once(ctx, client, url)
		if err != nil {
			return nil, err
		}
		latencies = append(latencies, took)
	}
	return []value{
		{"p50", "ms", percentile(latencies, .5)},
		{"p90", "ms", percentile(latencies, .9)},
		{"p99", "ms", percentile(latencies, .99)},
		{"max", "ms", percentile(latencies, 1)},
	}, remove()
}

func warmLatency(ctx context.Context, env *environment) ([]value, error) {
	measure := func(url string) (float64, error) {
		latencies, err := throughput(ctx, url, 1, env.load)
		return percentile(latencies, .5) * 1000, err
	}
	baseline, err := measure(env.baseline + "/?name=Vik")
	if err != nil {
		return nil, err
	}
	direct, err := measure(env.function + "/?name=Vik")
	if err != nil {
		return nil, err
	}
	gateway, err := measure(env.at("hello"))
	if err != nil {
		return nil, err
	}
	return []value{
		{"ordinary pod, bare Node.js, p50", "µs", baseline},
		{"function pod's address, p50", "µs", direct},
		{"function at the gateway, p50", "µs", gateway},
		{"added by the gateway, p50", "µs", gateway - direct},
	}, nil
}

// perSecond measures requests per second over 16 connections.
func perSecond(ctx context.Context, env *environment, url string) (float64, error) {
	latencies, err := throughput(ctx, url, 16, env.load)
	return float64(len(latencies)) / env.load.Seconds(), err
}

func clusterIP(ctx context.Context, env *environment) ([]value, error) {
	baseline, err := perSecond(ctx, env, env.baselineService+"/?name=Vik")
	if err != nil {
		return nil, err
	}
	server, err := perSecond(ctx, env, env.serverService+"/?name=Vik")
	if err != nil {
		return nil, err
	}
	function, err := perSecond(ctx, env, env.functionService+"/?name=Vik")
	if err != nil {
		return nil, err
	}
	return []value{
		{"ordinary pod, bare Node.js", "req/s", baseline},
		{"the same program as a function", "req/s", server},
		{"the same program as a function / ordinary pod", "ratio", server / baseline},
		{"(req, res) function", "req/s", function},
		{"(req, res) function / ordinary pod", "ratio", function / baseline},
	}, nil
}

func gatewayThroughput(ctx context.Context, env *environment) ([]value, error) {
	direct, err := perSecond(ctx, env, env.function+"/?name=Vik")
	if err != nil {
		return nil, err
	}
	gateway, err := perSecond(ctx, env, env.at("hello"))
	if err != nil {
		return nil, err
	}
	return []value{
		{"function pod's address", "req/s", direct},
		{"gateway", "req/s", gateway},
		{"gateway / address", "ratio", gateway / direct},
	}, nil
}

func burst(ctx context.Context, env *environment) ([]value, error) {
	urls, remove, err := env.parkedFunctions(ctx, 50)
	if err != nil {
		return nil, err
	}
	client := newClient(len(urls))
	defer client.CloseIdleConnections()
	var (
		wg        sync.WaitGroup
		mu        sync.Mutex
		latencies []time.Duration
		failed    int
	)
	for _, url := range urls {
		wg.Go(func() {
			took, err := once(ctx, client, url)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				failed++
				return
			}
			latencies = append(latencies, took)
		})
	}
	wg.Wait()
	return []value{
		{"p50", "ms", percentile(latencies, .5)},
		{"p99", "ms", percentile(latencies, .99)},
		{"errors", "count", float64(failed)},
	}, remove()
}

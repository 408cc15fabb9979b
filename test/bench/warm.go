package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"
)

func warmLatency(ctx context.Context, env *environment) ([]value, error) {
	measure := func(name, url string) (float64, error) {
		latencies, err := throughput(ctx, url, 1, env.load)
		if name != "" { // a thousand are enough for a plot
			for i := 0; i < len(latencies); i += len(latencies)/1000 + 1 {
				env.sample(name, latencies[i:i+1])
			}
		}
		return percentile(latencies, .5) * 1000, err
	}
	baseline, err := measure("", env.baseline+"/?name=Vik")
	if err != nil {
		return nil, err
	}
	direct, err := measure("warm, the function's address", env.function+"/?name=Vik")
	if err != nil {
		return nil, err
	}
	gateway, err := measure("warm, gateway", env.at("hello"))
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

// perSecond measures requests per second over a number of connections.
func perSecond(ctx context.Context, env *environment, url string, connections int) (float64, error) {
	latencies, err := throughput(ctx, url, connections, env.load)
	return float64(len(latencies)) / env.load.Seconds(), err
}

func clusterIP(ctx context.Context, env *environment) ([]value, error) {
	baseline, err := perSecond(ctx, env, env.baselineService+"/?name=Vik", 16)
	if err != nil {
		return nil, err
	}
	server, err := perSecond(ctx, env, env.serverService+"/?name=Vik", 16)
	if err != nil {
		return nil, err
	}
	function, err := perSecond(ctx, env, env.functionService+"/?name=Vik", 16)
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

// byConnections measures everything that answers hello, and each proxy in front of
// the same function, in turns.
func byConnections(ctx context.Context, env *environment) (values []value, err error) {
	proxies, stop, err := startProxies(ctx, env.image, env.function)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, stop()) }()
	type server struct{ name, url string }
	servers := []server{{"ordinary pod, bare Node.js", env.baseline + "/?name=Vik"}, {"function's address", env.function + "/?name=Vik"}, {"gateway", env.at("hello")}}
	for _, p := range proxies {
		servers = append(servers, server{p.name, p.url + "/?name=Vik"})
	}
	for _, connections := range []int{1, 16, 64} {
		rates := make(map[string]float64)
		for _, s := range servers {
			if rates[s.name], err = perSecond(ctx, env, s.url, connections); err != nil {
				return nil, err
			}
			values = append(values, value{fmt.Sprintf("%s, c=%d", s.name, connections), "req/s", rates[s.name]})
		}
		for _, p := range proxies {
			values = append(values, value{fmt.Sprintf("gateway / %s, c=%d", p.name, connections), "ratio", rates["gateway"] / rates[p.name]})
		}
	}
	return values, nil
}

// openLoop sends requests when they are due, whether or not the former have been
// answered, so that a slow answer does not hide those that it held up.
func openLoop(ctx context.Context, env *environment) ([]value, error) {
	most, err := perSecond(ctx, env, env.at("hello"), 16)
	if err != nil {
		return nil, err
	}
	const share = 0.7
	results := attack(ctx, env.at("hello"), int(most*share), 2*env.load, true)
	var latencies []time.Duration
	failed := 0
	for result := range results {
		if result.Code != http.StatusOK {
			failed++
			continue
		}
		latencies = append(latencies, result.Latency)
	}
	return []value{
		{"rate", "req/s", most * share},
		{"p50", "ms", percentile(latencies, .5)},
		{"p90", "ms", percentile(latencies, .9)},
		{"p99", "ms", percentile(latencies, .99)},
		{"errors", "count", float64(failed)},
	}, ctx.Err()
}

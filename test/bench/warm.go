package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	vegeta "github.com/tsenart/vegeta/v12/lib"
)

// turns is in how many slices everything that is compared is measured, one of each
// after the other: what the machine does by itself in a second then meets all alike.
const turns = 5

// inTurns measures URLs over a number of connections, each for env.load in all, and
// returns the latencies of each.
func inTurns(ctx context.Context, env *environment, connections int, urls ...string) ([][]time.Duration, error) {
	latencies := make([][]time.Duration, len(urls))
	for range turns {
		for i, url := range urls {
			slice, err := throughput(ctx, url, connections, env.load/turns)
			if err != nil {
				return nil, err
			}
			latencies[i] = append(latencies[i], slice...)
		}
	}
	return latencies, nil
}

// perSecond is what inTurns has measured as a rate.
func perSecond(env *environment, latencies []time.Duration) float64 {
	return float64(len(latencies)) / env.load.Seconds()
}

// medianMicroseconds is the median of latencies.
func medianMicroseconds(latencies []time.Duration) float64 { return percentile(latencies, .5) * 1000 }

func warmLatency(ctx context.Context, env *environment) ([]value, error) {
	all, err := inTurns(ctx, env, 1, env.baseline+"/?name=Vik", env.function+"/?name=Vik", env.at("hello"))
	if err != nil {
		return nil, err
	}
	for i, name := range map[int]string{1: "warm, the function's address", 2: "warm, gateway"} {
		env.sampleSome(name, all[i])
	}
	baseline, direct, gateway := medianMicroseconds(all[0]), medianMicroseconds(all[1]), medianMicroseconds(all[2])
	return []value{
		{"ordinary pod, bare Node.js, p50", "µs", baseline},
		{"function pod's address, p50", "µs", direct},
		{"function at the gateway, p50", "µs", gateway},
		{"added by the gateway, p50", "µs", gateway - direct},
	}, nil
}

func clusterIP(ctx context.Context, env *environment) ([]value, error) {
	all, err := inTurns(ctx, env, 16, env.baselineService+"/?name=Vik", env.serverService+"/?name=Vik", env.functionService+"/?name=Vik")
	if err != nil {
		return nil, err
	}
	baseline, server, function := perSecond(env, all[0]), perSecond(env, all[1]), perSecond(env, all[2])
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
	names := []string{"ordinary pod, bare Node.js", "function's address", "gateway"}
	urls := []string{env.baseline + "/?name=Vik", env.function + "/?name=Vik", env.at("hello")}
	const function, gateway = 1, 2
	for _, p := range proxies {
		names, urls = append(names, p.name), append(urls, p.url+"/?name=Vik")
	}
	for _, connections := range []int{1, 16, 64} {
		all, err := inTurns(ctx, env, connections, urls...)
		if err != nil {
			return nil, err
		}
		for i, name := range names {
			values = append(values, value{fmt.Sprintf("%s, c=%d", name, connections), "req/s", perSecond(env, all[i])})
		}
		for i := gateway + 1; i < len(names); i++ {
			values = append(values, value{fmt.Sprintf("gateway / %s, c=%d", names[i], connections), "ratio", perSecond(env, all[gateway]) / perSecond(env, all[i])})
		}
		for i := gateway; i < len(names) && connections == 1; i++ {
			values = append(values, value{fmt.Sprintf("added by %s, c=1, p50", names[i]), "µs", medianMicroseconds(all[i]) - medianMicroseconds(all[function])})
		}
	}
	return values, nil
}

// openLoop sends requests when they are due, whether or not the former have been
// answered, so that a slow answer does not hide those that it held up.
func openLoop(ctx context.Context, env *environment) ([]value, error) {
	closed, err := throughput(ctx, env.at("hello"), 16, env.load)
	if err != nil {
		return nil, err
	}
	most := perSecond(env, closed)
	const share = 0.7
	rate := int(most * share)
	var answers []*vegeta.Result
	for answer := range attack(ctx, env.at("hello"), rate, 2*env.load, true) {
		answers = append(answers, answer)
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	latencies, failed := sinceDue(answers, rate)
	env.sampleSome("open loop, gateway", latencies)
	return []value{
		{"rate", "req/s", float64(rate)},
		{"rate of those sent", "req/s", sentRate(answers)},
		{"p50", "ms", percentile(latencies, .5)},
		{"p90", "ms", percentile(latencies, .9)},
		{"p99", "ms", percentile(latencies, .99)},
		{"errors", "count", float64(failed)},
	}, nil
}

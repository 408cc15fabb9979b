package main

import (
	"context"
	"fmt"
	"maps"
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
	clear(env.samples)
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
	result.Samples = maps.Clone(env.samples)
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
		Name:  "cold-packages",
		What:  "the same, of a function with npm packages",
		Round: coldPackages,
	},
	{
		Name:  "burst",
		What:  "burst of 50 cold functions at once on a pool of 10",
		Bars:  map[string]string{"errors": "0"},
		Round: burst,
	},
	{
		Name:  "warm-latency",
		What:  "warm request, one at a time",
		Bars:  map[string]string{"added by the gateway, p50": "≤ 100 µs"},
		Round: warmLatency,
	},
	{
		Name:  "throughput",
		What:  "warm requests by number of connections; proxies are pods with the gateway's resources, in front of the same function",
		Bars:  map[string]string{"gateway / Go's ReverseProxy, c=16": "> 1"},
		Round: byConnections,
	},
	{
		Name:  "open-loop",
		What:  "warm requests through the gateway at 70% of what it served with 16 connections, sent when they are due",
		Bars:  map[string]string{"errors": "0"},
		Round: openLoop,
	},
	{
		Name:  "cluster-ip",
		What:  "through a ClusterIP, 16 connections, pod active on this node",
		Bars:  map[string]string{"the same program as a function / ordinary pod": "≥ 0.95"},
		Round: clusterIP,
	},
	{
		Name:  "update",
		What:  "a Deployment of two function pods gets other code, 200 requests/s through the gateway",
		Bars:  map[string]string{"errors": "0"},
		Round: update,
	},
	{
		Name:  "roll",
		What:  "the same Deployment rolls on both kinds of node, 200 connections/s through its Service",
		Bars:  map[string]string{"errors, function pods": "≤ the kubelet's"},
		Round: roll,
	},
	{
		Name:  "parked-memory",
		What:  "memory of a parked function, over 10,000 of them",
		Bars:  map[string]string{"in all": "≤ 16 KB", "the agent's process, with 1,000 of them": "≤ 60 MB"},
		Long:  true,
		Round: parkedMemory,
	},
}

package warmpool

import (
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	agentv1 "sanfran.dev/proto/sanfran/agent/v1"
)

var (
	descAgents  = prometheus.NewDesc("sanfran_agents", "Node agents by whether they are connected.", []string{"connected"}, nil)
	descPods    = prometheus.NewDesc("sanfran_pods", "Function pods by state at their home agents.", []string{"state"}, nil)
	descRoutes  = prometheus.NewDesc("sanfran_routes", "Routes by whether they are ready.", []string{"ready"}, nil)
	descHomed   = prometheus.NewDesc("sanfran_agent_pods", "Function pods that an agent is home to.", []string{"node"}, nil)
	descPool    = prometheus.NewDesc("sanfran_agent_pool_containers", "Containers of an agent's pool by state.", []string{"node", "runtime", "state"}, nil)
	descFailing = prometheus.NewDesc("sanfran_agent_container_start_failures", "Containers of an agent that failed to start since it started.", []string{"node", "runtime"}, nil)
)

// Describe implements prometheus.Collector.
func (p *Pool) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descAgents, descPods, descRoutes, descHomed, descPool, descFailing} {
		ch <- d
	}
}

// Collect implements prometheus.Collector. It reads the books at that moment.
func (p *Pool) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	connected, away := 0, 0
	for _, a := range p.books.Agents() {
		if a.Connected {
			connected++
		} else {
			away++
		}
		gauge(descHomed, float64(a.Pods), a.Node)
		for _, pool := range a.Pools {
			gauge(descPool, float64(pool.GetWarming()), a.Node, pool.GetRuntime(), "warming")
			gauge(descPool, float64(pool.GetWarm()), a.Node, pool.GetRuntime(), "warm")
			gauge(descPool, float64(pool.GetLeased()), a.Node, pool.GetRuntime(), "leased")
			gauge(descPool, float64(pool.GetDraining()), a.Node, pool.GetRuntime(), "draining")
			gauge(descFailing, float64(pool.GetStartFailures()), a.Node, pool.GetRuntime())
		}
	}
	gauge(descAgents, float64(connected), "true")
	gauge(descAgents, float64(away), "false")
	states := p.books.PodStates()
	for number, name := range agentv1.PodState_name {
		state := strings.ToLower(strings.TrimPrefix(name, "POD_STATE_"))
		gauge(descPods, float64(states[agentv1.PodState(number)]), state)
	}
	all, ready := p.routes.Len()
	gauge(descRoutes, float64(ready), "true")
	gauge(descRoutes, float64(all-ready), "false")
}

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
)

// parkedMemory measures what more parked functions add to the resident memory of
// each process, first 1,000 of them and then all. A round removes its functions at
// its end; what the Go runtime has not given back by the next round makes that one
// smaller, so that the first round is the honest one and the median errs on the low
// side.
func parkedMemory(ctx context.Context, env *environment) ([]value, error) {
	const first, rest = 1_000, 9_000
	before, err := residentMemory(ctx)
	if err != nil {
		return nil, err
	}
	_, removeFirst, err := env.parkedFunctions(ctx, first, "hello")
	if err != nil {
		return nil, err
	}
	some, err := residentMemory(ctx)
	if err != nil {
		return nil, errors.Join(err, removeFirst())
	}
	_, removeRest, err := env.parkedFunctions(ctx, rest, "hello")
	if err != nil {
		return nil, errors.Join(err, removeFirst())
	}
	after, err := residentMemory(ctx)
	if err := errors.Join(err, removeRest(), removeFirst()); err != nil {
		return nil, err
	}
	var values []value
	var all float64
	for _, component := range components {
		each := (after[component] - before[component]) / (first + rest) / 1024
		all += each
		values = append(values, value{component, "KB", each})
	}
	return append(values, value{"in all", "KB", all},
		value{"the agent's process, with 1,000 of them", "MB", some["agent"] / 1e6},
		value{"the agent's process, with all of them", "MB", after["agent"] / 1e6}), nil
}

var components = []string{"gateway", "agent", "control-plane"}

// residentMemory reads the processes' own metrics: bytes by component.
func residentMemory(ctx context.Context) (map[string]float64, error) {
	memory := make(map[string]float64)
	for _, component := range components {
		port := "8081"
		if component == "agent" {
			port = "7072"
		}
		address, err := kubectl(ctx, "", "get", "pods", "-A", "-l", "app.kubernetes.io/name=sanfran,app.kubernetes.io/component="+component, "-o", "jsonpath={.items[0].status.podIP}")
		if err != nil {
			return nil, err
		}
		if memory[component], err = metric(ctx, "http://"+address+":"+port+"/metrics", "process_resident_memory_bytes"); err != nil {
			return nil, err
		}
	}
	return memory, nil
}

// metric reads one sample without labels from a Prometheus endpoint.
func metric(ctx context.Context, url, name string) (float64, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, err
	}
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	lines := bufio.NewScanner(res.Body)
	for lines.Scan() {
		if text, ok := strings.CutPrefix(lines.Text(), name+" "); ok {
			return strconv.ParseFloat(text, 64)
		}
	}
	if err := lines.Err(); err != nil {
		return 0, fmt.Errorf("read %s: %w", url, err)
	}
	return 0, fmt.Errorf("%s has no %s", url, name)
}

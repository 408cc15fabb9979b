package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/evanw/esbuild/pkg/api"
)

// coldPace is the time between two cold requests. To start a container and
// warm it up takes about 0.4 s of processor time, so that the pool is full
// again by then: what is measured is an activation, not a wait for a container
// and not the start of the next one, which would share the two cores with it.
const coldPace = 600 * time.Millisecond

func cold(ctx context.Context, env *environment) ([]value, error) {
	return coldRequests(ctx, env, "cold", "hello", 100)
}

// coldPackages is cold for a function that loads some 200 KB of npm packages, which
// esbuild has joined with it, as people do whose functions have to start quickly.
func coldPackages(ctx context.Context, env *environment) ([]value, error) {
	const name = "packages"
	code, err := bundlePackages(env.npm)
	if err != nil {
		return nil, err
	}
	manifest := fmt.Sprintf("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: %s, namespace: %s}\ndata:\n  index.js: %q\n---\n%s",
		name, namespace, code, functionPod(name, name, name, "10m", name))
	if _, err := kubectl(ctx, manifest, "apply", "--server-side", "-f", "-"); err != nil {
		return nil, err
	}
	if _, err := kubectl(ctx, "", "wait", "-n", namespace, "--for=condition=Ready", "pod/"+name, "--timeout=90s"); err != nil {
		return nil, err
	}
	if err := answers(ctx, env.at(name)); err != nil {
		return nil, err
	}
	return coldRequests(ctx, env, "cold, with packages", name, 50)
}

// packagesCode uses each package that it loads.
const packagesCode = `
const { v4 } = require('uuid'), dayjs = require('dayjs'), _ = require('lodash'), { z } = require('zod'), jwt = require('jsonwebtoken'), { marked } = require('marked')
const query = z.object({ name: z.string() })
module.exports = (req, res) => {
  const { name } = query.parse(req.query)
  res.set('X-Token', jwt.sign({ id: v4(), at: dayjs().toISOString() }, 'secret')).send(marked.parse('Hello *' + _.capitalize(name) + '*'))
}`

// bundlePackages joins packagesCode with its packages, of a folder that has them.
func bundlePackages(npm string) (string, error) {
	if npm == "" {
		return "", fmt.Errorf("the environment variable SANFRAN_NPM must name the folder that test/npm/install.sh prints; test/bench/run.sh sets it")
	}
	result := api.Build(api.BuildOptions{
		Stdin:  &api.StdinOptions{Contents: packagesCode, ResolveDir: npm},
		Bundle: true, Platform: api.PlatformNode, Format: api.FormatCommonJS, MinifyWhitespace: true, MinifySyntax: true, Charset: api.CharsetASCII,
	})
	if len(result.Errors) > 0 {
		return "", fmt.Errorf("bundle the packages of %s: %s", npm, result.Errors[0].Text)
	}
	return string(result.OutputFiles[0].Contents), nil
}

// coldRequests measures the first request of n parked functions, one after the other.
func coldRequests(ctx context.Context, env *environment, name, code string, n int) ([]value, error) {
	urls, remove, err := env.parkedFunctions(ctx, n, code)
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
	env.sample(name, latencies)
	return []value{
		{"p50", "ms", percentile(latencies, .5)},
		{"p90", "ms", percentile(latencies, .9)},
		{"p99", "ms", percentile(latencies, .99)},
		{"max", "ms", percentile(latencies, 1)},
	}, remove()
}

func burst(ctx context.Context, env *environment) ([]value, error) {
	urls, remove, err := env.parkedFunctions(ctx, 50, "hello")
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
	env.sample("burst", latencies)
	return []value{
		{"p50", "ms", percentile(latencies, .5)},
		{"p99", "ms", percentile(latencies, .99)},
		{"errors", "count", float64(failed)},
	}, remove()
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"time"

	vegeta "github.com/tsenart/vegeta/v12/lib"
)

// newClient returns a client that keeps up to connections open.
func newClient(connections int) *http.Client {
	return &http.Client{
		Timeout:   30 * time.Second,
		Transport: &http.Transport{MaxIdleConnsPerHost: connections, MaxConnsPerHost: connections, DisableCompression: true},
	}
}

// once sends a GET and reads the answer; any status but 200 is an error.
func once(ctx context.Context, client *http.Client, url string) (time.Duration, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, err
	}
	start := time.Now()
	res, err := client.Do(r)
	if err != nil {
		return 0, err
	}
	body, err := io.ReadAll(res.Body)
	took := time.Since(start)
	if err = errors.Join(err, res.Body.Close()); err != nil {
		return 0, err
	}
	if res.StatusCode != http.StatusOK {
		return 0, fmt.Errorf("GET %s: %s: %.200s", url, res.Status, body)
	}
	return took, nil
}

// throughput keeps as many requests in flight as there are connections, for a
// while, and returns every request's latency. The first error ends it.
func throughput(ctx context.Context, url string, connections int, lasts time.Duration) ([]time.Duration, error) {
	client := newClient(connections)
	defer client.CloseIdleConnections()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	end := time.Now().Add(lasts)
	var (
		wg  sync.WaitGroup
		mu  sync.Mutex
		all []time.Duration
	)
	for range connections {
		wg.Go(func() {
			var own []time.Duration
			for time.Now().Before(end) && ctx.Err() == nil {
				took, err := once(ctx, client, url)
				if err != nil {
					cancel(err)
					return
				}
				own = append(own, took)
			}
			mu.Lock()
			defer mu.Unlock()
			all = append(all, own...)
		})
	}
	wg.Wait()
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	return all, nil
}

// attack sends GETs at a rate for a while, or until ctx ends, and tells of each; the
// caller receives until the channel is closed. With keepAlive false each has a
// connection of its own.
func attack(ctx context.Context, url string, rate int, lasts time.Duration, keepAlive bool) <-chan *vegeta.Result {
	attacker := vegeta.NewAttacker(vegeta.KeepAlive(keepAlive), vegeta.Timeout(10*time.Second), vegeta.MaxBody(1<<10))
	target := vegeta.NewStaticTargeter(vegeta.Target{Method: http.MethodGet, URL: url})
	results := attacker.Attack(target, vegeta.ConstantPacer{Freq: max(rate, 1), Per: time.Second}, lasts, url)
	context.AfterFunc(ctx, func() { attacker.Stop() })
	return results
}

// sinceDue returns the latencies of an attack's good answers, each from when the
// request was due: what the attacker itself is late by is time that the request's
// sender has waited. The vegeta library counts from when it was sent.
func sinceDue(answers []*vegeta.Result, rate int) (latencies []time.Duration, failed int) {
	if len(answers) == 0 {
		return nil, 0
	}
	due := func(r *vegeta.Result) time.Duration {
		return time.Duration(r.Seq) * time.Second / time.Duration(max(rate, 1))
	}
	// None is sent before it is due, and the earliest of all nearly then.
	begun := answers[0].Timestamp.Add(-due(answers[0]))
	for _, r := range answers {
		if t := r.Timestamp.Add(-due(r)); t.Before(begun) {
			begun = t
		}
	}
	for _, r := range answers {
		if r.Code != http.StatusOK {
			failed++
			continue
		}
		latencies = append(latencies, r.Timestamp.Add(r.Latency).Sub(begun.Add(due(r))))
	}
	return latencies, failed
}

// sentRate is how many requests of an attack were sent in a second.
func sentRate(answers []*vegeta.Result) float64 {
	if len(answers) < 2 {
		return 0
	}
	byTime := func(a, b *vegeta.Result) int { return a.Timestamp.Compare(b.Timestamp) }
	took := slices.MaxFunc(answers, byTime).Timestamp.Sub(slices.MinFunc(answers, byTime).Timestamp)
	return float64(len(answers)-1) / took.Seconds()
}

func milliseconds(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e6 }

// percentile returns the latency that p (0 to 1) of the requests do not
// exceed, in milliseconds.
func percentile(latencies []time.Duration, p float64) float64 {
	if len(latencies) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(latencies))
	at := min(int(float64(len(sorted))*p), len(sorted)-1)
	return milliseconds(sorted[at])
}

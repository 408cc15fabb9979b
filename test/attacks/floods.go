package attacks

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"
)

// A neighbour is asked every askEvery, whether or not it has answered before,
// for window at a time. Its p99 during a flood may be twice that of the quiet
// windows between floods, or floor, below which differences are the machine's.
const (
	askEvery = 10 * time.Millisecond
	window   = 2 * time.Second
	most     = 2.0
	floor    = 5 * time.Millisecond
)

// floods runs what eats, each in a function of its own, beside a neighbour.
func (s *Suite) floods(ctx context.Context) error {
	for _, a := range s.chosen(Floods()) {
		var quiet, flooded []time.Duration
		var last Result
		for range max(1, s.Rounds) {
			if err := s.fresh(ctx, func(name string, facts Facts) error {
				if s.Rounds > 0 {
					p99, err := s.neighbour(ctx, time.After(window))
					if err != nil {
						return fmt.Errorf("before %s: %w", a.Name, err)
					}
					quiet = append(quiet, p99)
				}
				facts.Seconds = window.Seconds()
				over := make(chan time.Time)
				var got answer
				var wg sync.WaitGroup
				least := time.After(window)
				wg.Go(func() {
					defer close(over)
					got = s.attack(ctx, name, a, facts)
					select {
					case <-least: // enough answers to speak of a p99
					case <-ctx.Done():
					}
				})
				p99, err := s.neighbour(ctx, over)
				wg.Wait()
				flooded = append(flooded, p99)
				last = judge(a, got)
				// A limit that should have been met was not.
				if a.Refusals != "" && last.Err == nil && !got.Refused && !got.silent {
					last.Err = fmt.Errorf("%s met no limit: %s", a.Name, got.How)
				}
				if err != nil {
					last.Err = errors.Join(last.Err, fmt.Errorf("%s: the neighbour: %w", a.Name, err))
				}
				return nil
			}); err != nil {
				return err
			}
			if last.Err != nil {
				break
			}
		}
		if s.Rounds > 0 && last.Err == nil {
			before, during := median(quiet), median(flooded)
			last.How += fmt.Sprintf("; a neighbour's p99 %.1f ms, %.1f without", ms(during), ms(before))
			if allowed := time.Duration(most * float64(max(before, floor))); during > allowed {
				last.Err = fmt.Errorf("%s: a neighbour's p99 is %v, more than %v times %v without", a.Name, during, most, before)
			}
		}
		s.report(s.beside(ctx, last))
	}
	return ctx.Err()
}

// neighbour asks the witness until over and returns its p99, or the first error.
// Each request counts from when it was due.
func (s *Suite) neighbour(ctx context.Context, over <-chan time.Time) (time.Duration, error) {
	var (
		mu    sync.Mutex
		took  []time.Duration
		first error
		wg    sync.WaitGroup
	)
	defer wg.Wait()
	for due := time.Now(); ; due = due.Add(askEvery) {
		if err := pause(ctx, time.Until(due)); err != nil {
			return 0, err
		}
		wg.Go(func() {
			status, body, err := s.Installation.Get(ctx, Victim, witnessName, "/")
			if err == nil && (status != http.StatusOK || string(body) != "here") {
				err = fmt.Errorf("HTTP %d %.100s", status, body)
			}
			mu.Lock()
			defer mu.Unlock()
			took = append(took, time.Since(due))
			if first == nil {
				first = err
			}
		})
		select {
		case <-over:
		default:
			continue
		}
		wg.Wait()
		slices.Sort(took)
		return took[(len(took)*99-1)/100], first
	}
}

func median(all []time.Duration) time.Duration {
	all = slices.Sorted(slices.Values(all))
	return all[len(all)/2]
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

package main

import (
	"context"
	"fmt"
	"time"
)

// wait calls ready until it returns nil, ctx ends or limit has passed. The
// error then says what was waited for and the last reason that it was not.
func wait(ctx context.Context, limit time.Duration, what string, ready func(context.Context) error) error {
	outer := ctx
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	var last error
	for {
		attempt, done := context.WithTimeout(ctx, 3*time.Second)
		err := ready(attempt)
		done()
		if err == nil {
			return nil
		}
		if ctx.Err() == nil || last == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			if outer.Err() != nil {
				return fmt.Errorf("waiting for %s: %w", what, context.Cause(outer))
			}
			return fmt.Errorf("waited %s for %s: %w", limit, what, last)
		case <-tick.C:
		}
	}
}

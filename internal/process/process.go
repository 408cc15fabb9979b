// Package process runs the parts of one operating-system process: it starts
// them in ordered groups, stops them in reverse, and answers whether the
// process is alive and ready. It knows nothing of what the parts do.
package process

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"
)

// Part is one thing a process does for as long as it lives.
type Part struct {
	// Name appears in logs and errors.
	Name string
	// Run works until ctx ends and then returns, having released what it
	// holds. Returning earlier, with or without an error, stops the process.
	Run func(ctx context.Context) error
}

// Group is parts that start together. A later group starts once every Run of
// the earlier ones has been called, and stops before them: a group may use
// what an earlier one offers until its own end.
type Group struct {
	Name string
	// StopWithin bounds how long the group's parts may take to return after
	// they were told to. Zero: 10 s. Parts that take longer are abandoned and
	// named in the error.
	StopWithin time.Duration
	Parts      []Part
}

// ErrStopTimeout says that a part did not return within its group's time.
var ErrStopTimeout = errors.New("did not stop in time")

// ErrEnded says that a part returned without an error while it was still
// needed.
var ErrEnded = errors.New("ended by itself")

type ended struct {
	part string
	err  error
}

type running struct {
	Group
	cancel context.CancelFunc
	done   map[string]chan struct{}
}

// Run starts the groups in order and waits until ctx ends or a part returns;
// then it stops them in reverse order. It returns the error of the part that
// ended first, or nil when ctx ended first and every part stopped in time.
// Before anything is stopped, health (which may be nil) turns not ready.
func Run(ctx context.Context, log *slog.Logger, health *Health, groups ...Group) error {
	total := 0
	for _, g := range groups {
		total += len(g.Parts)
	}
	ends := make(chan ended, total)
	var started []*running
	for _, g := range groups {
		// Values of ctx are kept; its end is not: each group ends in its turn.
		groupCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
		r := &running{Group: g, cancel: cancel, done: make(map[string]chan struct{}, len(g.Parts))}
		for _, p := range g.Parts {
			done := make(chan struct{})
			r.done[p.Name] = done
			log.Debug("part starts", "group", g.Name, "part", p.Name)
			go func() {
				defer close(done)
				ends <- ended{p.Name, p.Run(groupCtx)}
			}()
		}
		started = append(started, r)
	}
	var errs []error
	select {
	case <-ctx.Done():
		log.Info("stopping", "cause", context.Cause(ctx))
	case e := <-ends:
		err := e.err
		if err == nil {
			err = ErrEnded
		}
		err = fmt.Errorf("%s: %w", e.part, err)
		log.Error("stopping, a part ended", "part", e.part, "error", err)
		errs = append(errs, err)
	}
	health.stop()
	for i := len(started) - 1; i >= 0; i-- {
		errs = append(errs, started[i].stop(log)...)
	}
	for len(ends) > 0 {
		e := <-ends
		if e.err != nil && !errors.Is(e.err, context.Canceled) {
			errs = append(errs, fmt.Errorf("%s: %w", e.part, e.err))
		}
	}
	return errors.Join(errs...)
}

func (r *running) stop(log *slog.Logger) []error {
	within := r.StopWithin
	if within == 0 {
		within = 10 * time.Second
	}
	r.cancel()
	timer := time.NewTimer(within)
	defer timer.Stop()
	var errs []error
	late := false
	for _, p := range r.Parts {
		if !late {
			select {
			case <-r.done[p.Name]:
				continue
			case <-timer.C:
				late = true
			}
		}
		select {
		case <-r.done[p.Name]:
		default:
			log.Error("part did not stop in time", "group", r.Name, "part", p.Name, "within", within)
			errs = append(errs, fmt.Errorf("%s: %w (%v)", p.Name, ErrStopTimeout, within))
		}
	}
	return errs
}

var signalsOnce sync.Once

// WithSignals returns a context that ends at the first SIGTERM or SIGINT. A
// second one exits the process at once with status 130, for whoever does not
// want to wait for an orderly stop. It may be called once in a process.
func WithSignals(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	signalsOnce.Do(func() {
		ch := make(chan os.Signal, 2)
		signal.Notify(ch, syscall.SIGTERM, os.Interrupt)
		go func() {
			s := <-ch
			cancel(fmt.Errorf("received %v", s))
			<-ch
			os.Exit(130)
		}()
	})
	return ctx, func() { cancel(context.Canceled) }
}

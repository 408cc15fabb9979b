//go:build integration

package failpoint

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
)

// Env orders what happens at points of a process that a test starts:
// "name=die", "name=stop" or "name=fail", several of them joined by ";".
// "name=die@3" is for the third time that the process comes by.
const Env = "SANFRAN_FAILPOINT"

// ErrOrdered is wrapped by the errors of points that were ordered to fail.
var ErrOrdered = errors.New("a test ordered this failure")

// Action is what happens at a point. It may be called by several goroutines at
// once. Its error, if any, is the point's.
type Action func() error

// armed are the actions by the points' names; nil: there are none.
var armed atomic.Pointer[map[string]Action]

func init() {
	orders := os.Getenv(Env)
	if orders == "" {
		return
	}
	if err := parse(orders); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
}

func parse(orders string) error {
	for order := range strings.SplitSeq(orders, ";") {
		name, what, ok := strings.Cut(order, "=")
		what, nth, counted := strings.Cut(what, "@")
		n := 1
		if counted {
			var err error
			if n, err = strconv.Atoi(nth); err != nil || n < 1 {
				return fmt.Errorf("%s: %q: give a number from 1 after @", Env, order)
			}
		}
		action, known := map[string]Action{"die": Die, "stop": Stop, "fail": Fail}[what]
		if !ok || !known {
			return fmt.Errorf("%s: %q: give name=die, name=stop or name=fail", Env, order)
		}
		Arm(name, Nth(n, func() error {
			// Whoever reads the process's error output knows that it came here.
			fmt.Fprintf(os.Stderr, "failpoint: %s\n", order)
			return action()
		}))
	}
	return nil
}

// Arm orders an action at a point, in place of an earlier one, and returns what
// takes the order back. Tests that arm points do not run in parallel.
func Arm(name string, do Action) (disarm func()) {
	change(func(all map[string]Action) { all[name] = do })
	return func() { change(func(all map[string]Action) { delete(all, name) }) }
}

// change replaces the table, so that points read it without a lock.
func change(edit func(map[string]Action)) {
	for {
		old := armed.Load()
		all := map[string]Action{}
		if old != nil {
			for name, do := range *old {
				all[name] = do
			}
		}
		edit(all)
		next := &all
		if len(all) == 0 {
			next = nil
		}
		if armed.CompareAndSwap(old, next) {
			return
		}
	}
}

// Nth does the action when it is called for the n-th time, and else nothing.
func Nth(n int, do Action) Action {
	var calls atomic.Int64
	return func() error {
		if calls.Add(1) != int64(n) {
			return nil
		}
		return do()
	}
}

// Die ends the process as SIGKILL from outside would: nothing is deferred,
// flushed or undone.
func Die() error {
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	return Stop() // the signal is on its way
}

// Stop never returns.
func Stop() error { select {} }

// Fail returns ErrOrdered.
func Fail() error { return ErrOrdered }

// Here marks a place at which nothing can fail; it may die or stop.
func Here(name string) {
	if err := reach(name); err != nil {
		panic(fmt.Sprintf("failpoint %q cannot fail, only die or stop: %v", name, err))
	}
}

// After marks the place behind a step that may fail: it returns err, or what a
// test wants instead of nil.
func After(name string, err error) error {
	if err != nil {
		return err
	}
	return reach(name)
}

func reach(name string) error {
	all := armed.Load()
	if all == nil {
		return nil
	}
	do := (*all)[name]
	if do == nil {
		return nil
	}
	if err := do(); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

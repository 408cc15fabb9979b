package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

// hopeless is an error that waiting longer does not mend.
type hopeless struct{ error }

// wait calls ready until it returns nil or a hopeless error, ctx ends or limit
// has passed. The
// error then says what was waited for and the last reason that it was not.
func wait(ctx context.Context, limit time.Duration, what string, ready func(context.Context) error) error {
	outer := ctx
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	var last error
	for {
		attempt, done := context.WithTimeout(ctx, 10*time.Second)
		err := ready(attempt)
		done()
		if err == nil {
			return nil
		}
		if errors.As(err, new(hopeless)) {
			return fmt.Errorf("waiting for %s: %w", what, err)
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

// maxDeaths is how often a program may end, while its node waits for it, before
// there is no hope that it will ever stay.
const maxDeaths = 5

// waitForUnit is wait for something that a program of the node brings about.
// It gives up early, with the end of the program's log, if the program keeps
// ending.
func (n node) waitForUnit(ctx context.Context, name, what string, ready func(context.Context) error) error {
	first := -1
	return wait(ctx, startLimit, what, func(ctx context.Context) error {
		err := ready(ctx)
		if err == nil {
			return nil
		}
		status, readErr := readJSON[statusList](n.path("status.json"))
		if readErr != nil {
			return err
		}
		for _, u := range status.Units {
			if u.Name != name {
				continue
			}
			if first < 0 {
				first = u.Starts
			}
			if u.Stopped {
				return hopeless{fmt.Errorf("%s is stopped; `local process start %s %s` starts it", name, n.name(), name)}
			}
			if u.Starts-first >= maxDeaths {
				log := n.cluster.path("log", n.name(), name+".log")
				return hopeless{fmt.Errorf("%s ends again and again (%s); the end of %s:\n%s", name, u.LastExit, log, lastLines(log, 8))}
			}
		}
		return err
	})
}

// lastLines are the last lines of a log file, each cut to a readable length.
func lastLines(path string, count int) string {
	const most = 64 << 10
	file, err := os.Open(path)
	if err != nil {
		return err.Error()
	}
	defer file.Close()
	if info, err := file.Stat(); err == nil && info.Size() > most {
		_, _ = file.Seek(-most, io.SeekEnd)
	}
	buffer := make([]byte, most)
	size, _ := file.Read(buffer)
	lines := strings.Split(strings.TrimRight(string(buffer[:size]), "\n"), "\n")
	lines = lines[max(0, len(lines)-count):]
	for i, line := range lines {
		lines[i] = "  " + line[:min(len(line), 300)]
	}
	return strings.Join(lines, "\n")
}

package nodeagent

import (
	"testing"
	"time"
)

// A scripted worker: from when to when it is stuck, and whether it is busy.
func TestWatchdog(t *testing.T) {
	const limit = 20 * time.Second
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for name, tc := range map[string]struct {
		// The worker hears nothing from stuckAt on, for stuckFor.
		stuckAt, stuckFor time.Duration
		busy, debugged    bool
		// asleep is for how long the agent itself does not run, from stuckAt on.
		asleep time.Duration
		// from and to bound when it is found stuck, counted from stuckAt; to 0:
		// never.
		from, to time.Duration
		// asked bounds how often it is asked within ten limits.
		asked int
	}{
		"busy and sound":                {busy: true, asked: 41},
		"idle and sound":                {asked: 11},
		"busy, stuck for ever":          {stuckAt: 33 * time.Second, stuckFor: time.Hour, busy: true, from: limit, to: limit * 3 / 2, asked: 10},
		"idle, stuck for ever":          {stuckAt: 33 * time.Second, stuckFor: time.Hour, from: limit, to: limit * 5 / 2, asked: 10},
		"stuck just below the limit":    {stuckAt: 33 * time.Second, stuckFor: limit - time.Second, busy: true, asked: 41},
		"debugged and standing still":   {stuckAt: 33 * time.Second, stuckFor: time.Hour, busy: true, debugged: true, asked: 10},
		"debugged and sound":            {busy: true, debugged: true, asked: 41},
		"the agent did not run":         {stuckAt: 33 * time.Second, asleep: 3 * limit, busy: true, asked: 41},
		"the agent did not run, either": {stuckAt: 33 * time.Second, stuckFor: time.Hour, asleep: 3 * limit, busy: true, from: limit, to: 3*limit + limit*3/2, asked: 10},
	} {
		t.Run(name, func(t *testing.T) {
			w := watchdog{limit: limit}
			heard, now := start, start
			stuckFrom, stuckTo := start.Add(tc.stuckAt), start.Add(tc.stuckAt+tc.stuckFor)
			asked := 0
			var answer time.Time // when the worker will have answered
			for now.Before(start.Add(10 * limit)) {
				if !answer.IsZero() && !answer.After(now) {
					heard, answer = answer, time.Time{}
				}
				v, wait := w.look(now, heard, tc.busy, tc.debugged)
				if wait <= 0 && v != stuck {
					t.Fatalf("looks again after %v", wait)
				}
				switch v {
				case ask:
					asked++
					answer = now.Add(time.Millisecond)
					if !answer.Before(stuckFrom) && answer.Before(stuckTo) {
						answer = stuckTo
					}
				case stuck:
					after := now.Sub(stuckFrom)
					if tc.to == 0 || after < tc.from || after > tc.to {
						t.Errorf("found stuck after %v, want %v to %v", after, tc.from, tc.to)
					}
					if asked > tc.asked {
						t.Errorf("asked %d times, want at most %d", asked, tc.asked)
					}
					return
				}
				next := now.Add(wait)
				if tc.asleep > 0 && now.Before(stuckFrom) && !next.Before(stuckFrom) {
					next = next.Add(tc.asleep)
					// What was asked is answered meanwhile, but not read yet when
					// the agent runs again.
					switch v, _ := w.look(next, heard, tc.busy, tc.debugged); v {
					case stuck:
						t.Fatal("found stuck by an agent that had not run")
					case ask:
						asked++
						answer = next.Add(time.Millisecond)
						if answer.Before(stuckTo) {
							answer = stuckTo
						}
					}
					next = next.Add(time.Second)
				}
				now = next
			}
			if tc.to != 0 {
				t.Error("never found stuck")
			}
			if asked > tc.asked {
				t.Errorf("asked %d times, want at most %d", asked, tc.asked)
			}
		})
	}
}

package attacks

import (
	"context"
	"fmt"
	"time"
)

// silence is how long nothing must be heard of a process that says ten times a
// second that it lives, to believe that it is dead; death how long that may take
// to come about.
const (
	silence = 5 * time.Second
	death   = time.Minute
)

// Leftovers is what a function wants to leave behind.
func Leftovers() []Attack {
	leftover := func(name, aim string) Attack {
		return Attack{Name: "leftovers/" + name, Aim: aim, Wall: wallSingleUse, Refusals: "NONE"}
	}
	return []Attack{
		leftover("find", "what the slot's former container had"),
		leftover("daemon", "to outlive its lease, when its pod is parked and when it is deleted"),
	}
}

// leftovers has a function leave files and a daemon that no signal but one ends,
// lets it be parked, and looks for both from its next container; then deletes it
// with another daemon.
func (s *Suite) leftovers(ctx context.Context) error {
	if len(s.chosen(Leftovers())) == 0 {
		return nil
	}
	const name = "leaves"
	find, daemon := Leftovers()[0], Leftovers()[1]
	facts := s.Facts
	var err error
	if facts.Self, err = s.Installation.Deploy(ctx, Function{Tenant: Attacker, Name: name, Idle: true}); err != nil {
		return err
	}
	if got := s.attack(ctx, name, Attack{Name: "leftovers/leave"}, facts); got.Refused || got.Broken != "" || got.silent {
		return fmt.Errorf("leave something: %+v", got)
	}
	died := Result{Attack: daemon, How: "silent after parking and after deletion"}
	facts.Name = "parked"
	if died.Err = s.startDaemon(ctx, name, facts); died.Err == nil {
		died.Err = s.untilSilent(ctx, facts.Name) // it is parked by now
	}
	s.report(s.beside(ctx, judge(find, s.attack(ctx, name, find, facts))))
	facts.Name = "deleted"
	if died.Err == nil {
		died.Err = s.startDaemon(ctx, name, facts)
	}
	if err := s.Installation.Remove(ctx, Attacker, name); err != nil {
		return err
	}
	if died.Err == nil {
		died.Err = s.untilSilent(ctx, facts.Name)
	}
	s.report(s.beside(ctx, died))
	return ctx.Err()
}

// startDaemon returns when the daemon is heard.
func (s *Suite) startDaemon(ctx context.Context, attacker string, facts Facts) error {
	if got := s.attack(ctx, attacker, Attack{Name: "leftovers/daemon"}, facts); got.Refused || got.Broken != "" || got.silent {
		return fmt.Errorf("start a daemon: %+v", got)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, death, fmt.Errorf("the daemon %s was never heard", facts.Name))
	defer cancel()
	for {
		n, err := s.beats(ctx, facts.Name)
		if err != nil || n > 0 {
			return err
		}
		if err := pause(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
}

// untilSilent returns when nothing is heard of a daemon any more.
func (s *Suite) untilSilent(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, death, fmt.Errorf("leftovers/daemon SUCCEEDED: the daemon %s lives on after %v", name, death))
	defer cancel()
	before := -1
	for {
		n, err := s.beats(ctx, name)
		if err != nil || n == before {
			return err
		}
		before = n
		if err := pause(ctx, silence); err != nil {
			return err
		}
	}
}

func (s *Suite) beats(ctx context.Context, name string) (int, error) {
	var got struct{ Beats int }
	err := s.ask(ctx, Victim, witnessName, "/beats?name="+name, &got)
	return got.Beats, err
}

// pause waits, as long as ctx lives.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}

package nodeagent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// snapshot is the agent's assignments in a file, so that an agent that starts
// while the control plane is away still knows its pods (invariant I3). It is a
// copy that may be old or lost: the control plane has the original, and its
// next sync corrects what has changed. It holds what the pods' Secrets hold, so
// only root may read it.
type snapshot struct {
	file string
	// dirty gets a value when the file is older than the pods.
	dirty chan struct{}
	// saving is held from looking at the pods until the file tells of them.
	saving sync.Mutex
}

// kept is one pod in the file.
type kept struct {
	Assignment *Assignment
	// Proved is set for a pod that has been ready here: it may begin parked.
	Proved bool
}

// snapshotEvery is the least time between two writes of the file.
const snapshotEvery = time.Second

func newSnapshot(cfg Config) *snapshot {
	return &snapshot{file: filepath.Join(cfg.WorkDir, "assignments"), dirty: make(chan struct{}, 1)}
}

// changed says that the file is to be written.
func (s *snapshot) changed() {
	select {
	case s.dirty <- struct{}{}:
	default:
	}
}

// run keeps the file current until ctx ends.
func (s *snapshot) run(ctx context.Context, a *Agent) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.dirty:
		}
		s.save(a)
		select {
		case <-ctx.Done():
			return
		case <-time.After(snapshotEvery):
		}
	}
}

// save writes how the pods are now; once they are closed, the file stays.
func (s *snapshot) save(a *Agent) {
	s.saving.Lock()
	defer s.saving.Unlock()
	all := a.pods.keep()
	if all == nil {
		return
	}
	if err := s.write(all); err != nil {
		a.log.Error("the assignments are not kept; an agent that starts without the control plane would not know its pods", "err", err)
	}
}

// write replaces the file in one step. It is not synced to disk: after a power
// loss the control plane is asked.
func (s *snapshot) write(all []kept) error {
	data, err := json.Marshal(all)
	if err != nil {
		return fmt.Errorf("encode the assignments: %w", err)
	}
	partial := s.file + ".partial"
	if err := os.WriteFile(partial, data, 0o600); err != nil {
		return fmt.Errorf("keep the assignments: %w", err)
	}
	if err := os.Rename(partial, s.file); err != nil {
		return fmt.Errorf("keep the assignments: %w", err)
	}
	return nil
}

// read returns what the file holds; nothing if it is not there. A damaged file
// is an error: it says nothing, and the control plane will.
func (s *snapshot) read() ([]kept, error) {
	data, err := os.ReadFile(s.file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the kept assignments: %w", err)
	}
	var all []kept
	if err := json.Unmarshal(data, &all); err != nil {
		return nil, fmt.Errorf("the kept assignments in %s are damaged: %w", s.file, err)
	}
	return all, nil
}

// restore takes the kept pods on and reports whether there was anything kept.
func (s *snapshot) restore(a *Agent) bool {
	all, err := s.read()
	if err != nil {
		a.log.Warn("pods of an earlier run are not taken on before the control plane tells them", "err", err)
		return false
	}
	for _, k := range all {
		if k.Assignment == nil {
			continue
		}
		k.Assignment.StartParked = k.Assignment.StartParked || k.Proved
		if err := a.pods.assign(k.Assignment); err != nil {
			a.log.Error("a pod of an earlier run is not taken on", "pod", k.Assignment.PodUID, "err", err)
		}
	}
	if len(all) > 0 {
		a.log.Info("took on the pods of an earlier run", "pods", len(all))
	}
	return all != nil
}

// keep returns every pod as it is to be kept; nil once the pods are closed.
func (ps *pods) keep() []kept {
	ps.mu.RLock()
	defer ps.mu.RUnlock()
	if ps.closed {
		return nil
	}
	all := []kept{} // none is something to keep, too
	for _, p := range ps.byUID {
		p.mu.Lock()
		a := *p.spec
		a.Epoch, a.Mounts = p.epoch, p.mounts
		all = append(all, kept{Assignment: &a, Proved: !p.life.startedAt.IsZero()})
		p.mu.Unlock()
	}
	return all
}

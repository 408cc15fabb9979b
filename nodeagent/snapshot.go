package nodeagent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"sanfran.dev/internal/failpoint"
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

// keptState is what the file holds.
type keptState struct {
	// Generation is of the newest control plane heard.
	Generation uint64
	Pods       []kept
}

// kept is one pod in the file.
type kept struct {
	Assignment *Assignment
	// Proved is set for a pod that has been ready here and may begin parked.
	Proved bool
	// Folder is what the pod's folder is called, Life how it has fared. They count
	// only for a process that takes over what its supervisor has kept.
	Folder string    `json:",omitempty"`
	Life   *keptLife `json:",omitempty"`
}

// keptLife is what outlives this process of a pod's lifecycle.
type keptLife struct {
	StartedAt       time.Time
	Ended, Failures int
	Last            *keptTermination `json:",omitempty"`
	// Reason, Message and RetryAt are set while the pod is Failed.
	Reason, Message string    `json:",omitempty"`
	RetryAt         time.Time `json:",omitzero"`
}

// keptTermination is a termination as it is kept.
type keptTermination struct {
	Reason, Message       string
	Code, Signal          int
	StartedAt, FinishedAt time.Time
}

// keep returns what is to be kept of it.
func (l *lifecycle) keep() *keptLife {
	k := &keptLife{StartedAt: l.startedAt, Ended: l.ended, Failures: l.failures}
	if t := l.last; t != nil {
		k.Last = &keptTermination{t.reason, shortened(t.message), t.code, t.signal, t.startedAt, t.finishedAt}
	}
	if l.state == Failed {
		k.Reason, k.Message, k.RetryAt = l.failure.reason, shortened(l.failure.message), l.retryAt
	}
	return k
}

// shortened bounds a text that is kept: hostile code has a part in it.
func shortened(s string) string {
	const most = 4 << 10
	return strings.ToValidUTF8(s[:min(len(s), most)], "")
}

// resume is a lifecycle that goes on: Failed if it was, else Preparing.
func (k *keptLife) resume() lifecycle {
	l := newLifecycle()
	l.startedAt, l.ended, l.failures = k.StartedAt, k.Ended, k.Failures
	if t := k.Last; t != nil {
		l.last = &termination{t.Reason, t.Message, t.Code, t.Signal, t.StartedAt, t.FinishedAt}
	}
	if k.Reason != "" {
		l.state, l.failure, l.retryAt = Failed, &failure{reason: k.Reason, message: k.Message}, k.RetryAt
	}
	return l
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
	state, ok := a.pods.keep()
	if !ok {
		return
	}
	if err := s.write(state); err != nil {
		a.log.Error("the assignments are not kept; an agent that starts without the control plane would not know its pods", "err", err)
	}
}

// write replaces the file in one step. It is not synced to disk: after a power
// loss the control plane is asked.
func (s *snapshot) write(state keptState) error {
	data, err := json.Marshal(state)
	if err != nil {
		return fmt.Errorf("encode the assignments: %w", err)
	}
	partial := s.file + ".partial"
	if err := failpoint.After("snapshot: written", os.WriteFile(partial, data, 0o600)); err != nil {
		return fmt.Errorf("keep the assignments: %w", err)
	}
	if err := failpoint.After("snapshot: in place", os.Rename(partial, s.file)); err != nil {
		return fmt.Errorf("keep the assignments: %w", err)
	}
	return nil
}

// read returns what the file holds; nil if it is not there. A damaged file is
// an error: it says nothing, and the control plane will.
func (s *snapshot) read() (*keptState, error) {
	data, err := os.ReadFile(s.file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the kept assignments: %w", err)
	}
	var state keptState
	if err := json.Unmarshal(data, &state); err != nil {
		return nil, fmt.Errorf("the kept assignments in %s are damaged: %w", s.file, err)
	}
	return &state, nil
}

// restore takes the kept pods on and reports whether there was anything kept.
func (s *snapshot) restore(a *Agent) bool {
	state, err := s.read()
	if err != nil {
		a.log.Warn("pods of an earlier run are not taken on before the control plane tells them", "err", err)
		return false
	}
	if state == nil {
		return false
	}
	if err := a.pods.hear(state.Generation); err != nil {
		a.log.Error("the kept generation", "err", err) // nobody has spoken yet
	}
	for _, k := range state.Pods {
		if k.Assignment == nil {
			continue
		}
		k.Assignment.StartParked = k.Assignment.StartParked || k.Proved
		if err := a.pods.resume(k); err != nil {
			a.log.Error("a pod of an earlier run is not taken on", "pod", k.Assignment.PodUID, "err", err)
		}
	}
	if len(state.Pods) > 0 {
		a.log.Info("took on the pods of an earlier run", "pods", len(state.Pods))
	}
	return true
}

// keep returns what is to be kept of the pods; false once they are closed.
func (ps *pods) keep() (keptState, bool) {
	ps.mu.RLock()
	defer ps.mu.RUnlock()
	if ps.closed {
		return keptState{}, false
	}
	state := keptState{Generation: ps.generation}
	for _, p := range ps.byUID {
		p.mu.Lock()
		a := *p.spec
		a.Epoch, a.Mounts = p.epoch, p.mounts
		state.Pods = append(state.Pods, kept{Assignment: &a, Proved: !p.life.startedAt.IsZero() && !p.stays, Folder: filepath.Base(p.dir), Life: p.life.keep()})
		p.mu.Unlock()
	}
	return state, true
}

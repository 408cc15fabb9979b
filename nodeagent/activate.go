package nodeagent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"sanfran.dev/internal/failpoint"
	"sanfran.dev/nodeagent/container"
	"sanfran.dev/nodeagent/workerconn"
)

type activityReport = workerconn.Activity

// makeReady does an attempt's work: it prepares what the pod mounts, if that
// is still to be done, and gets a container that has loaded the function, if
// that is asked for. After an error the returned instance, if any, is to be
// disposed of.
func (p *pod) makeReady(ctx context.Context, at *attempt) (*instance, error) {
	if err := p.prepare(ctx); err != nil || !at.activate {
		return nil, err
	}
	begun := time.Now()
	// It tries until it has one, but gives up a little before those who wait for
	// the pod do: what is said then is the reason that they are told.
	timeout := p.agent.cfg.QueueTimeout
	patient, cancel := context.WithTimeoutCause(ctx, timeout-timeout/10, errQueueTimeout)
	defer cancel()
	for tries := 1; ; tries++ {
		warm, err := p.acquire(patient)
		if err != nil {
			return nil, err
		}
		acquired := time.Now()
		failpoint.Here("activate: container leased")
		inst := newInstance(warm, acquired, p.agent.cfg.EventLoopLimit, p.agent.metrics.loopDelayed)
		p.meter.begin(inst)
		limits, loaded, err := p.admit(patient, inst)
		if err != nil {
			return inst, err
		}
		// From here on the attempt goes to its end even if nobody waits any
		// more: the container is the pod's, and shows whether the function loads.
		err = p.load(context.WithoutCancel(ctx), inst, limits)
		loaded()
		if err == nil {
			p.agent.metrics.activated(acquired.Sub(begun), time.Since(acquired))
			return inst, nil
		}
		p.agent.metrics.activationFailed()
		if asFailure(err) != nil || tries == 3 {
			return inst, err
		}
		// The container was of no use before it saw the function, so another
		// may be.
		p.agent.log.Warn("a warm container could not be made a pod's", "pod", p.spec.PodUID, "err", err)
		p.dispose(inst)
	}
}

// acquire leases a warm container from the pool.
func (p *pod) acquire(ctx context.Context) (*warmContainer, error) {
	begun := time.Now()
	p.agent.acquiring.Add(1)
	defer p.agent.acquiring.Add(-1)
	warm, err := p.agent.warmers.Acquire(ctx, p.spec.Runtime)
	if err != nil && p.agent.room.shortSince(begun) { // or there might have been one
		err = fmt.Errorf("%w: %w", errNoRoom, err)
	}
	if err != nil {
		return nil, fmt.Errorf("get a warm container of %s: %w", p.spec.Runtime, err)
	}
	return warm, nil
}

// admit finds memory for what a container that was just leased is about to load:
// of the pod's limit, and of the node. loaded ends the claim on the latter.
func (p *pod) admit(ctx context.Context, inst *instance) (limits container.Resources, loaded func(), err error) {
	if limits, err = p.allotment.join(ctx, inst); err != nil {
		return limits, nil, err
	}
	// It will need what the one before it has used, if that is known.
	more := min(max(p.used.Load()-warmBytes, loadBytes), max(limits.MemoryBytes-warmBytes, loadBytes))
	loaded, err = p.agent.room.forLoad(ctx, more)
	return limits, loaded, err
}

// prepare makes the pod's volumes once. Only attempts call it, so never two at
// once.
func (p *pod) prepare(ctx context.Context) error {
	p.filling.Lock()
	defer p.filling.Unlock()
	p.mu.Lock()
	have, mounts := p.volumes != nil, p.mounts
	p.mu.Unlock()
	if have {
		return nil
	}
	sizes, err := emptyDirSizes(mounts, p.spec.Resources.TmpBytes, p.agent.cfg.limits(p.spec.Resources).MemoryBytes)
	if err != nil {
		return &failure{reason: ReasonVolumeFailed, message: err.Error()}
	}
	v, err := makeVolumes(ctx, p.agent.bundles, p.dir, p.spec, mounts, func(dir string) error { return p.agent.mountEmptyDirs(dir, sizes) })
	if err != nil {
		return err
	}
	p.mu.Lock()
	p.volumes = v
	p.mu.Unlock()
	return nil
}

// refill writes the newest content of the pod's files under its containers.
func (p *pod) refill() {
	p.filling.Lock()
	defer p.filling.Unlock()
	p.mu.Lock()
	v, mounts := p.volumes, p.mounts
	p.mu.Unlock()
	if v == nil {
		return // the newest content is what they will be made with
	}
	if err := v.refill(mounts); err != nil {
		p.agent.log.Error("renewed files of a pod are not written", "pod", p.spec.PodUID, "name", p.spec.PodName, "err", err)
	}
}

// load turns an anonymous warm container into the pod's.
func (p *pod) load(ctx context.Context, inst *instance, limits container.Resources) error {
	cfg := p.agent.cfg
	// The worker keeps to the timeout by itself unless it is stuck in the
	// function's code; then this one ends it.
	ctx, cancel := context.WithTimeout(ctx, cfg.LoadTimeout+time.Second)
	defer cancel()
	w := inst.warm
	// From here on the container is nobody else's, whatever becomes of this process.
	w.kept.reached(stageLeasing, func(r *leaseRecord) { *r = p.leaseRecord(inst) })
	w.output.begin(p.log)
	if err := w.container.SetResources(ctx, limits); err != nil {
		return fmt.Errorf("set the container's limits: %w", err)
	}
	if err := w.container.SetHostname(ctx, p.spec.hostname()); err != nil {
		return err
	}
	p.mu.Lock()
	v := p.volumes
	p.mu.Unlock()
	if err := v.mountInto(ctx, w.container); errors.Is(err, container.ErrGone) {
		return err
	} else if err != nil {
		return &failure{reason: ReasonVolumeFailed, message: err.Error()}
	}
	p.findCompiled(ctx, inst, v.code)
	if len(p.spec.Command) > 0 {
		// Its server, if it has one, takes no connection that was there before it;
		// and the program would not end while it is.
		w.closeAhead()
	}
	failpoint.Here("activate: all mounted")
	loaded, err := w.conn.Activate(ctx, workerconn.Activation{
		Lease: inst.lease, Nonce: inst.nonce,
		Namespace: p.spec.Namespace, Function: p.spec.Function, Pod: p.spec.PodName, Revision: p.spec.Revision,
		Entry: p.spec.Entry, PodAddress: p.spec.addressList(), Port: int(p.spec.Port),
		Hostname: p.spec.hostname(), Env: p.spec.environment(), Command: p.spec.Command, WorkingDir: p.spec.WorkingDir,
		LoadTimeout:  cfg.LoadTimeout,
		CompileCache: inst.compiled.dir, CompileCacheFilled: inst.compiled.cache != nil,
	})
	failpoint.Here("activate: worker told")
	inst.loaded = loaded
	inst.stays = w.conn.Server() && !p.spec.ParkServer
	if err == nil {
		inst.offer(p.agent.forwarder)
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return p.endStuck(w, inst.leasedAt, &failure{reason: ReasonLoadTimeout, message: fmt.Sprintf("the function did not load within %v", cfg.LoadTimeout)})
	}
	return loadFailure(w, inst.leasedAt, err)
}

// loadFailure says what an error of Activate means for the function, other than
// that the worker is stuck.
func loadFailure(w *warmContainer, startedAt time.Time, err error) error {
	if err == nil {
		return nil
	}
	var reported *workerconn.LoadError
	var f *failure
	if errors.As(err, &reported) {
		f = &failure{reason: reported.Reason, message: reported.Message}
		if reported.Stack != "" {
			f.message += "\n" + firstLines(reported.Stack, 5)
		}
	}
	// The worker ends with its failure, or has ended without one.
	select {
	case <-w.container.Exited():
		if f == nil {
			return exitFailure(w, startedAt)
		}
		return f.ended(w.container.ExitStatus(), startedAt, time.Now())
	case <-time.After(exitGrace):
		if f == nil {
			f = &failure{reason: ReasonExited, message: err.Error()}
		}
		return f.ended(killed, startedAt, time.Now())
	}
}

func firstLines(s string, n int) string {
	for i, r := range s {
		if r == '\n' {
			if n--; n == 0 {
				return s[:i]
			}
		}
	}
	return s
}

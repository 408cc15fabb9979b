package container

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	runc "github.com/containerd/go-runc"

	"sanfran.dev/internal/failpoint"
)

// cleanTimeout bounds the taking apart of a container. Killing and removing
// takes some 30 ms; a process may be stuck in the kernel for longer.
const cleanTimeout = 10 * time.Second

// Start implements Runtime.
func (r *Runc) Start(ctx context.Context, cfg Config) (_ Container, err error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("start container %s: %w", cfg.ID, err)
	}
	var undo undo
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("start container %s: %w", cfg.ID, err), undo.run())
		}
	}()

	if err := r.claim(cfg.ID); err != nil {
		return nil, err
	}
	undo.add(func() error { r.unclaim(cfg.ID); return nil })
	hostID, err := r.hostIDs.take()
	if err != nil {
		return nil, err
	}
	undo.add(func() error { r.hostIDs.give(hostID); return nil })
	slot := r.slot(cfg.ID)
	undo.add(slot.remove)
	if err := failpoint.After("container: folder made", slot.create()); err != nil {
		return nil, err
	}
	undo.add(slot.unmount)
	if err := failpoint.After("container: overlay mounted", slot.mount(cfg.RootFS)); err != nil {
		return nil, err
	}
	if err := failpoint.After("container: spec written", r.writeSpec(slot, cfg, hostID)); err != nil {
		return nil, err
	}
	runtime := 0 // its pid, once it has run
	undo.add(func() error {
		// ctx may be why the start failed.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanTimeout)
		defer cancel()
		return errors.Join(r.endOrphans(ctx, runtime, hostID), r.removeRuntimeState(ctx, cfg.ID))
	})
	if runtime, err = r.run(ctx, slot, cfg); err != nil {
		return nil, err
	}
	failpoint.Here("container: started, not adopted")
	pid, err := readPidFile(slot.pidFile())
	if err != nil {
		return nil, err
	}
	process, err := openInit(pid, hostID+UserID, r.parent)
	if err != nil {
		return nil, err
	}
	// Before its end is noticed, which frees the pid.
	adoptErr := errors.Join(followRoot(slot.root(), pid), limitSignals(process), sealGroups(process))
	c := newRuncContainer(r, cfg.ID, hostID, process)
	failpoint.Here("container: adopted")
	if adoptErr != nil {
		select {
		case <-c.exited: // that is why: what has ended by itself has no root
			return c, nil
		case <-time.After(settleTime):
			c.kill()
			<-c.exited
			return nil, adoptErr
		}
	}
	if err := ctx.Err(); err != nil { // nobody is waiting for it any more
		c.kill()
		<-c.exited
		return nil, err
	}
	return c, nil
}

func (r *Runc) writeSpec(slot slotDir, cfg Config, hostID uint32) error {
	data, err := json.Marshal(ociSpec(specInput{
		Config:       cfg,
		Root:         slot.root(),
		CgroupsPath:  r.opts.Cgroups.Path(cfg.ID),
		HostID:       hostID,
		OOMScoreAdj:  warmOOMScore,
		OpenFiles:    r.openFiles,
		PidsLimit:    r.opts.PidsLimit,
		TmpBytes:     r.opts.TmpBytes,
		SwapAccount:  r.opts.Cgroups.swapAccount,
		Seccomp:      r.seccomp,
		SetsShares:   r.setsShares,
		DefaultLimit: r.opts.Defaults,
	}))
	if err != nil {
		return fmt.Errorf("encode the OCI spec: %w", err)
	}
	return os.WriteFile(slot.spec(), data, 0o600)
}

// run lets the OCI runtime make and start the container, and returns when the
// program has been executed and the runtime is gone. It does not heed ctx's
// cancellation: a runtime killed half-way leaves more to clean up than the
// tens of milliseconds are worth. pid is what the runtime had, 0 if none was
// started.
func (r *Runc) run(ctx context.Context, slot slotDir, cfg Config) (pid int, err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.opts.StartTimeout)
	defer cancel()
	inherit := []*os.File{cfg.Listener, cfg.Control}
	if cfg.Log != nil {
		inherit = append(inherit, cfg.Log)
	}
	started := make(chan int, 1)
	_, err = r.oci(slot.log()).Run(ctx, cfg.ID, slot.bundle(), &runc.CreateOpts{
		IO:         inherited{stdout: cfg.Stdout, stderr: cfg.Stderr},
		PidFile:    slot.pidFile(),
		Detach:     true,
		ExtraFiles: inherit,
		Started:    started, // closed by Run
	})
	pid = <-started
	if err == nil {
		return pid, collectOrphans(pid)
	}
	if exit := (*runc.ExitError)(nil); errors.As(err, &exit) && exit.Status == -1 {
		err = fmt.Errorf("%s was killed: %w", r.opts.Binary, err)
	}
	if ctx.Err() != nil {
		err = fmt.Errorf("gave up after %v: %w", r.opts.StartTimeout, err)
	}
	if reason := lastLogged(slot.log()); reason != "" {
		err = fmt.Errorf("%w: %s", err, reason)
	}
	return pid, err
}

func (r *Runc) oci(log string) *runc.Runc {
	return &runc.Runc{
		Command:   r.binary,
		Root:      r.stateDir(),
		Log:       log,
		LogFormat: runc.JSON,
		Setpgid:   true, // the agent's Ctrl-C is not theirs
	}
}

// removeRuntimeState kills what runs in a container, removes its control group
// and makes the OCI runtime forget it. It returns nil if they never knew it.
//
// It does by itself what the runtime's `delete --force` would do for a
// container without hooks: that command costs 15 ms of a processor, and recent
// runc waits another 100 ms even if the process has long ended. Nor does it
// work on a container half-made.
func (r *Runc) removeRuntimeState(ctx context.Context, id string) error {
	if err := failpoint.After("container: control group removed", r.opts.Cgroups.Remove(ctx, id)); err != nil {
		return err
	}
	if err := r.opts.Cgroups.removeImitation(id); err != nil {
		return err
	}
	return os.RemoveAll(r.state(id))
}

// inherited passes files on to the OCI runtime, which passes them on to the
// program. The input is /dev/null.
type inherited struct{ stdout, stderr *os.File }

var _ runc.IO = inherited{}

func (inherited) Stdin() io.WriteCloser { return nil }
func (inherited) Stdout() io.ReadCloser { return nil }
func (inherited) Stderr() io.ReadCloser { return nil }
func (inherited) Close() error          { return nil }
func (f inherited) Set(cmd *exec.Cmd) {
	if f.stdout != nil { // a nil *os.File in an interface would not be nil
		cmd.Stdout = f.stdout
	}
	if f.stderr != nil {
		cmd.Stderr = f.stderr
	}
}

func readPidFile(name string) (int, error) {
	data, err := os.ReadFile(name)
	if err != nil {
		return 0, fmt.Errorf("the OCI runtime's pid file: %w", err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil || pid <= 1 {
		return 0, fmt.Errorf("the OCI runtime's pid file holds %q", data)
	}
	return pid, nil
}

// lastLogged is the last error in the log of the OCI runtime, or "".
func lastLogged(name string) string {
	data, err := os.ReadFile(name)
	if err != nil {
		return ""
	}
	var reason string
	for line := range strings.Lines(string(data)) {
		var entry struct{ Level, Msg string }
		if json.Unmarshal([]byte(line), &entry) == nil && entry.Level == "error" {
			reason = entry.Msg
		}
	}
	return reason
}

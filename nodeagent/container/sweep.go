package container

import (
	"context"
	"errors"
	"fmt"
	"os"
)

// Sweep removes what an earlier life of the agent has left in the work
// directory and in the containers' control groups. It is called once, before
// the first Start. What it may find, by where that life ended:
//
//   - a folder, with or without an overlay on it: ended before the OCI runtime
//     ran, or after Destroy had asked it to delete the container;
//   - a container that runs: ended while it was in use. Its control group
//     knows all its processes;
//   - state of the OCI runtime without a process: ended during a start, or the
//     container has exited since;
//   - a control group that is empty or has a half-made process: likewise.
//
// So each kind is looked for by itself, and none is believed to imply another.
// Nothing outside of these two places is touched.
func (r *Runc) Sweep(ctx context.Context) error {
	var errs []error
	groups, err := r.opts.Cgroups.List()
	errs = append(errs, err)
	ids := map[string]bool{}
	for _, id := range groups {
		ids[id] = true
	}
	for _, dir := range []string{r.stateDir(), r.slotsDir()} {
		entries, err := os.ReadDir(dir)
		errs = append(errs, err)
		for _, e := range entries {
			ids[e.Name()] = true
		}
	}
	for id := range ids {
		if err := r.sweepOne(ctx, id); err != nil {
			errs = append(errs, fmt.Errorf("remove what is left of container %s: %w", id, err))
			continue
		}
		r.logger.InfoContext(ctx, "removed what was left of a container", "container", id)
	}
	return errors.Join(errs...)
}

func (r *Runc) sweepOne(ctx context.Context, id string) error {
	if err := r.claim(id); err != nil {
		return nil // started since: not of an earlier life
	}
	defer r.unclaim(id)
	ctx, cancel := context.WithTimeout(ctx, cleanTimeout)
	defer cancel()
	// The processes end first, so that none is in the way of the others.
	if err := r.removeRuntimeState(ctx, id); err != nil {
		return err
	}
	slot := r.slot(id)
	if err := slot.unmount(); err != nil {
		return err
	}
	return slot.remove()
}

package container

import (
	"context"
	"errors"
	"fmt"
	"os"
)

// Sweep removes what an earlier life of the agent has left in the work
// directory and in the containers' control groups, and was not adopted. It is
// called once, before the first Start. What it may find, by where that life ended:
//
//   - a folder, with or without an overlay on it: ended before the OCI runtime
//     ran, or after Destroy had removed control group and state;
//   - a container that runs: the agent alone has ended, while it was in use. Its
//     control group knows all its processes;
//   - all of a container but its processes: they have ended with the agent's pod,
//     or since. On a hybrid machine crun's imitation of a control group is there
//     as well;
//   - state of the OCI runtime and a control group, of which the one, the other or
//     both may be missing, half made, or with a half-made process: ended while
//     the OCI runtime was at work, or while Destroy was.
//
// So each kind is looked for by itself, and none is believed to imply another. An
// imitation is removed before the state and the folder, one of which is found.
// Nothing outside of these places is touched. An end within Sweep leaves cases of
// this list again.
//
// A runtime's process that was not in a control group yet is not looked for: its
// runtime has ended, and it ends when it sees that.
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
		removed, err := r.sweepOne(ctx, id)
		if err != nil {
			errs = append(errs, fmt.Errorf("remove what is left of container %s: %w", id, err))
			continue
		}
		if removed {
			r.logger.InfoContext(ctx, "removed what was left of a container", "container", id)
		}
	}
	return errors.Join(errs...)
}

// sweepOne reports whether it removed the container: not if that is alive.
func (r *Runc) sweepOne(ctx context.Context, id string) (bool, error) {
	if err := r.claim(id); err != nil {
		return false, nil // started since, or adopted
	}
	defer r.unclaim(id)
	ctx, cancel := context.WithTimeout(ctx, cleanTimeout)
	defer cancel()
	// The processes end first, so that none is in the way of the others.
	if err := r.removeRuntimeState(ctx, id); err != nil {
		return false, err
	}
	slot := r.slot(id)
	if err := slot.unmount(); err != nil {
		return false, err
	}
	return true, slot.remove()
}

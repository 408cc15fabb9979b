//go:build integration

package container

import "testing"

// DropLock gives up the work directory's lock as the death of the process would.
func (r *Runc) DropLock(t *testing.T) {
	t.Helper()
	if err := r.lock.Close(); err != nil {
		t.Fatal(err)
	}
}

// HostIDsInUse is how many ranges of user ids are somebody's.
func (r *Runc) HostIDsInUse() int {
	r.hostIDs.mu.Lock()
	defer r.hostIDs.mu.Unlock()
	return len(r.hostIDs.used)
}

// CollectOrphans is what every start and every Destroy does.
func CollectOrphans() { _ = collectOrphans(0) }

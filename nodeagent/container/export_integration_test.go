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

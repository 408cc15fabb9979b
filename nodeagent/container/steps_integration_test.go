//go:build integration

package container_test

import (
	"errors"
	"testing"

	"sanfran.dev/internal/failpoint"
)

// A step of Start fails although it has done its work: all is taken back.
func TestStartUndoesEveryStep(t *testing.T) {
	h := newHost(t)
	for _, point := range []string{"container: folder made", "container: overlay mounted", "container: spec written"} {
		disarm := failpoint.Arm(point, failpoint.Fail)
		if c, err := h.idle(t, "fails"); !errors.Is(err, failpoint.ErrOrdered) {
			t.Errorf("%s: %v, %v", point, c, err)
		}
		disarm()
		h.cleanAndWell(t, "fails")
	}
}

// A step of Destroy fails once: Destroy says so, and does its work when it is
// called again.
func TestDestroyIsTriedAgain(t *testing.T) {
	h := newHost(t)
	for _, point := range []string{"container: control group removed", "container: overlay unmounted"} {
		c, err := h.idle(t, "stays")
		if err != nil {
			t.Fatal(err)
		}
		defer failpoint.Arm(point, failpoint.Nth(1, failpoint.Fail))()
		if err := c.Destroy(t.Context()); !errors.Is(err, failpoint.ErrOrdered) {
			t.Errorf("%s: Destroy: %v", point, err)
		}
		if _, err := h.idle(t, "stays"); err == nil {
			t.Errorf("%s: its id was used again before all of it was gone", point)
		}
		if err := c.Destroy(t.Context()); err != nil {
			t.Errorf("%s: Destroy, again: %v", point, err)
		}
		h.cleanAndWell(t, "stays")
	}
}

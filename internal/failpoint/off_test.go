//go:build !integration

package failpoint_test

import (
	"errors"
	"os"
	"os/exec"
	"testing"

	"sanfran.dev/internal/failpoint"
)

// What is installed is built without the tag: nobody's environment can order
// anything of it.
func TestNothingCanBeOrdered(t *testing.T) {
	const inside = "SANFRAN_TEST_FAILPOINT_OFF"
	if os.Getenv(inside) == "" {
		cmd := exec.Command("/proc/self/exe", "-test.run=^TestNothingCanBeOrdered$")
		cmd.Env = append(os.Environ(), inside+"=1", "SANFRAN_FAILPOINT=test: here=die;test: after=fail")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	failpoint.Here("test: here")
	if err := failpoint.After("test: after", nil); err != nil {
		t.Error(err)
	}
	mine := errors.New("mine")
	if err := failpoint.After("test: after", mine); !errors.Is(err, mine) {
		t.Errorf("After hides an error: %v", err)
	}
}

func BenchmarkOff(b *testing.B) {
	for b.Loop() {
		failpoint.Here("test: here")
	}
}

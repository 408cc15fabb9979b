//go:build integration

package failpoint_test

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"sanfran.dev/internal/failpoint"
)

func TestOrdersInThisProcess(t *testing.T) {
	mine := errors.New("mine")
	disarm := failpoint.Arm("test: after", failpoint.Nth(2, failpoint.Fail))
	for i, want := range []error{nil, failpoint.ErrOrdered, nil} {
		if err := failpoint.After("test: after", nil); !errors.Is(err, want) {
			t.Errorf("the point's call %d: %v, want %v", i+1, err, want)
		}
	}
	defer failpoint.Arm("test: after", failpoint.Fail)()
	if err := failpoint.After("test: after", mine); !errors.Is(err, mine) || errors.Is(err, failpoint.ErrOrdered) {
		t.Errorf("a step that failed by itself: %v", err)
	}
	if err := failpoint.After("test: another", nil); err != nil {
		t.Errorf("a point without an order: %v", err)
	}
	disarm()
	if err := failpoint.After("test: after", nil); err != nil {
		t.Errorf("an order taken back: %v", err)
	}
}

func TestOrdersByTheEnvironment(t *testing.T) {
	const inside = "SANFRAN_TEST_FAILPOINT_ON"
	if os.Getenv(inside) != "" {
		if err := failpoint.After("test: after", nil); !errors.Is(err, failpoint.ErrOrdered) {
			t.Fatalf("the point that is to fail: %v", err)
		}
		failpoint.Here("test: here")
		t.Log("once")
		failpoint.Here("test: here")
		t.Fatal("alive")
	}
	run := func(orders string) (string, *exec.ExitError) {
		cmd := exec.Command("/proc/self/exe", "-test.v", "-test.run=^TestOrdersByTheEnvironment$")
		cmd.Env = append(os.Environ(), inside+"=1", failpoint.Env+"="+orders)
		out, err := cmd.CombinedOutput()
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			t.Fatalf("%q: %v\n%s", orders, err, out)
		}
		return string(out), exit
	}
	out, exit := run("test: after=fail;test: here=die@2")
	if exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL || !strings.Contains(out, "failpoint: test: here=die@2\n") {
		t.Errorf("%v\n%s", exit, out)
	}
	for _, orders := range []string{"test: here", "test: here=dance", "test: here=die@0", "test: here=die@x"} {
		if out, exit := run(orders); exit.ExitCode() != 2 || !strings.Contains(out, failpoint.Env) {
			t.Errorf("%q: %v\n%s", orders, exit, out)
		}
	}
}

func BenchmarkUnarmed(b *testing.B) {
	for b.Loop() {
		failpoint.Here("test: here")
	}
}

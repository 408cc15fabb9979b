package container

import (
	"errors"
	"os"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"
)

// waiter is a parent of processes, as a supervisor is: it waits for them at once.
type waiter map[int]unix.WaitStatus

func (w waiter) ExitStatus(pid int) (unix.WaitStatus, error) {
	status, ok := w[pid]
	if !ok {
		return 0, errors.New("never heard of it")
	}
	return status, nil
}

// startSleep starts a process that sleeps; end waits for it as a supervisor does.
func startSleep(t *testing.T, w waiter) (pid int, end func()) {
	t.Helper()
	sleep := exec.Command("sleep", "60")
	if err := sleep.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sleep.Process.Kill() })
	pid = sleep.Process.Pid
	return pid, func() {
		_ = sleep.Wait()
		w[pid] = unix.WaitStatus(unix.SIGKILL)
	}
}

func TestAProcessOfAnotherParentsIsFollowedToItsEnd(t *testing.T) {
	w := waiter{}
	pid, end := startSleep(t, w)
	p, err := openInit(pid, uint32(os.Getuid()), w)
	if err != nil || p.fd == nil {
		t.Fatalf("%+v, %v", p, err)
	}
	if err := p.signal(killSignal); err != nil {
		t.Fatal(err)
	}
	end()
	if status, err := p.wait(); err != nil || status.Signal != unix.SIGKILL || status.Code != 128+int(unix.SIGKILL) {
		t.Errorf("ended with %v, %v", status, err)
	}
	if err := p.signal(killSignal); err != nil {
		t.Errorf("killed once more: %v", err)
	}
}

func TestAProcessThatHasEndedIsKnownByItsParentAlone(t *testing.T) {
	w := waiter{}
	pid, end := startSleep(t, w)
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	end()
	p, err := openInit(pid, uint32(os.Getuid()), w)
	if err != nil || p.fd != nil {
		t.Fatalf("%+v, %v", p, err)
	}
	if err := errors.Join(p.signal(killSignal), checkGone(p.setHostname("x", nil))); err != nil {
		t.Error(err)
	}
	if status, err := p.wait(); err != nil || status.Signal != unix.SIGKILL {
		t.Errorf("ended with %v, %v", status, err)
	}
}

func checkGone(err error) error {
	if errors.Is(err, ErrGone) {
		return nil
	}
	return errors.Join(errors.New("want ErrGone"), err)
}

// A pid that is somebody else's by now must not be killed.
func TestAStrangerIsNotTakenForAContainer(t *testing.T) {
	w := waiter{}
	pid, end := startSleep(t, w)
	p, err := openInit(pid, uint32(os.Getuid())+1, w)
	if err != nil || p.fd != nil {
		t.Fatalf("%+v, %v", p, err)
	}
	if err := p.signal(killSignal); err != nil {
		t.Error(err)
	}
	if _, err := p.wait(); err == nil {
		t.Error("it is known how a process ended that lives")
	}
	if err := unix.Kill(pid, 0); err != nil {
		t.Errorf("the stranger: %v", err)
	}
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	end()
}

func TestHostIDsOfAdoptedContainersAreTheirs(t *testing.T) {
	var before, after hostIDs
	id, err := before.take()
	if err != nil {
		t.Fatal(err)
	}
	if err := after.claim(id); err != nil {
		t.Fatal(err)
	}
	if another, err := after.take(); err != nil || another == id {
		t.Errorf("the next container gets %d, %v", another, err)
	}
	for _, bad := range []uint32{id, id + 1, 0, firstHostID - idRange, firstHostID + hostRanges*idRange} {
		if err := after.claim(bad); !errors.Is(err, ErrInvalid) {
			t.Errorf("claimed %#x: %v", bad, err)
		}
	}
	after.give(id)
	if err := after.claim(id); err != nil {
		t.Error(err)
	}
}

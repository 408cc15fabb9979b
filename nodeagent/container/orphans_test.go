package container

import (
	"os"
	"os/exec"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func TestParseChild(t *testing.T) {
	for name, tc := range map[string]struct {
		stat string
		want child
	}{
		"a zombie":                   {"7 (crun) Z 1 6 5 0 -1", child{pid: 7, group: 6, session: 5, zombie: true}},
		"a name that looks like one": {"7 (a) Z 1 2 3) S 1 7 7 0 -1", child{pid: 7, group: 7, session: 7}},
	} {
		if got, err := parseChild(7, []byte(tc.stat)); err != nil || got != tc.want {
			t.Errorf("%s: %+v, %v; want %+v", name, got, err, tc.want)
		}
	}
	for name, stat := range map[string]string{"no name": "7 crun Z 1 6", "cut off": "7 (crun) Z 1", "no number": "7 (crun) Z 1 x 5 0"} {
		if got, err := parseChild(7, []byte(stat)); err == nil {
			t.Errorf("%s: %+v without an error", name, got)
		}
	}
}

func TestParseUser(t *testing.T) {
	if uid, err := parseUser([]byte("Name:\tx\nUid:\t1879113726\t0\t0\t0\n")); err != nil || uid != 1879113726 {
		t.Errorf("%d, %v", uid, err)
	}
	for _, status := range []string{"Name:\tx\n", "Uid:\t99999999999\t0\n", ""} {
		if uid, err := parseUser([]byte(status)); err == nil {
			t.Errorf("%q: %d without an error", status, uid)
		}
	}
}

// What somebody waits for is not collected, also when it has ended.
func TestCollectOrphansTakesNobodysChild(t *testing.T) {
	cmd := exec.Command("cat")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_, children, err := readChildren(os.Getpid())
	if err != nil || len(children) != 1 || children[0].pid != cmd.Process.Pid {
		t.Errorf("children: %+v, %v; want %d", children, err, cmd.Process.Pid)
	}
	if err := in.Close(); err != nil {
		t.Fatal(err)
	}
	for zombie := false; !zombie; {
		c, err := readChild(cmd.Process.Pid)
		if err != nil {
			t.Fatal(err)
		}
		zombie = c.zombie
	}
	if err := collectOrphans(os.Getpid() + 1); err != nil {
		t.Error(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("somebody else has waited for it: %v", err)
	}
}

// A runtime that fails leaves nobody of its process group, and nobody else ends by it.
func TestEndGroupLeavesNothingOfIt(t *testing.T) {
	if err := becomeSubreaper(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0) })
	other := exec.Command("cat")
	in, err := other.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	// One of its children has ended, the other would not.
	runtime := exec.Command("sh", "-c", "true & sleep 999 & exit 1")
	runtime.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := runtime.Run(); err == nil {
		t.Fatal("the runtime did not fail")
	}
	left := func() (group []child) {
		_, children, err := readChildren(os.Getpid())
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range children {
			if c.group == runtime.Process.Pid {
				group = append(group, c)
			}
		}
		return group
	}
	if len(left()) == 0 {
		t.Fatal("the runtime has left nothing, so that this test shows nothing")
	}
	if err := endGroup(runtime.Process.Pid); err != nil {
		t.Error(err)
	}
	if group := left(); len(group) > 0 {
		t.Errorf("left: %+v", group)
	}
	if err := in.Close(); err != nil {
		t.Error(err)
	}
	if err := other.Wait(); err != nil {
		t.Errorf("a process of another group ended with %v", err)
	}
}

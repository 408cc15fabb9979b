package supervisor

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// reap waits for every child that has ended, and reports the charge's end.
func (s *supervisor) reap() {
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, unix.WNOHANG, nil)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil || pid <= 0: // no child, or none that has ended
			return
		case pid == s.charge:
			s.charge, s.ended = 0, status
		default:
			s.store.died(pid, status)
		}
	}
}

// killTime bounds how long killed children are waited for. One that is stuck in
// the kernel is left to itself.
const killTime = 5 * time.Second

// killStrays kills every child but those to spare, and theirs, which become
// children when they go, and returns when none is left.
func (s *supervisor) killStrays(spare map[int]bool) {
	for end := time.Now().Add(killTime); ; time.Sleep(time.Millisecond) {
		s.reap()
		pids, err := children(os.Getpid())
		if err != nil {
			s.log.Error("what the supervised process left cannot be found", "err", err)
			return
		}
		left := pids[:0]
		for _, pid := range pids {
			if !spare[pid] && pid != s.charge {
				left = append(left, pid)
				_ = unix.Kill(pid, unix.SIGKILL) // it is a child, and not waited for: the pid is its own
			}
		}
		if len(left) == 0 {
			return
		}
		if time.Now().After(end) {
			s.log.Error("processes go on after SIGKILL", "pids", fmt.Sprint(left))
			return
		}
	}
}

// children are the child processes of a process, zombies included.
func children(parent int) ([]int, error) {
	proc, err := os.Open("/proc")
	if err != nil {
		return nil, err
	}
	defer proc.Close()
	names, err := proc.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		stat, err := os.ReadFile("/proc/" + name + "/stat")
		if err != nil {
			continue // it has just ended
		}
		if ppid, ok := parentIn(stat); ok && ppid == parent {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// parentIn finds the parent's pid in /proc/<pid>/stat. The program's name, in
// parentheses, may hold anything.
func parentIn(stat []byte) (int, bool) {
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) < 2 {
		return 0, false
	}
	ppid, err := strconv.Atoi(string(fields[1]))
	return ppid, err == nil
}

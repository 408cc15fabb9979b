package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// process names one process for good: a process identifier is used again
// after its process ended, but not with the same start.
type process struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // in clock ticks since the machine's start
	Boot  string `json:"boot"`  // the machine's start
}

// thisBoot is the kernel's name for the time since the machine was started.
func thisBoot() string {
	raw, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(raw))
}

// findProcess describes the process that has the identifier pid now.
func findProcess(pid int) (process, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return process{}, err
	}
	start, state, err := parseStat(string(raw))
	if err != nil {
		return process{}, err
	}
	if state == "Z" || state == "X" {
		return process{}, os.ErrProcessDone
	}
	return process{PID: pid, Start: start, Boot: thisBoot()}, nil
}

// parseStat takes start and state out of the text of /proc/<pid>/stat, in
// which the program's name may hold blanks and brackets.
func parseStat(stat string) (start uint64, state string, err error) {
	end := strings.LastIndexByte(stat, ')')
	if end < 0 {
		return 0, "", fmt.Errorf("process status %q has no name", stat)
	}
	fields := strings.Fields(stat[end+1:])
	if len(fields) < 20 {
		return 0, "", fmt.Errorf("process status %q is too short", stat)
	}
	start, err = strconv.ParseUint(fields[19], 10, 64)
	return start, fields[0], err
}

// alive tells whether the process that p names still runs.
func (p process) alive() bool {
	if p.PID <= 0 || p.Boot != thisBoot() {
		return false
	}
	now, err := findProcess(p.PID)
	return err == nil && now == p
}

// kill ends the process and waits until it is gone.
func (p process) kill() error {
	if !p.alive() {
		return nil
	}
	if err := syscall.Kill(p.PID, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("kill process %d: %w", p.PID, err)
	}
	for deadline := time.Now().Add(20 * time.Second); p.alive(); {
		if time.Now().After(deadline) {
			return fmt.Errorf("process %d was killed 20 s ago and is still there", p.PID)
		}
		time.Sleep(10 * time.Millisecond)
	}
	return nil
}

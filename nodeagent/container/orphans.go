package container

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// An OCI runtime that ends leaves its children to the agent: crun a helper with
// every container, any runtime whatever a failed start had begun. Nobody else
// waits for them, and they would stay zombies as long as the agent lives. Where the
// agent has a supervisor they become that one's, which waits for what ends, and
// what does not end the agent kills there.
//
// A child that somebody in the agent has started, and waits for, is of the
// agent's session. So is the runtime itself. What the runtime started is of its
// process group, has a user id of the container, or is of another session; of
// a session of its own are containers' first processes, too, which others wait
// for and pid files name.

// settleTime is how long a process that has begun to end may take, or a runtime's
// child to see that the runtime is no more.
const settleTime = time.Second

// collectOrphans waits for what has ended of that which the runtime that had this
// pid, and earlier ones that made a container, have left. What still runs is for
// the next call: with the next start, and with the container's Destroy. It costs
// one system call where there is nothing.
func collectOrphans(runtime int) error {
	var ended unix.Siginfo
	err := unix.Waitid(unix.P_ALL, 0, &ended, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
	if errors.Is(err, unix.ECHILD) || err == nil && ended.Signo == 0 {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look for children that have ended: %w", err)
	}
	own, children, err := readChildren(os.Getpid())
	if err != nil {
		return err
	}
	for _, c := range children {
		// Of a session of its own is what others wait for.
		if c.zombie && c.session != c.pid && (c.session != own || c.group == runtime) {
			if _, err := c.collect(); err != nil {
				return err
			}
		}
	}
	return nil
}

// endOrphans kills what a runtime has left of a container that it has not made,
// and waits until it is gone.
func (r *Runc) endOrphans(ctx context.Context, runtime int, hostID uint32) error {
	ctx, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	if runtime > 1 {
		_ = unix.Kill(-runtime, unix.SIGKILL) // ESRCH: none is left
	}
	for {
		gone := groupIsGone(runtime) // whatever it has left is a child now
		own, children, err := readChildren(r.parentPID())
		if err != nil {
			return err
		}
		firsts := r.firstProcesses()
		var alive []int
		for _, c := range children {
			uid, err := c.user()
			if err != nil {
				continue // waited for meanwhile
			}
			ofThis := c.group == runtime || uid >= hostID && uid-hostID < idRange
			switch {
			case !ofThis && (c.session == own || slices.Contains(firsts, c.pid)):
				continue
			case c.zombie:
				collected, err := c.collect()
				if err != nil {
					return err
				}
				if !collected {
					alive = append(alive, c.pid)
				}
			case ofThis:
				_ = unix.Kill(c.pid, unix.SIGKILL)
				alive = append(alive, c.pid)
			default:
				alive = append(alive, c.pid) // it sees by itself that the runtime is gone
			}
		}
		if len(alive) == 0 && gone {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("processes %v of the OCI runtime, of the group %d, do not end", alive, runtime)
		case <-time.After(time.Millisecond):
		}
	}
}

// endGroup kills what a runtime that has started no program in a running container has
// left of its process group, and waits until it is gone: of a runtime that is killed, or
// gives up, in the middle, its helpers would stay as zombies. Where the agent has a
// supervisor that one waits for them.
func endGroup(runtime int) error {
	_ = unix.Kill(-runtime, unix.SIGKILL) // ESRCH: none is left
	for end := time.Now().Add(settleTime); ; time.Sleep(time.Millisecond) {
		gone := groupIsGone(runtime)
		_, children, err := readChildren(os.Getpid())
		if err != nil {
			return err
		}
		var alive []int
		for _, c := range children {
			if c.group != runtime {
				continue
			}
			collected := false
			if c.zombie {
				if collected, err = c.collect(); err != nil {
					return err
				}
			}
			if !collected {
				alive = append(alive, c.pid)
			}
		}
		if len(alive) == 0 && gone {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("processes %v of the OCI runtime, of the group %d, do not end", alive, runtime)
		}
	}
}

// groupIsGone reports whether a runtime's process group is empty. What is in it need
// not be the agent's child yet: it becomes that when the process that started it, which
// is killed, is through with its end.
func groupIsGone(runtime int) bool {
	return runtime <= 1 || errors.Is(unix.Kill(-runtime, 0), unix.ESRCH)
}

// firstProcesses are the pids that containers' pid files hold. A runtime writes
// it before it ends, and so before the process becomes the agent's child.
func (r *Runc) firstProcesses() []int {
	r.mu.Lock()
	defer r.mu.Unlock()
	var pids []int
	for id := range r.live {
		if pid, err := readPidFile(r.slot(id).pidFile()); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// child is a child process of the agent, as /proc has it.
type child struct {
	pid, group, session int
	zombie              bool
}

// user is the real user id it has, or had.
func (c child) user() (uint32, error) {
	status, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(c.pid), "status"))
	if err != nil {
		return 0, err
	}
	return parseUser(status)
}

func parseUser(status []byte) (uint32, error) {
	for line := range strings.Lines(string(status)) {
		if ids, ok := strings.CutPrefix(line, "Uid:\t"); ok {
			own, _, _ := strings.Cut(ids, "\t")
			uid, err := strconv.ParseUint(own, 10, 32)
			return uint32(uid), err
		}
	}
	return 0, fmt.Errorf("no user id in %q", status)
}

// collect waits for a zombie. It is not gone while it has threads that have not
// ended yet.
func (c child) collect() (gone bool, err error) {
	pid, err := unix.Wait4(c.pid, nil, unix.WNOHANG, nil)
	if err != nil && !errors.Is(err, unix.ECHILD) { // somebody else was quicker
		return false, fmt.Errorf("wait for process %d: %w", c.pid, err)
	}
	return err != nil || pid == c.pid, nil
}

// parentPID is the process whose children a runtime's become when it ends.
func (r *Runc) parentPID() int {
	if _, own := r.parent.(ownChildren); own {
		return os.Getpid()
	}
	return os.Getppid()
}

// readChildren returns a process's children, and the agent's session.
func readChildren(parent int) (session int, children []child, err error) {
	if session, err = unix.Getsid(0); err != nil {
		return 0, nil, fmt.Errorf("the agent's session: %w", err)
	}
	lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", parent))
	if err != nil || len(lists) == 0 {
		return 0, nil, fmt.Errorf("list the agent's children: /proc/*/task/*/children: %w (was Linux built without CONFIG_PROC_CHILDREN?)", errors.Join(err, os.ErrNotExist))
	}
	for _, list := range lists {
		pids, err := readPids(list)
		if err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ESRCH) { // a thread that has ended
			return 0, nil, fmt.Errorf("list the agent's children: %w", err)
		}
		for _, pid := range pids {
			c, err := readChild(pid)
			if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
				continue // waited for meanwhile
			}
			if err != nil {
				return 0, nil, fmt.Errorf("look at the agent's child %d: %w", pid, err)
			}
			children = append(children, c)
		}
	}
	return session, children, nil
}

func readChild(pid int) (child, error) {
	stat, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return child{}, err
	}
	return parseChild(pid, stat)
}

func parseChild(pid int, stat []byte) (child, error) {
	// 16015 (a name (of sorts)) Z 15926 16014 16014 …
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) < 4 {
		return child{}, fmt.Errorf("its stat is %q", stat)
	}
	group, groupErr := strconv.Atoi(fields[2])
	session, sessionErr := strconv.Atoi(fields[3])
	return child{pid: pid, group: group, session: session, zombie: fields[0] == "Z"}, errors.Join(groupErr, sessionErr)
}

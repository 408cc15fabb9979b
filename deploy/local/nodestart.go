package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// nodeBinds are the paths that every kubelet, CNI plugin or SanFran agent uses
// by the same name. Inside a node they are folders of that node, so that nodes
// of one machine do not share them.
var nodeBinds = map[string]string{
	"/var/lib/kubelet":    "kubelet",
	"/var/lib/sanfran":    "sanfran",
	"/var/lib/cni":        "cni",
	"/var/log/pods":       "log-pods",
	"/var/log/containers": "log-containers",
}

// process is the first process of the node, if it runs. One that is being
// ended is there for a while still, but has no namespaces any more.
func (n node) process() (process, bool) {
	p, err := readJSON[process](n.path("init.pid"))
	if err != nil || !p.alive() {
		return p, false
	}
	_, err = os.Stat(fmt.Sprintf("/proc/%d/ns/net", p.PID))
	return p, err == nil
}

// start makes sure that the node's first process runs, in namespaces of
// its own, and tells whether it was started now.
func (n node) start(ctx context.Context, machine *machine) (p process, started bool, err error) {
	p, ok := n.process()
	if ok {
		return p, false, nil
	}
	// Whatever is left of a node that died by half.
	if err := p.kill(); err != nil {
		return process{}, false, err
	}
	if err := killCgroup(n.cgroup()); err != nil {
		return process{}, false, err
	}
	cgroups, err := makeCgroups(n.cgroup())
	if err != nil {
		return process{}, false, err
	}
	setup := nodeSetup{
		Hostname: n.name(), Cgroups: cgroups, Binds: map[string]string{},
		ResolvConf: n.path("resolv.conf"), Units: n.path("units.json"),
		Status: n.path("status.json"), Logs: n.cluster.path("log", n.name()),
	}
	for inside, folder := range nodeBinds {
		if err := machine.makeDir(inside); err != nil {
			return process{}, false, err
		}
		if err := os.MkdirAll(n.path(folder), 0o755); err != nil {
			return process{}, false, err
		}
		setup.Binds[inside] = n.path(folder)
	}
	if err := os.MkdirAll(setup.Logs, 0o755); err != nil {
		return process{}, false, err
	}
	// Nothing is to run before the node has its network and its files.
	for _, file := range []string{setup.Units, setup.Status} {
		if err := os.Remove(file); err != nil && !os.IsNotExist(err) {
			return process{}, false, err
		}
	}
	content, err := json.MarshalIndent(setup, "", "  ")
	if err != nil {
		return process{}, false, err
	}
	if err := writeFile(n.path("setup.json"), content, 0o644); err != nil {
		return process{}, false, err
	}
	p, err = n.clone()
	return p, true, err
}

// clone starts the first process of the node and waits for its report.
func (n node) clone() (process, error) {
	log, err := os.OpenFile(n.cluster.path("log", n.name(), "node-init.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return process{}, err
	}
	defer log.Close()
	read, write, err := os.Pipe()
	if err != nil {
		return process{}, err
	}
	defer read.Close()
	command := exec.Command("/proc/self/exe", "node-init", n.path("setup.json"))
	command.Args[0] = "sanfran-local"
	command.Dir = "/"
	command.Env = []string{"PATH=" + systemPath, "HOME=/root"}
	command.Stdout, command.Stderr = log, log
	command.ExtraFiles = []*os.File{write}
	command.SysProcAttr = &syscall.SysProcAttr{
		Setsid:     true,
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWNET | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC,
	}
	err = command.Start()
	write.Close()
	if err != nil {
		return process{}, fmt.Errorf("node %s: start its first process: %w", n.name(), err)
	}
	p, err := findProcess(command.Process.Pid)
	if err == nil {
		var content []byte
		if content, err = json.Marshal(p); err == nil {
			err = writeFile(n.path("init.pid"), content, 0o644)
		}
	}
	if err != nil {
		_ = command.Process.Kill()
		_ = command.Wait()
		return process{}, fmt.Errorf("node %s: %w", n.name(), err)
	}
	_ = read.SetReadDeadline(time.Now().Add(20 * time.Second))
	report, err := io.ReadAll(read)
	if string(report) != "ok" {
		_ = command.Process.Kill()
		_ = command.Wait()
		return process{}, errors.Join(fmt.Errorf("node %s cannot be set up: %s", n.name(), report), err)
	}
	// The process lives on without this one; whoever adopts it reaps it.
	return p, command.Process.Release()
}

// apply gives the node units to run beside, or instead of those of the same
// name, that it has, and waits until it has taken them. Units that are stopped
// on request stay so.
func (n node) apply(ctx context.Context, units ...unit) error {
	list, err := readJSON[unitList](n.path("units.json"))
	if err != nil && !os.IsNotExist(err) {
		list = unitList{Generation: int(time.Now().Unix())}
	}
	list.Units = mergeUnits(list.Units, units)
	return n.putUnits(ctx, list)
}

func mergeUnits(have, want []unit) []unit {
	merged := append([]unit(nil), have...)
next:
	for _, u := range want {
		for i := range merged {
			if merged[i].Name == u.Name {
				u.Stopped = merged[i].Stopped
				merged[i] = u
				continue next
			}
		}
		merged = append(merged, u)
	}
	return merged
}

func (n node) putUnits(ctx context.Context, list unitList) error {
	p, ok := n.process()
	if !ok {
		return fmt.Errorf("node %s does not run; `make cluster CLUSTER=%s` starts it", n.name(), n.cluster.Name)
	}
	list.Generation++
	content, err := json.MarshalIndent(list, "", "  ")
	if err != nil {
		return err
	}
	if err := writeFile(n.path("units.json"), content, 0o600); err != nil {
		return err
	}
	if err := syscall.Kill(p.PID, syscall.SIGHUP); err != nil {
		return fmt.Errorf("node %s: %w", n.name(), err)
	}
	return wait(ctx, 10*time.Second, "node "+n.name()+" to take its list of programs", func(context.Context) error {
		status, err := readJSON[statusList](n.path("status.json"))
		if err != nil {
			return err
		}
		if status.Generation != list.Generation {
			return fmt.Errorf("it has list %d, not %d", status.Generation, list.Generation)
		}
		return nil
	})
}

// enter is a command line that runs another one inside the node: in all its
// namespaces, or in its network only, with the machine's files.
func (p process) enter(networkOnly bool, command ...string) []string {
	target := fmt.Sprint(p.PID)
	if networkOnly {
		return append([]string{"nsenter", "--target", target, "--net", "--"}, command...)
	}
	return append([]string{"nsenter", "--target", target, "--mount", "--net", "--uts", "--ipc", "--pid", "--wd=/", "--"}, command...)
}

// run runs a command in the node's namespaces and returns what it wrote.
func (p process) run(ctx context.Context, networkOnly bool, input io.Reader, command ...string) (string, error) {
	arguments := p.enter(networkOnly, command...)
	run := exec.CommandContext(ctx, arguments[0], arguments[1:]...)
	run.Stdin = input
	output, err := run.CombinedOutput()
	if err != nil {
		return string(output), fmt.Errorf("%s: %w: %s", strings.Join(command, " "), err, strings.TrimSpace(string(output)))
	}
	return string(output), nil
}

// running returns a check that a program of the node runs, or does not.
func (n node) running(name string, want bool) func(context.Context) error {
	return func(context.Context) error {
		status, err := readJSON[statusList](n.path("status.json"))
		if err != nil {
			return err
		}
		for _, u := range status.Units {
			if u.Name == name && u.Running == want {
				return nil
			}
		}
		return fmt.Errorf("%s: running is not %t yet", name, want)
	}
}

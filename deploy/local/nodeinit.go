package main

import (
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// nodeSetup is what the first process of a node is told by the command that
// starts it, in a file.
type nodeSetup struct {
	Hostname   string            `json:"hostname"`
	Cgroups    []string          `json:"cgroups"`    // folders of cgroups to join
	Binds      map[string]string `json:"binds"`      // folder of the node, by the path it has inside
	ResolvConf string            `json:"resolvConf"` // file to be seen as /etc/resolv.conf
	Units      string            `json:"units"`      // file that lists what is to run
	Status     string            `json:"status"`     // file that tells what runs
	Logs       string            `json:"logs"`       // folder of logs
}

// newNodeInitCommand is the first process of a node. It is started with new
// namespaces by startNode, and by nobody else.
func newNodeInitCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "node-init setup-file",
		Hidden: true,
		Args:   cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, arguments []string) error {
			report := os.NewFile(3, "report")
			if os.Getpid() != 1 || report == nil {
				return fmt.Errorf("node-init is started by `local up` only")
			}
			setup, err := readJSON[nodeSetup](arguments[0])
			if err == nil {
				err = setup.enter()
			}
			if err != nil {
				fmt.Fprint(report, err.Error())
				report.Close()
				return err
			}
			if _, err := io.WriteString(report, "ok"); err != nil {
				return err
			}
			report.Close()
			signals := make(chan os.Signal, 8)
			signal.Notify(signals, syscall.SIGHUP, syscall.SIGTERM, syscall.SIGCHLD)
			return newSupervisor(setup).run(signals)
		},
	}
}

// enter makes the namespaces that this process was started in a node.
func (s nodeSetup) enter() error {
	for _, dir := range s.Cgroups {
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte("0"), 0o644); err != nil {
			return fmt.Errorf("join the cgroup %s: %w", dir, err)
		}
	}
	if err := unix.Sethostname([]byte(s.Hostname)); err != nil {
		return fmt.Errorf("host name %s: %w", s.Hostname, err)
	}
	if err := s.mounts(); err != nil {
		return err
	}
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(lo)
	}
	if err != nil {
		return fmt.Errorf("loopback device: %w", err)
	}
	return nil
}

// mounts gives the node a view of the file system in which every mount is
// shared (pods with Bidirectional mounts need it), nothing mounted is seen
// outside, and folders that every kubelet uses are the node's own.
func (s nodeSetup) mounts() error {
	steps := []func() error{
		func() error { return mount("", "/", "", unix.MS_SLAVE|unix.MS_REC, "") },
		func() error { return s.mountRun() },
		func() error { return mount("proc", "/proc", "proc", 0, "") },
		func() error { return mountSys() },
		func() error { return mount("bpf", "/sys/fs/bpf", "bpf", 0, "mode=0700") },
		func() error {
			for inside, folder := range s.Binds {
				if err := mount(folder, inside, "", unix.MS_BIND, ""); err != nil {
					return err
				}
			}
			return nil
		},
		func() error { return mount("", "/", "", unix.MS_SHARED|unix.MS_REC, "") },
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// mountRun gives the node an empty /run, where programs keep what must not
// outlive a boot, and the node's own resolv.conf, which may lie there.
func (s nodeSetup) mountRun() error {
	resolv, err := filepath.EvalSymlinks("/etc/resolv.conf")
	if err != nil {
		resolv = ""
	}
	if err := mount("tmpfs", "/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755"); err != nil {
		return err
	}
	if info, err := os.Lstat("/var/run"); err == nil && info.IsDir() {
		if err := mount("/run", "/var/run", "", unix.MS_BIND, ""); err != nil {
			return err
		}
	}
	if err := os.MkdirAll("/run/lock", 0o1777); err != nil {
		return err
	}
	if resolv == "" {
		return nil
	}
	if strings.HasPrefix(resolv, "/run/") {
		if err := os.MkdirAll(filepath.Dir(resolv), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(resolv, nil, 0o644); err != nil {
			return err
		}
	}
	return mount(s.ResolvConf, resolv, "", unix.MS_BIND, "")
}

// mountSys mounts a /sys that shows the node's network, and brings back what
// was mounted below the old one, above all the cgroups.
func mountSys() error {
	info, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	kept := map[string]string{}
	for i, path := range mountsBelow(string(info), "/sys") {
		if path == "/sys/fs/bpf" {
			continue
		}
		aside := fmt.Sprintf("/run/.sys-%d", i)
		if err := os.Mkdir(aside, 0o700); err != nil {
			return err
		}
		if err := mount(path, aside, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			return err
		}
		kept[path] = aside
	}
	if err := mount("sysfs", "/sys", "sysfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return err
	}
	for path, aside := range kept {
		if err := mount(aside, path, "", unix.MS_MOVE, ""); err != nil {
			return err
		}
		if err := os.Remove(aside); err != nil {
			return err
		}
	}
	return nil
}

// mountsBelow lists the mount points below root that are in no other mount
// below root, out of the text of a mountinfo file.
func mountsBelow(mountinfo, root string) []string {
	var points []string
	seen := map[string]bool{}
next:
	for line := range strings.Lines(mountinfo) {
		fields := strings.Fields(line)
		if len(fields) < 5 {
			continue
		}
		point := unescapeMount(fields[4])
		if !strings.HasPrefix(point, root+"/") || seen[point] {
			continue
		}
		for _, outer := range points {
			if strings.HasPrefix(point, outer+"/") {
				continue next
			}
		}
		seen[point] = true
		points = append(points, point)
	}
	return points
}

// unescapeMount undoes the octal escapes of a path in a mountinfo file.
func unescapeMount(path string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(path)
}

func mount(source, target, kind string, flags uintptr, options string) error {
	if err := unix.Mount(source, target, kind, flags, options); err != nil {
		return fmt.Errorf("mount %s %s on %s: %w", kind, source, target, err)
	}
	return nil
}

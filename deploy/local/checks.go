package main

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
)

// debian is how to install a Debian package, for messages.
func debian(packages string) string {
	return "install it with `apt-get install " + packages + "` (`make deps` installs all that is needed)"
}

// checkBuild tells everything that keeps programs from being built.
func checkBuild(names []string) error {
	if runtime.GOOS != "linux" {
		return fmt.Errorf("this is %s; a cluster needs Linux", runtime.GOOS)
	}
	lacking, err := missing(names)
	if err != nil || len(lacking) == 0 {
		return err
	}
	var failed []error
	if _, err := exec.LookPath("go"); err != nil {
		failed = append(failed, errors.New("there is no go on PATH; install Go 1.26 or newer (https://go.dev/dl)"))
	}
	for _, p := range lacking {
		if !p.needsC {
			continue
		}
		if _, err := exec.LookPath("gcc"); err != nil {
			failed = append(failed, fmt.Errorf("%s needs a C compiler: %s", p.name, debian("gcc libc6-dev")))
		}
		if found, _ := filepath.Glob("/usr/lib*/*/libseccomp.a"); len(found) == 0 {
			if found, _ := filepath.Glob("/usr/lib*/libseccomp.a"); len(found) == 0 {
				failed = append(failed, fmt.Errorf("%s needs libseccomp.a: %s", p.name, debian("libseccomp-dev")))
			}
		}
	}
	return errors.Join(failed...)
}

// checkRun tells everything that keeps a cluster from running here.
func checkRun() error {
	if runtime.GOOS != "linux" {
		return fmt.Errorf("this is %s; a cluster needs Linux", runtime.GOOS)
	}
	if os.Geteuid() != 0 {
		return errors.New("a cluster needs root (namespaces, mounts and network devices); run it with sudo, or in a virtual machine of your own")
	}
	var failed []error
	fail := func(format string, arguments ...any) { failed = append(failed, fmt.Errorf(format, arguments...)) }
	for _, need := range []struct{ program, why, packages string }{
		{"nft", "kube-proxy and the way out of the cluster need nft", "nftables"},
		{"nsenter", "nodes are entered with nsenter", "util-linux"},
		{"iptables", "the CNI plugin portmap needs iptables", "iptables"},
		{"mount", "the kubelet mounts with mount", "mount"},
	} {
		if _, err := exec.LookPath(need.program); err != nil {
			fail("%s: %s", need.why, debian(need.packages))
		}
	}
	for _, plugin := range []string{"ptp", "host-local", "portmap", "loopback"} {
		if _, err := os.Stat(filepath.Join(cniPlugins, plugin)); err != nil {
			fail("the CNI plugin %s is not in %s: %s", plugin, cniPlugins, debian("containernetworking-plugins"))
		}
	}
	if _, err := os.Stat(busybox); err != nil {
		fail("the image %s is made of %s: %s", toolboxImage, busybox, debian("busybox-static"))
	} else if output, err := exec.Command(busybox, "--list").Output(); err != nil || !slices.Contains(strings.Fields(string(output)), "wget") {
		fail("%s does not run or has no wget: %s", busybox, debian("busybox-static"))
	}
	if filesystems, err := os.ReadFile("/proc/filesystems"); err == nil {
		for _, need := range []string{"bpf", "overlay"} {
			if !slices.Contains(strings.Fields(string(filesystems)), need) && exec.Command("modprobe", need).Run() != nil {
				fail("this kernel has no %s file system", need)
			}
		}
	}
	roots, err := cgroupRoots()
	if err != nil || len(roots) == 0 {
		fail("no cgroups are mounted on %s (%v)", cgroupMount, err)
	} else if !unifiedCgroups() {
		for _, controller := range neededControllers {
			if _, err := os.Stat(filepath.Join(cgroupMount, controller)); err != nil {
				fail("the cgroup controller %s is not mounted on %s", controller, filepath.Join(cgroupMount, controller))
			}
		}
	}
	cache, err := cacheDir()
	if err != nil {
		failed = append(failed, err)
	}
	for _, dir := range []string{stateBase(), cache} {
		if strings.HasPrefix(dir+"/", "/run/") || strings.HasPrefix(dir+"/", "/var/run/") || strings.HasPrefix(dir+"/", "/var/lib/kubelet/") {
			fail("the folder %s cannot be used, because nodes have a %s of their own; set SANFRAN_LOCAL_STATE and SANFRAN_CACHE to others", dir, filepath.Dir(dir))
		}
		if strings.ContainsAny(dir, " \"'\\\n") {
			fail("the folder %q cannot be used because of its name; set SANFRAN_LOCAL_STATE and SANFRAN_CACHE to others", dir)
		}
	}
	return errors.Join(failed...)
}

// checkNetwork tells whether something that is not the cluster's own has the
// addresses or the bridge that c means to take.
func (c *cluster) checkNetwork() error {
	link, err := netlink.LinkByName(c.bridge())
	if err == nil {
		// Ours from before: it has our address, or none.
		addresses, err := netlink.AddrList(link, netlink.FAMILY_V4)
		if err != nil {
			return err
		}
		for _, address := range addresses {
			if ip, ok := netip.AddrFromSlice(address.IP.To4()); !ok || ip != c.gateway4() {
				return fmt.Errorf("the network device %s is there already, with the address %s, and is not this cluster's; remove it (`ip link del %s`) or choose another --name", c.bridge(), address.IP, c.bridge())
			}
		}
		if link.Type() != "bridge" {
			return fmt.Errorf("the network device %s is there already and is no bridge; remove it (`ip link del %s`) or choose another --name", c.bridge(), c.bridge())
		}
	}
	links, err := netlink.LinkList()
	if err != nil {
		return err
	}
	for _, other := range links {
		if other.Attrs().Name == c.bridge() {
			continue
		}
		addresses, err := netlink.AddrList(other, netlink.FAMILY_V4)
		if err != nil {
			continue
		}
		for _, address := range addresses {
			if ip, ok := netip.AddrFromSlice(address.IP.To4()); ok && c.Subnet4.Contains(ip) {
				return fmt.Errorf("the network device %s has the address %s, which lies in %s, the network of cluster %s; `make cluster-down CLUSTER=%s` and `make cluster CLUSTER=%[5]s` choose a free one", other.Attrs().Name, ip, c.Subnet4, c.Name, c.Name)
			}
		}
	}
	return nil
}

// mayRaisePriority tells whether root may lower OOM scores here.
func mayRaisePriority() bool {
	const sysResource = 24 // CAP_SYS_RESOURCE
	raw, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(raw)) {
		if value, ok := strings.CutPrefix(line, "CapEff:"); ok {
			bits, err := strconv.ParseUint(strings.TrimSpace(value), 16, 64)
			return err == nil && bits&(1<<sysResource) != 0
		}
	}
	return false
}

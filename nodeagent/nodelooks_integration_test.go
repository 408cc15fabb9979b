//go:build integration

package nodeagent

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// nodeLooks is everything on the node that an agent could change, by kind. What
// is named at random has the same name in all of them, and nothing is counted.
type nodeLooks map[string][]string

var (
	containerID = regexp.MustCompile(`sf-[a-z2-7]{16}`)
	portID      = regexp.MustCompile(`sfv[0-9a-f]{12}`)
	podDir      = regexp.MustCompile(`/pods/([a-z-]+)-\d+`)
	counted     = regexp.MustCompile(`packets \d+ bytes \d+`)
)

// look takes the node down as it is, seen from the test's process.
func look(t testing.TB, cfg Config) nodeLooks {
	t.Helper()
	looks := nodeLooks{"processes": descendants(), "pins": filesIn(t, bpffs), "files": filesIn(t, cfg.WorkDir)}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		before, after, _ := strings.Cut(line, " - ")
		looks.add("mounts", strings.Fields(before)[4]+" "+strings.Fields(after)[0])
	}
	for _, pattern := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/*"} {
		bases, err := filepath.Glob(pattern + cfg.CgroupBase)
		if err != nil {
			t.Fatal(err)
		}
		for _, base := range bases {
			err := filepath.WalkDir(base, func(name string, entry fs.DirEntry, err error) error {
				if err == nil && entry.IsDir() {
					looks.add("control groups", name)
				}
				return err
			})
			if err != nil {
				t.Error(err)
			}
		}
	}
	looks.addNetwork(t)
	for kind, lines := range looks {
		for i := range lines {
			line := strings.ReplaceAll(lines[i], filepath.Base(cfg.WorkDir), "DIR")
			line = containerID.ReplaceAllString(line, "sf-ID")
			line = portID.ReplaceAllString(line, "sfvID")
			line = podDir.ReplaceAllString(line, "/pods/$1-N")
			lines[i] = counted.ReplaceAllString(line, "packets N bytes N")
		}
		slices.Sort(lines)
		looks[kind] = lines
	}
	return looks
}

func (l nodeLooks) add(kind, line string) { l[kind] = append(l[kind], line) }

func (l nodeLooks) addNetwork(t testing.TB) {
	t.Helper()
	links, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range links {
		l.add("links", link.Attrs().Name+" "+link.Type())
		addrs, err := netlink.AddrList(link, netlink.FAMILY_V4)
		if err != nil {
			t.Fatal(err)
		}
		for _, addr := range addrs {
			l.add("addresses", fmt.Sprint(link.Attrs().Name, " ", addr.IPNet))
		}
	}
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
	if err != nil {
		t.Fatal(err)
	}
	for _, route := range routes {
		l.add("routes", fmt.Sprint(route.Dst, " gateway ", route.Gw, " source ", route.Src, " table ", route.Table, " type ", route.Type, " by ", route.Protocol))
	}
	rules, err := exec.CommandContext(t.Context(), "nft", "list", "ruleset").CombinedOutput()
	if err != nil {
		t.Fatalf("nft list ruleset: %v\n%s", err, rules)
	}
	l["rules"] = strings.Split(string(rules), "\n")
}

// filesIn lists what is below a folder, but not what a container sees.
func filesIn(t testing.TB, dir string) []string {
	t.Helper()
	var files []string
	err := filepath.WalkDir(dir, func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		files = append(files, entry.Type().String()+" "+strings.TrimPrefix(name, dir))
		if entry.Name() == "rootfs" {
			return fs.SkipDir
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	return files
}

// descendants are the processes that the test's process has started, and theirs.
func descendants() []string {
	var all []string
	pids := children("self")
	for len(pids) > 0 {
		pid := pids[0]
		pids = append(pids[1:], children(pid)...)
		name, err := os.ReadFile("/proc/" + pid + "/comm")
		if err == nil {
			all = append(all, strings.TrimSpace(string(name)))
		}
	}
	return all
}

func children(pid string) []string {
	var pids []string
	lists, _ := filepath.Glob("/proc/" + pid + "/task/*/children")
	for _, list := range lists {
		data, _ := os.ReadFile(list) // a thread that has ended has none
		pids = append(pids, strings.Fields(string(data))...)
	}
	return pids
}

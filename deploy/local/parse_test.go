package main

import (
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseStat(t *testing.T) {
	start, state, err := parseStat("12 (a ) b) S 1 12 12 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4711 1000 2 18446744073709551615")
	if err != nil || start != 4711 || state != "S" {
		t.Errorf("have start %d, state %q (%v)", start, state, err)
	}
	for _, broken := range []string{"", "12 a S", "12 (a) S 1 2"} {
		if _, _, err := parseStat(broken); err == nil {
			t.Errorf("%q was understood", broken)
		}
	}
}

func TestProcessIsKnownByItsStart(t *testing.T) {
	self, err := findProcess(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if !self.alive() {
		t.Error("this process is said to be dead")
	}
	for _, other := range []process{
		{},
		{PID: self.PID, Start: self.Start + 1, Boot: self.Boot},
		{PID: self.PID, Start: self.Start, Boot: "another"},
	} {
		if other.alive() {
			t.Errorf("%+v is taken for this process", other)
		}
	}
}

const mountinfoV1 = `22 27 0:21 / /proc rw - proc proc rw
23 27 0:22 / /sys rw - sysfs sysfs rw
31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct
33 31 0:31 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
34 31 0:31 / /sys/fs/cgroup/again rw - cgroup cgroup rw,memory
35 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
36 23 0:7 / /sys/kernel/security rw - securityfs securityfs rw
37 27 0:9 / /systems rw - tmpfs tmpfs rw
38 23 0:10 / /sys/a\040b rw - tmpfs tmpfs rw
39 23 0:11 / /sys/kernel/security rw - tmpfs tmpfs rw
`

func TestMountsBelow(t *testing.T) {
	want := []string{"/sys/fs/cgroup", "/sys/kernel/security", "/sys/a b"}
	if diff := cmp.Diff(want, mountsBelow(mountinfoV1, "/sys")); diff != "" {
		t.Error(diff)
	}
}

func TestParseCgroupRoots(t *testing.T) {
	want := []string{"/sys/fs/cgroup/cpu,cpuacct", "/sys/fs/cgroup/memory", "/sys/fs/cgroup/unified"}
	if diff := cmp.Diff(want, parseCgroupRoots(mountinfoV1)); diff != "" {
		t.Error(diff)
	}
}

func TestNameservers(t *testing.T) {
	text := "# comment\nsearch example.org\nnameserver 127.0.0.53\nnameserver ::1\nnameserver 192.0.2.53\nnameserver fe80::1%eth0\n nameserver 2001:db8::53 \nnameserver\n"
	if diff := cmp.Diff([]string{"192.0.2.53", "2001:db8::53"}, nameservers(text)); diff != "" {
		t.Error(diff)
	}
	if have, want := resolvConf(nil), "nameserver "+dnsService4+"\n"; have != want {
		t.Errorf("without resolvers: %q, want %q", have, want)
	}
}

func TestLastLines(t *testing.T) {
	path := t.TempDir() + "/log"
	if err := os.WriteFile(path, []byte("one\ntwo\nthree\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for count, want := range map[int]string{2: "  two\n  three", 9: "  one\n  two\n  three"} {
		if have := lastLines(path, count); have != want {
			t.Errorf("last %d lines: %q, want %q", count, have, want)
		}
	}
}

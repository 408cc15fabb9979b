//go:build integration

package container_test

import (
	"os"
	"strings"
	"testing"
)

func TestContainerIsSealed(t *testing.T) { eachRuntime(t, containerIsSealed) }

func containerIsSealed(t *testing.T, h *host) {
	s := h.serve(t, "sealed", nil)

	for _, c := range []struct{ script, want string }{
		{`return process.getuid()`, "65534"},
		{`return process.getgid()`, "65534"},
		{`return process.pid`, "1"},
		{`return require("os").hostname()`, "warm-sealed"},
		{`require("fs").writeFileSync("/x", "")`, "error: EROFS"},
		{`require("fs").writeFileSync("/usr/local/bin/node", "")`, "error: EROFS"},
		{`require("fs").mkdirSync("/other")`, "error: EROFS"},
		{`require("fs").writeFileSync("/tmp/x", "ok"); return require("fs").readFileSync("/tmp/x", "utf8")`, "ok"},
		{`require("fs").writeFileSync("/dev/shm/x", "")`, "<nil>"},
		{`require("fs").writeFileSync("/dev/x", "")`, "error: EACCES"},
		{`require("fs").writeFileSync("/dev/null", "x")`, "<nil>"},
		{`return require("fs").readFileSync("/proc/timer_list").length`, "0"},
		{`require("fs").writeFileSync("/proc/sys/kernel/hostname", "x")`, "error: EROFS"},
		{`return Object.keys(require("os").networkInterfaces())`, "[lo]"},
		{`return require("fs").readdirSync("/sys/fs")`, "[cgroup]"},
		{`require("fs").writeFileSync("/sys/x", "")`, "error: EROFS"},
		{`require("fs").mkdirSync("/sys/fs/cgroup/x")`, "error: EROFS"},
		{`
			const fs = require("fs"), groups = fs.readdirSync("/sys/fs/cgroup").includes("memory") ? ["memory/memory.limit_in_bytes", "pids/cgroup.procs"] : ["memory.max", "cgroup.procs"]
			return groups.map(name => { try { fs.writeFileSync("/sys/fs/cgroup/" + name, "1") } catch (e) { return e.code } })`, "[EROFS EROFS]"},
		{`return require("fs").readdirSync("/proc").filter(n => n > 0).length`, "1"},
	} {
		s.expect(c.script, c.want)
	}

	status := s.eval(`return require("fs").readFileSync("/proc/self/status", "utf8")`)
	for _, line := range []string{
		"CapInh:\t0000000000000000", "CapPrm:\t0000000000000000", "CapEff:\t0000000000000000",
		"CapBnd:\t0000000000000000", "CapAmb:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2",
	} {
		if !strings.Contains(status, line+"\n") {
			t.Errorf("/proc/self/status lacks %q:\n%s", line, status)
		}
	}
	for _, ns := range []string{"user", "mnt", "pid", "net", "ipc", "uts", "cgroup"} {
		host, err := os.Readlink("/proc/self/ns/" + ns)
		if err != nil {
			t.Fatal(err)
		}
		if got := s.eval(`return require("fs").readlinkSync("/proc/self/ns/` + ns + `")`); got == host || !strings.HasPrefix(got, ns+":[") {
			t.Errorf("%s namespace is %s, the host's is %s", ns, got, host)
		}
	}
	if uidMap := strings.Fields(s.eval(`return require("fs").readFileSync("/proc/self/uid_map", "utf8")`)); len(uidMap) != 3 || uidMap[0] != "0" || uidMap[1] == "0" || uidMap[2] != "65536" {
		t.Errorf("uid_map = %q", uidMap)
	}
	// A whole /tmp takes no more than its limit.
	s.expect(`
		const fs = require("fs"), f = fs.openSync("/tmp/fill", "w"), block = Buffer.alloc(1 << 20)
		try { for (let i = 0; i < 300; i++) fs.writeSync(f, block) }
		catch (e) { fs.closeSync(f); fs.unlinkSync("/tmp/fill"); throw e }`, "error: ENOSPC")
	if err := s.Destroy(t.Context()); err != nil {
		t.Error(err)
	}
	if left := h.left(); len(left) > 0 {
		t.Errorf("left on the host: %q", left)
	}
}

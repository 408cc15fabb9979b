//go:build e2e

package e2e

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const toolsCode = `
console.log('loading')
exports.say = (req, res) => { console.log('out', req.query.word); console.error('err', req.query.word); res.end('said') }
exports.inspect = (req, res) => { require('inspector').open(9229, '127.0.0.1'); res.end('open') }
exports.work = (req, res) => { const end = process.cpuUsage().user + 300e3; while (process.cpuUsage().user < end); res.end('done') }
exports.exit = (req, res) => process.exit(3)
`

// exitCode is what a command ended with.
func exitCode(err error) int {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode()
	}
	return -1
}

// Of a parked pod, as of any other: kubectl exec runs programs in the function's
// container, with its environment and folder.
func TestExec(t *testing.T) {
	namespace := newNamespace(t)
	configMap(t, namespace, "tools", toolsCode)
	runFunction(t, namespace, "tools", "tools", "--env=GREETING=moin", "--annotations=sanfran.dev/idle-timeout=2s")
	waitReady(t, namespace, "tools")
	var p pod
	get(t, &p, "pod", "tools", "-n", namespace)
	untilParked(t, p.Metadata.UID)
	in := func(args ...string) (string, error) {
		t.Helper()
		return run(t, "", "kubectl", append([]string{"exec", "-n", namespace, "tools", "--"}, args...)...)
	}
	if out, err := in("node", "-p", "process.cwd() + ' ' + process.env.GREETING + ' ' + os.hostname()"); err != nil || out != "/function moin tools\n" {
		t.Errorf("%q, %v", out, err)
	}
	if out, err := in("sh", "-c", "pwd; ls; id -u; grep -E 'CapEff|NoNewPrivs|Seccomp:' /proc/self/status; ls /sys/fs"); err != nil ||
		out != "/function\nindex.js\n65534\nCapEff:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2\ncgroup\n" {
		t.Errorf("%q, %v", out, err)
	}
	for script, code := range map[string]int{"exit 0": -1, "exit 7": 7, "kill -9 $$": 137, "echo x > /x": 1} {
		if _, err := in("sh", "-c", script); exitCode(err) != code {
			t.Errorf("%s: %v, want exit code %d", script, err, code)
		}
	}
	if out, err := in("sh", "-c", "echo to stdout; echo to stderr >&2; exit 1"); out != "to stdout\n" || err == nil || !strings.Contains(err.Error(), "to stderr\n") {
		t.Errorf("%q, %v", out, err)
	}
	if _, err := in("no-such-program"); err == nil || !strings.Contains(err.Error(), "not found in $PATH") {
		t.Errorf("%v", err)
	}
	if _, err := run(t, "", "kubectl", "exec", "-n", namespace, "tools", "-c", "other", "--", "true"); err == nil || !strings.Contains(err.Error(), "other") {
		t.Errorf("%v", err)
	}
	if _, err := run(t, "", "kubectl", append(append([]string{}, asAgent...), "exec", "-n", namespace, "tools", "--", "true")...); err == nil || !strings.Contains(strings.ToLower(err.Error()), "forbidden") {
		t.Errorf("an agent's account may run programs: %v", err)
	}
	// A program that neither reads nor writes ends with kubectl, and the pod is parked.
	ctx, interrupt := context.WithCancel(t.Context())
	cmd := exec.CommandContext(ctx, "kubectl", "exec", "-i", "-n", namespace, "tools", "--", "sh", "-c", "echo here; sleep 999")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(stdout).ReadString('\n'); err != nil || line != "here\n" {
		t.Errorf("%q, %v", line, err)
	}
	interrupted := time.Now()
	interrupt()
	_ = cmd.Wait()
	untilLoggedSince(t, interrupted, "pod parked", p.Metadata.UID)
}

// TestExecInput sends 10 MiB through a program and back, and copies a file with
// kubectl cp, which needs nothing but tar.
func TestExecInput(t *testing.T) {
	namespace := newNamespace(t)
	configMap(t, namespace, "tools", toolsCode)
	runFunction(t, namespace, "tools", "tools")
	waitReady(t, namespace, "tools")
	sent := make([]byte, 10<<20)
	rand.Read(sent)
	for name, program := range map[string][]string{"cat": {"cat"}, "node": {"node", "-e", "process.stdin.pipe(process.stdout)"}} {
		cmd := exec.CommandContext(t.Context(), "kubectl", append([]string{"exec", "-i", "-n", namespace, "tools", "--"}, program...)...)
		var stderr bytes.Buffer
		cmd.Stdin, cmd.Stderr = bytes.NewReader(sent), &stderr
		got, err := cmd.Output()
		if err != nil || sha256.Sum256(got) != sha256.Sum256(sent) {
			t.Errorf("%s: %d bytes came back, not as the %d that were sent: %v %s", name, len(got), len(sent), err, &stderr)
		}
	}
	out, err := run(t, string(sent[:1<<20]), "kubectl", "exec", "-i", "-n", namespace, "tools", "--", "sha256sum")
	if want := fmt.Sprintf("%x  -\n", sha256.Sum256(sent[:1<<20])); err != nil || out != want {
		t.Errorf("%q, %v, want %q", out, err, want)
	}
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/file", sent[:100_000], 0o600); err != nil {
		t.Fatal(err)
	}
	kubectl(t, "cp", "-n", namespace, dir+"/file", "tools:/tmp/copied")
	kubectl(t, "cp", "-n", namespace, "tools:/tmp/copied", dir+"/back")
	if back, err := os.ReadFile(dir + "/back"); err != nil || !bytes.Equal(back, sent[:100_000]) {
		t.Errorf("%d bytes copied back, %v", len(back), err)
	}
}

// TestExecTerminal is kubectl exec -it with a shell, on a terminal.
func TestExecTerminal(t *testing.T) {
	namespace := newNamespace(t)
	configMap(t, namespace, "tools", toolsCode)
	runFunction(t, namespace, "tools", "tools")
	waitReady(t, namespace, "tools")
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	terminal := os.NewFile(uintptr(fd), "terminal")
	defer terminal.Close()
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0), unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Col: 90, Row: 30})); err != nil {
		t.Fatal(err)
	}
	peer, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "kubectl", "exec", "-it", "-n", namespace, "tools", "--", "sh")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = peer, peer, peer
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	peer.Close()
	if err := terminal.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	got, b := "", make([]byte, 4096)
	expect := func(want string) {
		t.Helper()
		for !regexp.MustCompile(want).MatchString(got) {
			n, err := terminal.Read(b)
			if got += string(b[:n]); err != nil {
				t.Fatalf("%q, %v; want %q", got, err, want)
			}
		}
		got = ""
	}
	say := func(s string) {
		t.Helper()
		if _, err := io.WriteString(terminal, s); err != nil {
			t.Fatal(err)
		}
	}
	expect(`\$ `)
	say("stty size\n")
	expect("30 90\r\n")
	if err := unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Col: 100, Row: 40}); err != nil {
		t.Fatal(err)
	}
	say("until stty size | grep 40.100; do :; done\n") // it is on its way
	expect("\n40 100\r\n")
	say("echo asl''eep; sleep 999\n")
	expect("asleep\r\n")
	say("\x03")
	expect(`\$ `)
	say("exit 5\n")
	err = cmd.Wait()
	if exitCode(err) != 5 {
		t.Errorf("the shell ended with %v, want exit code 5", err)
	}
}

// TestAttach follows a function's output while it serves, from when it was attached.
func TestAttach(t *testing.T) {
	namespace := newNamespace(t)
	configMap(t, namespace, "tools", toolsCode)
	runFunction(t, namespace, "tools", "tools", "--annotations=sanfran.dev/idle-timeout=2s")
	waitReady(t, namespace, "tools")
	var p pod
	get(t, &p, "pod", "tools", "-n", namespace)
	untilParked(t, p.Metadata.UID)
	// Parked: the output of a fresh container is seen from its beginning.
	attached := follow(t, "kubectl", "attach", "-n", namespace, "tools", "-q")
	is := func(want string) func(string) bool { return func(line string) bool { return line == want } }
	attached.until(t, is("loading"))
	fetch(t, gateway(namespace, "tools", "/say?word=hello"))
	attached.until(t, is("out hello"))
	fetch(t, gateway(namespace, "tools", "/exit"))
	for attached.next() { // it ends with its container
	}
	if _, err := run(t, "input", "kubectl", "attach", "-i", "-n", namespace, "tools"); err == nil || !strings.Contains(err.Error(), "no standard input") {
		t.Errorf("with standard input: %v", err)
	}
}

// TestPortForward reaches the function as its Service does, and what else listens in
// its container, such as Node.js' inspector.
func TestPortForward(t *testing.T) {
	namespace := newNamespace(t)
	configMap(t, namespace, "tools", toolsCode)
	runFunction(t, namespace, "tools", "tools", "--annotations=sanfran.dev/idle-timeout=2s")
	waitReady(t, namespace, "tools")
	var p pod
	get(t, &p, "pod", "tools", "-n", namespace)
	untilParked(t, p.Metadata.UID)
	ports := forwardPorts(t, namespace, "tools", "8080", "9229")
	for path, want := range map[string]string{"/say": "said", "/inspect": "open"} {
		if status, body := fetch(t, ports["8080"]+path); status != 200 || body != want {
			t.Errorf("%s: %d %q, want %q", path, status, body, want)
		}
	}
	if status, body := fetch(t, ports["9229"]+"/json/version"); status != 200 || !strings.Contains(body, "node.js/v") {
		t.Errorf("the inspector: %d %q", status, body)
	}
	// Nobody listens at the next one: the client is told.
	ports = forwardPorts(t, namespace, "tools", "7777")
	if res, err := http.Get(ports["7777"]); err == nil {
		res.Body.Close()
		t.Errorf("a port that nobody listens on answers %d", res.StatusCode)
	}
}

// forwardPorts starts kubectl port-forward and returns a URL for each port.
func forwardPorts(t *testing.T, namespace, name string, ports ...string) map[string]string {
	t.Helper()
	args := []string{"port-forward", "-n", namespace, "pod/" + name}
	for _, port := range ports {
		args = append(args, ":"+port)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, "kubectl", args...)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		_ = cmd.Wait()
	})
	found := map[string]string{}
	said := regexp.MustCompile(`^Forwarding from (127\.0\.0\.1:\d+) -> (\d+)`)
	for scanner := bufio.NewScanner(stdout); len(found) < len(ports) && scanner.Scan(); {
		if m := said.FindStringSubmatch(scanner.Text()); m != nil {
			found[m[2]] = "http://" + m[1]
		}
	}
	if len(found) < len(ports) {
		t.Fatalf("kubectl port-forward ended with %d of %d ports", len(found), len(ports))
	}
	return found
}

// TestStats reads what metrics-server does, through the API server. Processor time
// grows with work, and never goes back over parking.
func TestStats(t *testing.T) {
	namespace := newNamespace(t)
	configMap(t, namespace, "tools", toolsCode)
	runFunction(t, namespace, "tools", "tools", "--annotations=sanfran.dev/idle-timeout=2s")
	waitReady(t, namespace, "tools")
	labels := fmt.Sprintf(`{container="tools",namespace="%s",pod="tools"} `, namespace)
	read := func(name string) float64 {
		t.Helper()
		for line := range strings.Lines(kubectl(t, "get", "--raw", "/api/v1/nodes/sanfran/proxy/metrics/resource")) {
			if rest, ok := strings.CutPrefix(line, name); ok {
				value, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
				if err != nil || value <= 0 { // metrics-server takes a zero for none
					t.Fatalf("%s: %v", line, err)
				}
				return value
			}
		}
		t.Fatalf("no %s", name)
		return 0
	}
	started := read("container_start_time_seconds" + labels)
	before := read("container_cpu_usage_seconds_total" + labels)
	node := read("node_cpu_usage_seconds_total")
	fetch(t, gateway(namespace, "tools", "/work"))
	after := read("container_cpu_usage_seconds_total" + labels)
	if after-before < 0.25 || after-before > 30 || read("node_cpu_usage_seconds_total")-node < 0.25 {
		t.Errorf("300 ms of work count as %v s", after-before)
	}
	if memory := read("container_memory_working_set_bytes" + labels); memory < 10<<20 || memory > 512<<20 || read("node_memory_working_set_bytes") < memory {
		t.Errorf("it holds %v bytes", memory)
	}
	var p pod
	get(t, &p, "pod", "tools", "-n", namespace)
	untilParked(t, p.Metadata.UID)
	for _, kind := range []string{"parked", "woken"} {
		if cpu := read("container_cpu_usage_seconds_total" + labels); cpu < after {
			t.Errorf("%s: processor time went back from %v to %v", kind, after, cpu)
		}
		if at := read("container_start_time_seconds" + labels); at != started {
			t.Errorf("%s: it started at %v, not %v", kind, at, started)
		}
		fetch(t, gateway(namespace, "tools", "/say?word=x"))
	}
	var summary struct {
		Node struct{ NodeName string }
		Pods []struct {
			PodRef struct{ Name, Namespace string }
		}
	}
	if err := json.Unmarshal([]byte(kubectl(t, "get", "--raw", "/api/v1/nodes/sanfran/proxy/stats/summary")), &summary); err != nil {
		t.Fatal(err)
	}
	found := false
	for _, p := range summary.Pods {
		found = found || p.PodRef.Namespace == namespace && p.PodRef.Name == "tools"
	}
	if summary.Node.NodeName != "sanfran" || !found {
		t.Errorf("%+v", summary)
	}
}

// untilParked waits until a pod that nobody calls is parked for the first time.
func untilParked(t *testing.T, uid string) {
	t.Helper()
	untilLoggedSince(t, time.Now().Add(-time.Minute), "pod parked", uid)
}

//go:build e2e

package e2e

import (
	"regexp"
	"strings"
	"testing"
	"time"
)

const talkerCode = `
console.log('loading')
exports.say = (req, res) => { console.log('out', req.query.word); console.error('err', req.query.word); res.end() }
exports.big = (req, res) => { console.log('x'.repeat(1_000_000)); res.end() }
exports.fail = () => { throw new Error('on purpose') }
exports.crash = () => { console.log('the last word'); process.exit(3) }
`

// What a function writes is what kubectl logs shows, by every option.
func TestLogs(t *testing.T) {
	namespace := newNamespace(t)
	configMap(t, namespace, "talker", talkerCode)
	runFunction(t, namespace, "talker", "talker")
	waitReady(t, namespace, "talker")
	logs := func(options ...string) string {
		t.Helper()
		return kubectl(t, append([]string{"logs", "-n", namespace, "talker"}, options...)...)
	}
	expect := func(got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	follower := followLogs(t, namespace, "talker")
	follower.until("loading")
	for _, word := range []string{"one", "two"} {
		fetch(t, gateway(namespace, "talker", "/say?word="+word))
		follower.until("err " + word)
	}
	expect(logs(), "loading\nout one\nerr one\nout two\nerr two\n")
	expect(logs("--tail=2"), "out two\nerr two\n")
	expect(logs("--tail=0"), "")
	expect(logs("--limit-bytes=10"), "loading\nou")
	expect(logs("--since=1h", "--tail=1"), "err two\n")
	expect(logs("--since-time="+time.Now().Add(time.Hour).UTC().Format(time.RFC3339)), "")
	stamped := logs("--timestamps", "--tail=1")
	if !regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z err two\n$`).MatchString(stamped) {
		t.Errorf("with a timestamp: %q", stamped)
	}
	// kubectl sends whole seconds.
	at, _, _ := strings.Cut(stamped, " ")
	if got := logs("--since-time=" + at); !strings.HasSuffix(got, "out two\nerr two\n") {
		t.Errorf("since the last line: %q", got)
	}
	if _, err := run(t, "", "kubectl", "logs", "-n", namespace, "talker", "--previous"); err == nil || !strings.Contains(err.Error(), `previous terminated container "talker" in pod "talker" not found`) {
		t.Errorf("previous, without a crash: %v", err)
	}

	fetch(t, gateway(namespace, "talker", "/big"))
	follower.until(strings.Repeat("x", 1_000_000))
	expect(logs("--tail=1"), strings.Repeat("x", 1_000_000)+"\n")
	if status, _ := fetch(t, gateway(namespace, "talker", "/fail")); status != 500 {
		t.Errorf("a function that throws: %d", status)
	}
	follower.until("Error: on purpose")

	fetch(t, gateway(namespace, "talker", "/crash"))
	follower.until("the last word")
	follower.end()
	fetch(t, gateway(namespace, "talker", "/say?word=again"))
	followLogs(t, namespace, "talker").until("err again")
	expect(logs(), "loading\nout again\nerr again\n")
	previous := logs("--previous")
	if !strings.HasPrefix(previous, "loading\nout one\n") || !strings.HasSuffix(previous, "\nthe last word\n") || !strings.Contains(previous, "Error: on purpose\n    at ") {
		t.Errorf("previous: %.200q … %q", previous, previous[max(0, len(previous)-200):])
	}
}

// A log goes on over parking.
func TestLogsGoOnOverParking(t *testing.T) {
	namespace := newNamespace(t)
	configMap(t, namespace, "talker", talkerCode)
	runFunction(t, namespace, "talker", "talker", "--annotations=sanfran.dev/idle-timeout=3s")
	waitReady(t, namespace, "talker")
	follower := followLogs(t, namespace, "talker")
	follower.until("loading")
	fetch(t, gateway(namespace, "talker", "/say?word=one"))
	follower.until("err one")
	var p pod
	get(t, &p, "pod", "talker", "-n", namespace)
	untilLogged(t, "pod parked", p.Metadata.UID)
	fetch(t, gateway(namespace, "talker", "/say?word=two"))
	follower.until("loading") // another container
	follower.until("err two")
}

func TestLogsSayWhyThereAreNone(t *testing.T) {
	namespace := newNamespace(t)
	configMap(t, namespace, "broken", "console.log('before')\nthrow new Error('does not load')")
	runFunction(t, namespace, "broken", "broken")
	kubectl(t, "wait", "-n", namespace, "--for=jsonpath={.status.containerStatuses[0].state.waiting.reason}=CrashLoopBackOff", "pod/broken", "--timeout=60s")
	if got := kubectl(t, "logs", "-n", namespace, "broken"); !strings.HasPrefix(got, "before\n") || !strings.Contains(got, "Error: does not load\n    at ") {
		t.Errorf("of a function that does not load: %q", got)
	}
	runFunction(t, namespace, "waits", "no-such-configmap")
	kubectl(t, "wait", "-n", namespace, "--for=jsonpath={.status.containerStatuses[0].state.waiting.reason}", "pod/waits", "--timeout=60s")
	if _, err := run(t, "", "kubectl", "logs", "-n", namespace, "waits"); err == nil || !strings.Contains(err.Error(), `container "waits" in pod "waits" is waiting to start`) {
		t.Errorf("of a pod that waits: %v", err)
	}
}

// logLines is a kubectl logs --follow.
type logLines struct {
	t     *testing.T
	begun time.Time
	lines
}

func followLogs(t *testing.T, namespace, pod string) logLines {
	t.Helper()
	return logLines{t, time.Now(), follow(t, "kubectl", "logs", "-n", namespace, pod, "--follow")}
}

// until waits for a line.
func (l logLines) until(want string) {
	l.t.Helper()
	for line := range l.ch {
		if line == want {
			return
		}
	}
	l.t.Fatalf("the log ended, or nothing more came, without %.100q", want)
}

// end waits for the end of the log.
func (l logLines) end() {
	l.t.Helper()
	for range l.ch {
	}
	if time.Since(l.begun) >= patience { // it was ended
		l.t.Fatal("the log does not end with its container")
	}
}

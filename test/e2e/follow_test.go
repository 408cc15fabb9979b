//go:build e2e

package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// lines is the standard output of a command that goes on, such as a watch.
type lines struct {
	ch chan string
}

// follow starts a command that prints a line whenever something happens; it is
// ended with the test, or when patience runs out.
func follow(t *testing.T, name string, args ...string) lines {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	cmd := exec.CommandContext(ctx, name, args...)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	l := lines{ch: make(chan string)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer close(l.ch)
		scanner := bufio.NewScanner(stdout)
		scanner.Buffer(nil, 1<<20)
		for scanner.Scan() {
			select {
			case l.ch <- scanner.Text():
			case <-ctx.Done():
			}
		}
		_ = cmd.Wait() // it was killed, or its end is the end of the lines
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return l
}

// next waits for a line; it reports false when there will be none.
func (l lines) next() bool {
	_, ok := <-l.ch
	return ok
}

// until waits for a line that is as wanted and holds all the words.
func (l lines) until(t *testing.T, wanted func(line string) bool, words ...string) {
	t.Helper()
	for line := range l.ch {
		found := wanted(line)
		for _, word := range words {
			found = found && strings.Contains(line, word)
		}
		if found {
			return
		}
	}
	t.Fatalf("no line with %q came", words)
}

// watchEvents prints a line for each event of a pod from now on.
func watchEvents(t *testing.T, namespace, pod string) lines {
	t.Helper()
	return follow(t, "kubectl", "get", "events", "-n", namespace, "--watch", "--field-selector=involvedObject.name="+pod, "-o", "name")
}

// untilLogged waits until an agent logs a line with all the words, from now on.
// kubectl's --since-time knows whole seconds only, so the lines' own time
// decides.
func untilLogged(t *testing.T, words ...string) {
	t.Helper()
	untilLoggedSince(t, time.Now(), words...)
}

// untilLoggedSince is untilLogged for a line that may have been logged already.
func untilLoggedSince(t *testing.T, now time.Time, words ...string) {
	t.Helper()
	log := follow(t, "kubectl", "logs", "-n", release, "-f", "--since-time="+now.UTC().Format(time.RFC3339), "-l", "app.kubernetes.io/component=agent", "--max-log-requests=20")
	log.until(t, func(line string) bool {
		var entry struct{ Time time.Time }
		return json.Unmarshal([]byte(line), &entry) == nil && entry.Time.After(now)
	}, words...)
}

package workerconn

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// peer is a scripted worker.
type peer struct {
	t    *testing.T
	sock net.Conn
	in   *bufio.Reader
}

func connect(t *testing.T, onActivity func(Activity)) (*Conn, *peer) {
	t.Helper()
	c, theirs, err := Pair(onActivity)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	sock, err := net.FileConn(theirs)
	theirs.Close()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sock.Close() })
	return c, &peer{t: t, sock: sock, in: bufio.NewReader(sock)}
}

func (p *peer) say(lines ...string) {
	p.t.Helper()
	for _, line := range lines {
		if _, err := io.WriteString(p.sock, line+"\n"); err != nil {
			p.t.Errorf("the peer writes %.60q: %v", line, err)
		}
	}
}

func (p *peer) hear() map[string]any {
	p.t.Helper()
	line, err := p.in.ReadString('\n')
	if err != nil {
		p.t.Errorf("the peer reads: %v", err)
		return nil
	}
	var m map[string]any
	if err := json.Unmarshal([]byte(line), &m); err != nil {
		p.t.Errorf("the peer reads %q: %v", line, err)
	}
	return m
}

func TestWholeLife(t *testing.T) {
	reports := make(chan Activity, 10)
	c, p := connect(t, func(a Activity) { reports <- a })
	go func() {
		p.say(`{"type":"warm"}`)
		want := map[string]any{
			"type": "activate", "lease": "l", "nonce": "n", "namespace": "ns", "function": "hello", "pod": "hello-0", "revision": "r",
			"entry": "/function", "podAddress": "10.245.3.7", "port": 8080.0, "hostname": "hello", "env": map[string]any{"K": "V"}, "loadTimeoutMs": 10000.0,
		}
		if diff := cmp.Diff(want, p.hear()); diff != "" {
			p.t.Errorf("activate (-want +got):\n%s", diff)
		}
		p.say(`{"type":"ready","loadMs":1.5}`, `{"type":"activity","inFlight":2,"direct":1,"delayMs":40}`)
		if diff := cmp.Diff(map[string]any{"type": "ping"}, p.hear()); diff != "" {
			p.t.Errorf("ping (-want +got):\n%s", diff)
		}
		p.say(`{"type":"activity","inFlight":0,"direct":0}`)
		if diff := cmp.Diff(map[string]any{"type": "drain", "graceMs": 30000.0}, p.hear()); diff != "" {
			p.t.Errorf("drain (-want +got):\n%s", diff)
		}
		p.say(`{"type":"drained","sigterm":true}`)
		if diff := cmp.Diff(map[string]any{"type": "terminate"}, p.hear()); diff != "" {
			p.t.Errorf("terminate (-want +got):\n%s", diff)
		}
		p.say(`{"type":"ending","reason":"UncaughtException","message":"Error: late","stack":"at x"}`)
		p.sock.Close()
	}()
	if err := c.WaitWarm(t.Context()); err != nil {
		t.Fatal(err)
	}
	load, err := c.Activate(t.Context(), Activation{
		Lease: "l", Nonce: "n", Namespace: "ns", Function: "hello", Pod: "hello-0", Revision: "r", Entry: "/function",
		PodAddress: "10.245.3.7", Port: 8080, Hostname: "hello", Env: map[string]string{"K": "V"}, LoadTimeout: 10 * time.Second,
	})
	if err != nil || load != 1500*time.Microsecond {
		t.Fatalf("activate: %v, %v", load, err)
	}
	if a := <-reports; a != (Activity{InFlight: 2, Direct: 1, LoopDelay: 40 * time.Millisecond}) || !a.Busy() {
		t.Errorf("first report: %+v", a)
	}
	pinged := time.Now()
	if err := c.Ping(); err != nil {
		t.Fatal(err)
	}
	if a := <-reports; a != (Activity{}) || c.Activity() != a {
		t.Errorf("second report: %+v, kept %+v", a, c.Activity())
	}
	if c.Heard().Before(pinged) {
		t.Errorf("heard last at %v, pinged at %v", c.Heard(), pinged)
	}
	if sigterm, err := c.Drain(t.Context(), 30*time.Second, false); err != nil || !sigterm {
		t.Fatalf("drain: %v, %v", sigterm, err)
	}
	if err := c.Terminate(); err != nil {
		t.Fatal(err)
	}
	<-c.Done()
	if diff := cmp.Diff(&Ending{"UncaughtException", "Error: late", "at x"}, c.Ending()); diff != "" {
		t.Error(diff)
	}
}

func TestALastWordIsMadeFitToShow(t *testing.T) {
	c, p := connect(t, nil)
	go func() {
		p.say(`{"type":"warm"}`)
		p.hear()
		p.say(`{"type":"ready"}`, `{"type":"ending","reason":"OOMKilled","message":"a\nb"}`)
		p.sock.Close()
	}()
	if err := c.WaitWarm(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Activate(t.Context(), Activation{}); err != nil {
		t.Fatal(err)
	}
	<-c.Done()
	if diff := cmp.Diff(&Ending{"Exited", "a b", ""}, c.Ending()); diff != "" {
		t.Error(diff)
	}
}

func TestLoadFailureIsMadeFitToShow(t *testing.T) {
	for name, tc := range map[string]struct {
		line string
		want LoadError
	}{
		"as it is": {`{"type":"failed","reason":"SyntaxError","message":"index.js:3: bad","stack":"at x\nat y"}`, LoadError{"SyntaxError", "index.js:3: bad", "at x\nat y"}},
		"bad word": {`{"type":"failed","reason":"no word","message":"a\nb\u0007c"}`, LoadError{"LoadError", "a b c", ""}},
		"invented": {`{"type":"failed","reason":"BundleRefused","message":"a"}`, LoadError{"LoadError", "a", ""}},
		"empty":    {`{"type":"failed"}`, LoadError{"LoadError", "the worker gave no message", ""}},
		"too long": {fmt.Sprintf(`{"type":"failed","reason":"%s","message":"%s"}`, strings.Repeat("A", 65), strings.Repeat("é", 4000)), LoadError{"LoadError", strings.Repeat("é", maxMessage/2), ""}},
	} {
		t.Run(name, func(t *testing.T) {
			c, p := connect(t, nil)
			p.say(`{"type":"warm"}`)
			if err := c.WaitWarm(t.Context()); err != nil {
				t.Fatal(err)
			}
			go func() {
				p.hear()
				p.say(tc.line)
			}()
			_, err := c.Activate(t.Context(), Activation{})
			var got *LoadError
			if !errors.As(err, &got) {
				t.Fatalf("got %v, want a LoadError", err)
			}
			if diff := cmp.Diff(tc.want, *got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestHostilePeersEndTheConnection(t *testing.T) {
	for name, lines := range map[string][]string{
		"garbage":             {"\x00\xff garbage"},
		"unknown type":        {`{"type":"warm"}`, `{"type":"format-disk"}`},
		"no type":             {`{}`},
		"warm twice":          {`{"type":"warm"}`, `{"type":"warm"}`},
		"ready unasked":       {`{"type":"warm"}`, `{"type":"ready"}`},
		"drained unasked":     {`{"type":"warm"}`, `{"type":"drained"}`},
		"activity unasked":    {`{"type":"activity","inFlight":1}`},
		"wrong field type":    {`{"type":["warm"]}`},
		"negative count":      {`{"type":"activity","inFlight":-1}`},
		"negative delay":      {`{"type":"warm"}`, `{"type":"activity","delayMs":-1}`},
		"huge delay":          {`{"type":"warm"}`, `{"type":"activity","delayMs":1e300}`},
		"ending unasked":      {`{"type":"warm"}`, `{"type":"ending","reason":"Exited"}`},
		"huge count":          {`{"type":"activity","direct":99999999999999}`},
		"line without an end": {strings.Repeat("x", maxLine+1)},
		"deep nesting":        {strings.Repeat("[", 200_000)},
	} {
		t.Run(name, func(t *testing.T) {
			c, p := connect(t, nil)
			go func() {
				for _, line := range lines {
					// The agent's end may be closed before all is said.
					_, _ = io.WriteString(p.sock, line+"\n")
				}
			}()
			<-c.Done()
			if err := c.Err(); !errors.Is(err, ErrProtocol) {
				t.Errorf("ended with %v, want ErrProtocol", err)
			}
		})
	}
}

func TestFloodEndsTheConnection(t *testing.T) {
	c, p := connect(t, nil)
	p.say(`{"type":"warm"}`)
	if err := c.WaitWarm(t.Context()); err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			if _, err := io.WriteString(p.sock, `{"type":"activity"}`+"\n"); err != nil {
				return
			}
		}
	}()
	<-c.Done()
	if err := c.Err(); !errors.Is(err, ErrProtocol) {
		t.Errorf("ended with %v, want ErrProtocol", err)
	}
}

func TestAllowance(t *testing.T) {
	now := time.Now()
	a := &allowance{tokens: 2, burst: 2, perSecond: 10, last: now}
	got := []bool{a.take(now), a.take(now), a.take(now), a.take(now.Add(100 * time.Millisecond)), a.take(now.Add(100 * time.Millisecond))}
	if diff := cmp.Diff([]bool{true, true, false, true, false}, got); diff != "" {
		t.Error(diff)
	}
}

func TestWaitsEndWithTheWorker(t *testing.T) {
	c, p := connect(t, nil)
	p.say(`{"type":"warm"}`)
	if err := c.WaitWarm(t.Context()); err != nil {
		t.Fatal(err)
	}
	go func() {
		p.hear()
		p.sock.Close()
	}()
	if _, err := c.Activate(t.Context(), Activation{}); !errors.Is(err, io.EOF) {
		t.Errorf("activate: %v, want io.EOF", err)
	}
	if _, err := c.Drain(t.Context(), time.Second, false); !errors.Is(err, io.EOF) {
		t.Errorf("drain: %v, want io.EOF", err)
	}
}

func TestWaitsEndWithTheContext(t *testing.T) {
	c, _ := connect(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.WaitWarm(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want context.Canceled", err)
	}
}

func TestOutOfOrderCallsAreErrors(t *testing.T) {
	c, _ := connect(t, nil)
	if _, err := c.Activate(t.Context(), Activation{}); err == nil {
		t.Error("activated a worker that was not warm")
	}
	if _, err := c.Drain(t.Context(), time.Second, false); err == nil {
		t.Error("drained a worker that was not active")
	}
	if err := c.Terminate(); err == nil {
		t.Error("terminated a worker that was not drained")
	}
}

func TestAWorkerThatDoesNotReadIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		defer theirs.Close()
		c := New(ours, nil)
		defer c.Close()
		if _, err := io.WriteString(theirs, "{\"type\":\"warm\"}\n"); err != nil {
			t.Fatal(err)
		}
		if err := c.WaitWarm(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Activate(t.Context(), Activation{}); err == nil {
			t.Error("an unread message counts as delivered")
		}
		<-c.Done()
	})
}

func TestTooLargeActivationIsRefusedBeforeItIsSent(t *testing.T) {
	c, p := connect(t, nil)
	p.say(`{"type":"warm"}`)
	if err := c.WaitWarm(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, err := c.Activate(t.Context(), Activation{Env: map[string]string{"A": strings.Repeat("x", maxLine)}})
	if err == nil || !strings.Contains(err.Error(), "environment") {
		t.Errorf("got %v", err)
	}
}

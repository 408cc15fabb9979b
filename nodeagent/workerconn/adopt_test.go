package workerconn

import (
	"bufio"
	"errors"
	"io"
	"net"
	"testing"
	"time"
)

// takeOver is a conversation that began before: the worker has said what comes
// first on the socket.
func takeOver(t *testing.T, known Adopted, said string, onActivity func(Activity)) (*Conn, *peer) {
	t.Helper()
	c, p := connect(t, nil)
	c.Close()
	p.sock.Close()
	ours, theirs := net.Pipe()
	c = Adopt(ours, known, onActivity)
	t.Cleanup(c.Close)
	t.Cleanup(func() { theirs.Close() })
	p = &peer{t: t, sock: theirs, in: bufio.NewReader(theirs)}
	if _, err := io.WriteString(theirs, said); err != nil {
		t.Fatal(err)
	}
	return c, p
}

func TestAnAdoptedWorkerThatIsWarmIsActivated(t *testing.T) {
	c, p := takeOver(t, Adopted{CompileCache: "v24"}, "", nil)
	if err := c.WaitWarm(t.Context()); err != nil || c.CompileCache() != "v24" {
		t.Fatalf("%v, %q", err, c.CompileCache())
	}
	go func() {
		p.hear()
		p.say(`{"type":"ready","kind":"server"}`)
	}()
	if _, err := c.Activate(t.Context(), Activation{}); err != nil || !c.Server() {
		t.Fatalf("%v, a server: %v", err, c.Server())
	}
}

func TestHalfALineIsLetPassOnceAndAfterAdoptionAlone(t *testing.T) {
	reports := make(chan Activity, 10)
	c, p := takeOver(t, Adopted{Ready: true}, "ht\":2,\"direct\":0}\n{\"type\":\"activity\",\"inFlight\":3}\n", func(a Activity) { reports <- a })
	if a := <-reports; a.InFlight != 3 {
		t.Errorf("after half a line: %+v", a)
	}
	p.say(`ght":2,"direct":0}`)
	<-c.Done()
	if err := c.Err(); !errors.Is(err, ErrProtocol) {
		t.Errorf("ended with %v, want ErrProtocol", err)
	}
}

func TestAnswersToTheProcessBeforeAreLetPass(t *testing.T) {
	reports := make(chan Activity, 1)
	c, p := takeOver(t, Adopted{Ready: true, Server: true}, "{\"type\":\"drained\",\"sigterm\":false}\n{\"type\":\"compiled\"}\n{\"type\":\"activity\"}\n",
		func(a Activity) { reports <- a })
	<-reports
	go func() {
		p.hear()
		p.say(`{"type":"drained","sigterm":true}`, `{"type":"drained","sigterm":true}`)
		p.hear()
		p.sock.Close()
	}()
	if sigterm, err := c.Drain(t.Context(), time.Second, false); err != nil || !sigterm || !c.Server() {
		t.Fatalf("drain: %v, %v", sigterm, err)
	}
	if err := c.Terminate(); err != nil {
		t.Fatal(err)
	}
	<-c.Done()
	if err := c.Err(); !errors.Is(err, io.EOF) {
		t.Errorf("ended with %v, want io.EOF", err)
	}
}

func TestAnAdoptedWorkerKeepsToTheRest(t *testing.T) {
	for name, tc := range map[string]struct {
		known Adopted
		line  string
	}{
		"ready twice":     {Adopted{Ready: true}, `{"type":"ready"}`},
		"warm twice":      {Adopted{}, `{"type":"warm"}`},
		"drained, unused": {Adopted{}, `{"type":"drained"}`},
	} {
		t.Run(name, func(t *testing.T) {
			c, _ := takeOver(t, tc.known, tc.line+"\n", nil)
			<-c.Done()
			if err := c.Err(); !errors.Is(err, ErrProtocol) {
				t.Errorf("ended with %v, want ErrProtocol", err)
			}
		})
	}
}

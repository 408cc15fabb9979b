package nodeagent

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"sanfran.dev/nodeagent/container"
	"sanfran.dev/nodeagent/container/containertest"
	agentv1 "sanfran.dev/proto/sanfran/agent/v1"
	streamsv1 "sanfran.dev/proto/sanfran/streams/v1"
)

// runFake is a program in a fake container, by its name.
func runFake(ctx context.Context, e *containertest.Exec) container.ExitStatus {
	stop := context.AfterFunc(ctx, func() {
		for _, f := range []*os.File{e.Stdin, e.Stdout, e.Stderr} {
			if f != nil {
				f.Close()
			}
		}
	})
	defer stop()
	switch e.Program.Args[0] {
	case "show":
		fmt.Fprintf(e.Stdout, "%q in %s with %q", e.Program.Args, e.Program.Dir, e.Program.Env)
		fmt.Fprint(e.Stderr, "an error")
		return container.ExitStatus{Code: 3}
	case "cat":
		_, _ = io.Copy(e.Stdout, e.Stdin)
	case "flood":
		for _, err := e.Stdout.Write(make([]byte, 64<<10)); err == nil; _, err = e.Stdout.Write(make([]byte, 64<<10)) {
		}
	case "greet": // by a terminal
		line, _ := bufio.NewReader(e.Stdin).ReadString('\n')
		fmt.Fprint(e.Stdout, "hello ", line)
	default:
		<-ctx.Done()
	}
	return container.ExitStatus{}
}

func startProgramAgent(t *testing.T, adapt func(*testAgent, *Config)) (*testAgent, *agentv1.Assignment) {
	t.Helper()
	ta := startTestAgent(t, func(ta *testAgent, cfg *Config) {
		ta.runtime.Exec = runFake
		if adapt != nil {
			adapt(ta, cfg)
		}
	})
	spec := assignment("hello", "10.245.0.1", ta.cp.bundle(nil))
	spec.Env = []*agentv1.EnvVar{{Name: "GREETING", Value: "moin"}}
	spec.IdleTimeout = durationpb.New(10 * time.Millisecond)
	ta.assigned(spec, agentv1.PodState_POD_STATE_PARKED)
	return ta, spec
}

// conversation is the control plane's end of a stream.
type conversation struct {
	t      *testing.T
	stream streamsv1.StreamService_AnswerServer
	// plain: what is said has no window.
	plain bool
}

func (ta *testAgent) converse(want *streamsv1.AnswerResponse) *conversation {
	ta.t.Helper()
	c := &conversation{ta.t, ta.wanted(want), want.GetAttach() != nil}
	if m, err := c.stream.Recv(); err != nil || m.GetOpened() == nil {
		ta.t.Fatalf("the stream begins with %v, %v", m, err)
	}
	return c
}

func (ta *testAgent) run(uid string, e *streamsv1.Exec) *conversation {
	ta.t.Helper()
	e.PodUid = uid
	return ta.converse(&streamsv1.AnswerResponse{Message: &streamsv1.AnswerResponse_Exec{Exec: e}})
}

func (c *conversation) send(m *streamsv1.AnswerResponse) {
	c.t.Helper()
	if err := c.stream.Send(m); err != nil {
		c.t.Fatal(err)
	}
}

func (c *conversation) data(s string) {
	c.send(&streamsv1.AnswerResponse{Message: &streamsv1.AnswerResponse_Data{Data: []byte(s)}})
}

func (c *conversation) end() {
	c.send(&streamsv1.AnswerResponse{Message: &streamsv1.AnswerResponse_EndOfData{EndOfData: &streamsv1.EndOfData{}}})
}

// heard is all that the agent says until the end.
type heard struct {
	out, errors string
	taken       int
	code        int32
	exited, end bool
	failure     *streamsv1.Failure
}

// listen hears the agent out, and takes all of it. until may end it earlier.
func (c *conversation) listen(until func(heard) bool) (h heard) {
	c.t.Helper()
	for !until(h) {
		m, err := c.stream.Recv()
		if errors.Is(err, io.EOF) {
			return h
		}
		if err != nil {
			c.t.Fatal(err)
		}
		taken := &streamsv1.Taken{}
		switch m := m.GetMessage().(type) {
		case *streamsv1.AnswerRequest_Data:
			h.out += string(m.Data)
			taken.Data = uint32(len(m.Data))
		case *streamsv1.AnswerRequest_ErrorData:
			h.errors += string(m.ErrorData)
			taken.ErrorData = uint32(len(m.ErrorData))
		case *streamsv1.AnswerRequest_Taken:
			h.taken += int(m.Taken.GetData())
			continue
		case *streamsv1.AnswerRequest_Exited:
			h.exited, h.code = true, m.Exited.GetCode()
			continue
		case *streamsv1.AnswerRequest_EndOfData:
			h.end = true
			continue
		case *streamsv1.AnswerRequest_Failure:
			h.failure = m.Failure
			continue
		}
		if !c.plain {
			c.send(&streamsv1.AnswerResponse{Message: &streamsv1.AnswerResponse_Taken{Taken: taken}})
		}
	}
	return h
}

func toTheEnd(heard) bool { return false }

// A parked pod is activated for a program, which finds what its function does, and
// is parked again when it has ended.
func TestAProgramRunsInThePodsContainer(t *testing.T) {
	ta, spec := startProgramAgent(t, nil)
	h := ta.run(spec.GetPodUid(), &streamsv1.Exec{Command: []string{"show", "x"}, Stdout: true, Stderr: true}).listen(toTheEnd)
	want := `["show" "x"] in /function with ["GREETING=moin" "HOME=/tmp" "HOSTNAME=hello" "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]`
	if h.out != want || h.errors != "an error" || !h.exited || h.code != 3 || h.failure != nil {
		t.Errorf("%+v\nwant %s", h, want)
	}
	ta.cp.waitState(spec, agentv1.PodState_POD_STATE_PARKED)
	// What is not wanted is dropped.
	h = ta.run(spec.GetPodUid(), &streamsv1.Exec{Command: []string{"show"}, Stderr: true}).listen(toTheEnd)
	if h.out != "" || h.errors != "an error" {
		t.Errorf("%+v", h)
	}
}

func TestInputReachesAProgram(t *testing.T) {
	ta, spec := startProgramAgent(t, nil)
	c := ta.run(spec.GetPodUid(), &streamsv1.Exec{Command: []string{"cat"}, Stdin: true, Stdout: true})
	sent := strings.Repeat("0123456789", 5000)
	c.data(sent)
	c.data(sent)
	c.end()
	if h := c.listen(toTheEnd); h.out != sent+sent || !h.exited || h.code != 0 {
		t.Errorf("%d bytes of %d, %+v", len(h.out), 2*len(sent), h.failure)
	}
}

func TestAProgramWithATerminal(t *testing.T) {
	ta, spec := startProgramAgent(t, nil)
	c := ta.run(spec.GetPodUid(), &streamsv1.Exec{Command: []string{"greet"}, Stdin: true, Stdout: true, Terminal: true})
	c.send(&streamsv1.AnswerResponse{Message: &streamsv1.AnswerResponse_TerminalSize{TerminalSize: &streamsv1.TerminalSize{Columns: 100, Rows: 1 << 20}}})
	c.data("Vik\n")
	if h := c.listen(toTheEnd); h.out != "Vik\r\nhello Vik\r\n" || !h.exited {
		t.Errorf("%+v", h)
	}
}

// A program keeps its pod active, without being a request, and ends with its caller,
// also when it neither reads nor writes.
func TestAProgramEndsWithItsCaller(t *testing.T) {
	ta, spec := startProgramAgent(t, nil)
	for name, program := range map[string]string{"idle": "sleep", "with output that nobody takes": "flood"} {
		c := ta.run(spec.GetPodUid(), &streamsv1.Exec{Command: []string{program}, Stdin: true, Stdout: true})
		c.data(strings.Repeat("x", 100_000)) // nor this
		p := ta.pods.get(spec.GetPodUid())
		p.mu.Lock()
		inst := p.current
		p.mu.Unlock()
		if inst == nil || inst.usage.idleFor(time.Now()) >= 0 || inst.usage.inFlight() {
			t.Fatalf("%s: the program does not hold its container, or counts as a request", name)
		}
		ta.cp.waitState(spec, agentv1.PodState_POD_STATE_ACTIVE)
		ta.cp.endStreams()
		ta.cp.waitState(spec, agentv1.PodState_POD_STATE_PARKED)
	}
}

func TestWhereNoProgramRunsTheAnswerSaysWhy(t *testing.T) {
	ta, spec := startProgramAgent(t, nil)
	ta.workers.setBroken("broken", true)
	broken := assignment("broken", "10.245.0.2", ta.cp.bundle(map[string]string{"a": "b"}))
	ta.assigned(broken, agentv1.PodState_POD_STATE_FAILED)
	for _, c := range []struct {
		uid, program string
		reason       streamsv1.FailureReason
		message      string
	}{
		{"nobody's", "show", streamsv1.FailureReason_FAILURE_REASON_NO_POD, "node-a"},
		{broken.GetPodUid(), "show", streamsv1.FailureReason_FAILURE_REASON_NO_CONTAINER, "SyntaxError: index.js:1"},
		{spec.GetPodUid(), "", streamsv1.FailureReason_FAILURE_REASON_REFUSED, "name"},
	} {
		e := &streamsv1.Exec{PodUid: c.uid, Command: []string{c.program}}
		if _, failure := rest(t, ta.wanted(&streamsv1.AnswerResponse{Message: &streamsv1.AnswerResponse_Exec{Exec: e}})); failure.GetReason() != c.reason || !strings.Contains(failure.GetMessage(), c.message) {
			t.Errorf("%q of %s: %v, want %v with %q", c.program, c.uid, failure, c.reason, c.message)
		}
	}
	// One that breaks the rules is ended.
	s := ta.run(spec.GetPodUid(), &streamsv1.Exec{Command: []string{"sleep"}, Stdin: true})
	ta.cp.waitState(spec, agentv1.PodState_POD_STATE_ACTIVE)
	for range 20 {
		_ = s.stream.Send(&streamsv1.AnswerResponse{Message: &streamsv1.AnswerResponse_Data{Data: make([]byte, 32<<10)}})
	}
	ta.cp.waitState(spec, agentv1.PodState_POD_STATE_PARKED)
}

func TestAttachFollowsFromNowOn(t *testing.T) {
	ta, spec := startProgramAgent(t, nil)
	wantAnswer(t, ta.viaData(t.Context(), spec, "/print?text=before%0A"), 200, "default/hello")
	readLogUntil(t, ta.pods.get(spec.GetPodUid()), "before\n")
	ta.cp.waitState(spec, agentv1.PodState_POD_STATE_PARKED)
	c := ta.converse(&streamsv1.AnswerResponse{Message: &streamsv1.AnswerResponse_Attach{Attach: &streamsv1.Attach{PodUid: spec.GetPodUid(), Stdout: true}}})
	ta.cp.waitState(spec, agentv1.PodState_POD_STATE_ACTIVE)
	wantAnswer(t, ta.viaData(t.Context(), spec, "/print?text=after%0A"), 200, "default/hello")
	if h := c.listen(func(h heard) bool { return h.out != "" }); h.out != "after\n" {
		t.Errorf("%+v", h)
	}
	ta.viaData(t.Context(), spec, "/die")
	if h := c.listen(toTheEnd); h.out != "" || h.failure != nil {
		t.Errorf("after the container's end: %+v", h)
	}
}

func TestForwardJoinsAPort(t *testing.T) {
	listener := listenLocal(t)
	var serving sync.WaitGroup
	defer serving.Wait()
	defer listener.Close()
	serving.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			serving.Go(func() { // answers when it has heard all
				defer conn.Close()
				all, err := io.ReadAll(conn)
				if err == nil {
					fmt.Fprintf(conn, "heard %d bytes", len(all))
				}
			})
		}
	})
	var mu sync.Mutex
	var dialed []string
	ta, spec := startProgramAgent(t, nil)
	dial := func(ctx context.Context, what string) (net.Conn, error) {
		mu.Lock()
		defer mu.Unlock()
		dialed = append(dialed, what)
		return new(net.Dialer).DialContext(ctx, "tcp", listener.Addr().String())
	}
	ta.dialAddress = func(ctx context.Context, _, address string) (net.Conn, error) { return dial(ctx, address) }
	ta.dialInside = func(ctx context.Context, _ string, port uint16) (net.Conn, error) {
		if port == 9 {
			return new(net.Dialer).DialContext(ctx, "tcp", "127.0.0.1:1")
		}
		return dial(ctx, fmt.Sprint("inside ", port))
	}
	forward := func(port uint32) *streamsv1.AnswerResponse {
		return &streamsv1.AnswerResponse{Message: &streamsv1.AnswerResponse_Forward{Forward: &streamsv1.Forward{PodUid: spec.GetPodUid(), Port: port}}}
	}
	for _, port := range []uint32{8080, 9229} {
		c := ta.converse(forward(port))
		c.data(string(bytes.Repeat([]byte{1}, 30_000)))
		c.end()
		if h := c.listen(toTheEnd); h.out != "heard 30000 bytes" || !h.end || h.failure != nil {
			t.Errorf("port %d: %+v", port, h)
		}
	}
	if want := []string{"10.245.0.1:8080", "inside 9229"}; !slices.Equal(dialed, want) {
		t.Errorf("dialed %q, want %q", dialed, want)
	}
	for port, why := range map[uint32]string{9: "nothing listens on port 9", 0: "no TCP port", 1 << 16: "no TCP port"} {
		if _, failure := rest(t, ta.wanted(forward(port))); failure.GetReason() != streamsv1.FailureReason_FAILURE_REASON_REFUSED || !strings.Contains(failure.GetMessage(), why) {
			t.Errorf("port %d: %v", port, failure)
		}
	}
	// A caller that goes ends the connection.
	c := ta.converse(forward(9229))
	c.data("x")
	ta.cp.waitState(spec, agentv1.PodState_POD_STATE_ACTIVE)
	ta.cp.endStreams()
	ta.cp.waitState(spec, agentv1.PodState_POD_STATE_PARKED)
}

// What a pod uses only grows, over parking, and a parked one uses more than nothing.
func TestUsageGrowsOverParking(t *testing.T) {
	var mu sync.Mutex
	used := map[string]container.Usage{}
	ta, spec := startProgramAgent(t, func(ta *testAgent, _ *Config) {
		ta.runtime.OnUsage = func(id string) container.Usage {
			mu.Lock()
			defer mu.Unlock()
			u := used[id]
			u.CPU += 100 * time.Millisecond // of its boot, which is nobody's
			return u
		}
	})
	ta.measureNode = func() (container.Usage, error) {
		return container.Usage{CPU: 5 * time.Second, WorkingSet: 1 << 30}, nil
	}
	measure := func() (*streamsv1.NodeUsage, *streamsv1.PodUsage) {
		t.Helper()
		c := ta.converse(&streamsv1.AnswerResponse{Message: &streamsv1.AnswerResponse_Measure{Measure: &streamsv1.Measure{}}})
		var node *streamsv1.NodeUsage
		var pods []*streamsv1.PodUsage
		for {
			m, err := c.stream.Recv()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil || m.GetUsage().GetAt() == nil {
				t.Fatalf("%v, %v", m, err)
			}
			if m.GetUsage().GetNode() != nil {
				node = m.GetUsage().GetNode()
			}
			pods = append(pods, m.GetUsage().GetPods()...)
		}
		if len(pods) != 1 || pods[0].GetPodUid() != spec.GetPodUid() || pods[0].GetStartedAt() == nil {
			t.Fatalf("%v", pods)
		}
		return node, pods[0]
	}
	node, parked := measure()
	if node.GetCpuNanoseconds() != 5e9 || node.GetMemoryBytes() != 1<<30 {
		t.Errorf("of the node: %v", node)
	}
	if parked.GetCpuNanoseconds() != uint64(leastCPU) || parked.GetMemoryBytes() != leastMemory {
		t.Errorf("parked from the beginning: %v", parked)
	}
	for i := range 3 {
		ta.run(spec.GetPodUid(), &streamsv1.Exec{Command: []string{"sleep"}})
		p := ta.pods.get(spec.GetPodUid())
		p.mu.Lock()
		id := p.current.warm.container.ID()
		p.mu.Unlock()
		mu.Lock()
		used[id] = container.Usage{CPU: time.Second, WorkingSet: 50 << 20}
		mu.Unlock()
		if _, got := measure(); got.GetCpuNanoseconds() != uint64(leastCPU+time.Duration(i+1)*time.Second) || got.GetMemoryBytes() < 50<<20 { // those that end count, too

			t.Errorf("active %d: %v", i, got)
		}
		ta.cp.waitState(spec, agentv1.PodState_POD_STATE_ACTIVE)
		ta.cp.endStreams()
		ta.cp.waitState(spec, agentv1.PodState_POD_STATE_PARKED)
	}
	for end := time.Now().Add(patience); ; { // until the last container is gone
		_, got := measure()
		if got.GetCpuNanoseconds() != uint64(leastCPU+3*time.Second) || time.Now().After(end) {
			t.Fatalf("parked at last: %v", got)
		}
		if got.GetMemoryBytes() == leastMemory {
			break
		}
		ta.cp.endStreams() // an agent answers so many at a time
	}
}

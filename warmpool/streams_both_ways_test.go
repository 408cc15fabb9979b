package warmpool

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"sanfran.dev/internal/flow"
	"sanfran.dev/internal/identity"
	agentv1 "sanfran.dev/proto/sanfran/agent/v1"
	streamsv1 "sanfran.dev/proto/sanfran/streams/v1"
)

func errorData(s string) *streamsv1.AnswerRequest {
	return &streamsv1.AnswerRequest{Message: &streamsv1.AnswerRequest_ErrorData{ErrorData: []byte(s)}}
}

func exited(code int32) *streamsv1.AnswerRequest {
	return &streamsv1.AnswerRequest{Message: &streamsv1.AnswerRequest_Exited{Exited: &streamsv1.Exited{Code: code}}}
}

func takenByAgent(n int) *streamsv1.AnswerRequest {
	return &streamsv1.AnswerRequest{Message: &streamsv1.AnswerRequest_Taken{Taken: &streamsv1.Taken{Data: uint32(n)}}}
}

type execResult struct {
	code int
	err  error
}

// exec runs a program in the pod "a" and returns the agent's end.
func (a *dialedAgent) exec(t *testing.T, ctx context.Context, want *streamsv1.Exec, stdin io.Reader, stdout, stderr io.Writer, sizes <-chan *streamsv1.TerminalSize) (streamsv1.StreamService_AnswerClient, <-chan execResult) {
	t.Helper()
	want.PodUid = "a"
	result := make(chan execResult, 1)
	go func() {
		code, err := a.r.pool.Exec(ctx, want, stdin, stdout, stderr, sizes)
		result <- execResult{code, err}
	}()
	stream := answerOver(t, a.conn, a.dialed(t))
	if m, err := stream.Recv(); err != nil || m.GetExec().GetPodUid() != "a" {
		t.Fatalf("asked for %v, %v", m, err)
	}
	tell(t, stream, opened)
	return stream, result
}

// heard is what the control plane says until done.
func heard(t *testing.T, stream streamsv1.StreamService_AnswerClient, done func(*streamsv1.AnswerResponse) bool) {
	t.Helper()
	for {
		m, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if done(m) {
			return
		}
	}
}

func TestAProgramIsRunBothWays(t *testing.T) {
	a := startDialedAgent(t)
	sent := strings.Repeat("0123456789", 50_000)
	var stdout, stderr bytes.Buffer
	sizes := make(chan *streamsv1.TerminalSize, 1)
	sizes <- &streamsv1.TerminalSize{Columns: 80, Rows: 24}
	stream, result := a.exec(t, t.Context(), &streamsv1.Exec{Stdin: true, Stdout: true, Stderr: true, Terminal: true}, strings.NewReader(sent), &stdout, &stderr, sizes)
	var got strings.Builder
	sized, ended := false, false
	heard(t, stream, func(m *streamsv1.AnswerResponse) bool {
		switch {
		case m.GetData() != nil:
			got.Write(m.GetData())
			tell(t, stream, takenByAgent(len(m.GetData())))
		case m.GetTerminalSize().GetColumns() == 80:
			sized = true
		case m.GetEndOfData() != nil:
			ended = true
		}
		return sized && ended
	})
	if got.String() != sent {
		t.Errorf("%d bytes of input, want %d", got.Len(), len(sent))
	}
	tell(t, stream, data("out"))
	tell(t, stream, errorData("err"))
	tell(t, stream, data("put"))
	tell(t, stream, exited(3))
	if r := <-result; r.err != nil || r.code != 3 || stdout.String() != "output" || stderr.String() != "err" {
		t.Errorf("%+v %q %q", r, &stdout, &stderr)
	}
	if s := a.r.pool.streams; len(s.open) > 0 || len(s.dialed) > 0 {
		t.Errorf("open %v, dialed %v", s.open, s.dialed)
	}
}

// Whoever does not read stops the program at the window, and no other flow.
func TestAStoppedReaderStopsNobodyElse(t *testing.T) {
	a := startDialedAgent(t)
	from, to := io.Pipe() // standard output, which nobody reads
	var stderr bytes.Buffer
	stream, result := a.exec(t, t.Context(), &streamsv1.Exec{Stdin: true, Stdout: true, Stderr: true}, strings.NewReader("input"), to, &stderr, nil)
	for range flow.Window / flow.Chunk {
		tell(t, stream, data(strings.Repeat("x", flow.Chunk)))
	}
	// The other flows go on.
	got := ""
	heard(t, stream, func(m *streamsv1.AnswerResponse) bool {
		got += string(m.GetData())
		return m.GetEndOfData() != nil
	})
	if got != "input" {
		t.Errorf("input %q", got)
	}
	big := strings.Repeat("y", flow.Chunk)
	tell(t, stream, errorData(big))
	heard(t, stream, func(m *streamsv1.AnswerResponse) bool { return m.GetTaken().GetErrorData() > 0 })
	tell(t, stream, exited(0))
	go func() {
		_, _ = io.Copy(io.Discard, from)
	}()
	if r := <-result; r.err != nil || stderr.String() != big {
		t.Errorf("%+v, %d bytes of errors", r, stderr.Len())
	}
	to.Close()
}

// broken is a caller that is gone.
type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, errors.New("gone") }
func (broken) Read([]byte) (int, error)  { return 0, errors.New("gone") }

// A program ends with whoever wanted it, and with its agent; the end of a stream is
// never taken for the program's.
func TestAProgramsStreamEndsEarly(t *testing.T) {
	a := startDialedAgent(t)
	untilEnd := func(stream streamsv1.StreamService_AnswerClient) {
		t.Helper()
		for {
			if _, err := stream.Recv(); err != nil {
				return
			}
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	stream, result := a.exec(t, ctx, &streamsv1.Exec{Stdout: true}, nil, io.Discard, nil, nil)
	cancel()
	untilEnd(stream)
	if r := <-result; r.err == nil {
		t.Error("cancelled, without an error")
	}
	stream, result = a.exec(t, t.Context(), &streamsv1.Exec{Stdout: true}, nil, broken{}, nil, nil)
	tell(t, stream, data("x"))
	untilEnd(stream)
	if r := <-result; r.err == nil {
		t.Error("nobody takes the output, without an error")
	}
	stream, result = a.exec(t, t.Context(), &streamsv1.Exec{Stdin: true}, broken{}, nil, nil, nil)
	untilEnd(stream)
	if r := <-result; r.err == nil {
		t.Error("the input breaks, without an error")
	}
	for name, say := range map[string]func(streamsv1.StreamService_AnswerClient){
		"the agent's end": func(s streamsv1.StreamService_AnswerClient) { _ = s.CloseSend() },
		"a failure": func(s streamsv1.StreamService_AnswerClient) {
			tell(t, s, &streamsv1.AnswerRequest{Message: &streamsv1.AnswerRequest_Failure{Failure: &streamsv1.Failure{Message: "why"}}})
		},
		"beyond the window": func(s streamsv1.StreamService_AnswerClient) {
			for range 100 {
				_ = s.Send(data(strings.Repeat("x", flow.Chunk)))
			}
		},
		"more taken than sent": func(s streamsv1.StreamService_AnswerClient) { tell(t, s, takenByAgent(1)) },
		"something else":       func(s streamsv1.StreamService_AnswerClient) { tell(t, s, opened) },
	} {
		from, to := io.Pipe()
		stream, result = a.exec(t, t.Context(), &streamsv1.Exec{Stdout: true}, nil, to, nil, nil)
		say(stream)
		from.CloseWithError(io.ErrClosedPipe)
		if r := <-result; r.err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestAttachPassesOutputOn(t *testing.T) {
	a := startDialedAgent(t)
	var stdout, stderr bytes.Buffer
	result := make(chan error, 1)
	go func() {
		result <- a.r.pool.Attach(t.Context(), &streamsv1.Attach{PodUid: "a", Stdout: true, Stderr: true}, &stdout, &stderr)
	}()
	stream := answerOver(t, a.conn, a.dialed(t))
	tell(t, stream, opened)
	tell(t, stream, data("out"))
	tell(t, stream, errorData("err"))
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if err := <-result; err != nil || stdout.String() != "out" || stderr.String() != "err" {
		t.Errorf("%v, %q, %q", err, &stdout, &stderr)
	}
}

// halves is a connection: what is read, what was written, and whether Close ended
// the writing.
type halves struct {
	input  io.Reader
	output bytes.Buffer
	closed chan struct{}
}

func (h *halves) Read(p []byte) (int, error)  { return h.input.Read(p) }
func (h *halves) Write(p []byte) (int, error) { return h.output.Write(p) }
func (h *halves) Close() error                { close(h.closed); return nil }

// Each way of a connection has an end of its own.
func TestForwardHasTwoEnds(t *testing.T) {
	a := startDialedAgent(t)
	input, say := io.Pipe()
	conn := &halves{input: input, closed: make(chan struct{})}
	result := make(chan error, 1)
	go func() { result <- a.r.pool.Forward(t.Context(), &streamsv1.Forward{PodUid: "a", Port: 80}, conn) }()
	stream := answerOver(t, a.conn, a.dialed(t))
	tell(t, stream, opened)
	tell(t, stream, data("answer"))
	tell(t, stream, &streamsv1.AnswerRequest{Message: &streamsv1.AnswerRequest_EndOfData{EndOfData: &streamsv1.EndOfData{}}})
	<-conn.closed
	if _, err := io.WriteString(say, "question"); err != nil {
		t.Fatal(err)
	}
	say.Close()
	got := ""
	heard(t, stream, func(m *streamsv1.AnswerResponse) bool {
		got += string(m.GetData())
		return m.GetEndOfData() != nil
	})
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if err := <-result; err != nil || got != "question" || conn.output.String() != "answer" {
		t.Errorf("%v, %q, %q", err, got, conn.output.String())
	}
}

// Every agent that is connected is asked; one that does not answer takes nothing from
// the others.
func TestEveryAgentIsMeasured(t *testing.T) {
	a := startDialedAgent(t)
	second := a.r.dial(t, identity.RoleAgent, "n2")
	control, err := agentv1.NewAgentServiceClient(second).Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	say(t, control, &agentv1.ConnectRequest{Message: &agentv1.ConnectRequest_Hello{Hello: hello("n2")}})
	for end := time.Now().Add(30 * time.Second); len(a.r.pool.Nodes()) < 2; {
		if time.Now().After(end) {
			t.Fatal("the second agent does not connect")
		}
	}
	a.r.pool.streams.open["n1"] = maxStreamsPerNode // which is no reason
	defer delete(a.r.pool.streams.open, "n1")
	type result struct {
		usage map[string][]*streamsv1.Usage
		err   error
	}
	done := make(chan result, 1)
	go func() {
		usage, err := a.r.pool.Measure(t.Context())
		done <- result{usage, err}
	}()
	stream := answerOver(t, a.conn, a.dialed(t))
	tell(t, stream, opened)
	for _, uid := range []string{"a", "b"} {
		tell(t, stream, &streamsv1.AnswerRequest{Message: &streamsv1.AnswerRequest_Usage{Usage: &streamsv1.Usage{At: timestamppb.Now(), Pods: []*streamsv1.PodUsage{{PodUid: uid}}}}})
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	for {
		if d := hear(t, control).GetDial(); d != nil {
			refusing := answerOver(t, second, d.GetStreamId())
			tell(t, refusing, &streamsv1.AnswerRequest{Message: &streamsv1.AnswerRequest_Failure{Failure: &streamsv1.Failure{Message: "no idea"}}})
			break
		}
	}
	got := <-done
	if len(got.usage) != 1 || len(got.usage["n1"]) != 2 || got.err == nil || !strings.Contains(got.err.Error(), "node n2: no idea") {
		t.Errorf("%v, %v", got.usage, got.err)
	}
}

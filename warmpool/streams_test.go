package warmpool

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"sanfran.dev/internal/identity"
	agentv1 "sanfran.dev/proto/sanfran/agent/v1"
	streamsv1 "sanfran.dev/proto/sanfran/streams/v1"
)

// dialedAgent is an agent that is home to the pod "a" and answers as a test says.
type dialedAgent struct {
	r       *running
	conn    *grpc.ClientConn
	control agentv1.AgentService_ConnectClient
	cut     context.CancelFunc
}

func startDialedAgent(t *testing.T) *dialedAgent {
	t.Helper()
	a := &dialedAgent{r: run(t)}
	a.conn = a.r.dial(t, identity.RoleAgent, "n1")
	ctx, cut := context.WithCancel(t.Context())
	a.cut = cut
	var err error
	if a.control, err = agentv1.NewAgentServiceClient(a.conn).Connect(ctx); err != nil {
		t.Fatal(err)
	}
	say(t, a.control, &agentv1.ConnectRequest{Message: &agentv1.ConnectRequest_Hello{Hello: hello("n1")}})
	if err := a.r.pool.Assign(t.Context(), assignment("a", "r1"), exposed); err != nil {
		t.Fatal(err)
	}
	a.r.pool.Synced([]string{"a"})
	a.r.settle()
	for {
		m := hear(t, a.control)
		if m.GetAssign() != nil || len(m.GetSync().GetAssignments()) > 0 {
			return a
		}
	}
}

// dial waits until the agent is asked for a stream.
func (a *dialedAgent) dialed(t *testing.T) string {
	t.Helper()
	for {
		if d := hear(t, a.control).GetDial(); d != nil {
			return d.GetStreamId()
		}
	}
}

// answer opens the stream of that id, over conn.
func answerOver(t *testing.T, conn *grpc.ClientConn, id string) streamsv1.StreamService_AnswerClient {
	t.Helper()
	stream, err := streamsv1.NewStreamServiceClient(conn).Answer(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	tell(t, stream, &streamsv1.AnswerRequest{Message: &streamsv1.AnswerRequest_StreamId{StreamId: id}})
	return stream
}

func tell(t *testing.T, stream streamsv1.StreamService_AnswerClient, m *streamsv1.AnswerRequest) {
	t.Helper()
	if err := stream.Send(m); err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
}

func data(s string) *streamsv1.AnswerRequest {
	return &streamsv1.AnswerRequest{Message: &streamsv1.AnswerRequest_Data{Data: []byte(s)}}
}

var opened = &streamsv1.AnswerRequest{Message: &streamsv1.AnswerRequest_Opened{Opened: &streamsv1.Opened{}}}

type readResult struct {
	reader io.ReadCloser
	err    error
}

func (a *dialedAgent) read(ctx context.Context, want *streamsv1.ReadLog) <-chan readResult {
	result := make(chan readResult, 1)
	go func() {
		reader, err := a.r.pool.ReadLog(ctx, want)
		result <- readResult{reader, err}
	}()
	return result
}

func reasonOf(err error) streamsv1.FailureReason {
	var failure *StreamError
	if !errors.As(err, &failure) {
		return -1
	}
	return failure.Reason
}

func TestALogIsReadOverAStreamThatTheAgentOpens(t *testing.T) {
	a := startDialedAgent(t)
	result := a.read(t.Context(), &streamsv1.ReadLog{PodUid: "a", Follow: true, TailLines: new(int64)})
	stream := answerOver(t, a.conn, a.dialed(t))
	wanted, err := stream.Recv()
	if err != nil || wanted.GetReadLog().GetPodUid() != "a" || !wanted.GetReadLog().GetFollow() || wanted.GetReadLog().TailLines == nil {
		t.Fatalf("asked for %v, %v", wanted, err)
	}
	tell(t, stream, opened)
	got := <-result
	if got.err != nil {
		t.Fatal(got.err)
	}
	defer got.reader.Close()
	big := strings.Repeat("0123456789", 6000)
	for _, s := range []string{"one\n", big, "", "two\n"} {
		tell(t, stream, data(s))
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if all, err := io.ReadAll(got.reader); err != nil || string(all) != "one\n"+big+"two\n" {
		t.Errorf("%d bytes, %v", len(all), err)
	}
}

func TestAReaderThatHasEnoughEndsTheStream(t *testing.T) {
	a := startDialedAgent(t)
	for name, leave := range map[string]func(io.Closer, context.CancelFunc){
		"closed":    func(c io.Closer, _ context.CancelFunc) { c.Close() },
		"cancelled": func(_ io.Closer, cancel context.CancelFunc) { cancel() },
	} {
		ctx, cancel := context.WithCancel(t.Context())
		result := a.read(ctx, &streamsv1.ReadLog{PodUid: "a", Follow: true})
		stream := answerOver(t, a.conn, a.dialed(t))
		tell(t, stream, opened)
		got := <-result
		if got.err != nil {
			t.Fatal(got.err)
		}
		leave(got.reader, cancel)
		if _, err := stream.Recv(); err != nil { // what is wanted
			t.Fatal(err)
		}
		if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
			t.Errorf("%s: the agent hears %v", name, err)
		}
		cancel()
		got.reader.Close()
	}
	if s := a.r.pool.streams; len(s.open) > 0 || len(s.dialed) > 0 {
		t.Errorf("open %v, dialed %v", s.open, s.dialed)
	}
}

func TestFailuresOfAgentsHaveTheirReason(t *testing.T) {
	a := startDialedAgent(t)
	fail := func(reason streamsv1.FailureReason) *streamsv1.AnswerRequest {
		return &streamsv1.AnswerRequest{Message: &streamsv1.AnswerRequest_Failure{Failure: &streamsv1.Failure{Reason: reason, Message: "why"}}}
	}
	if _, err := a.r.pool.ReadLog(t.Context(), &streamsv1.ReadLog{PodUid: "nobody's"}); reasonOf(err) != streamsv1.FailureReason_FAILURE_REASON_NO_POD {
		t.Errorf("of a pod without a home: %v", err)
	}
	result := a.read(t.Context(), &streamsv1.ReadLog{PodUid: "a", Previous: true})
	stream := answerOver(t, a.conn, a.dialed(t))
	tell(t, stream, fail(streamsv1.FailureReason_FAILURE_REASON_NO_PREVIOUS))
	if got := <-result; reasonOf(got.err) != streamsv1.FailureReason_FAILURE_REASON_NO_PREVIOUS || !strings.Contains(got.err.Error(), "why") {
		t.Errorf("at once: %v", got.err)
	}

	result = a.read(t.Context(), &streamsv1.ReadLog{PodUid: "a"})
	stream = answerOver(t, a.conn, a.dialed(t))
	tell(t, stream, opened)
	tell(t, stream, data("begun"))
	tell(t, stream, fail(streamsv1.FailureReason_FAILURE_REASON_INTERNAL))
	got := <-result
	if got.err != nil {
		t.Fatal(got.err)
	}
	defer got.reader.Close()
	if all, err := io.ReadAll(got.reader); string(all) != "begun" || reasonOf(err) != streamsv1.FailureReason_FAILURE_REASON_INTERNAL {
		t.Errorf("later: %q, %v", all, err)
	}

	// The agent goes while it is being asked.
	result = a.read(t.Context(), &streamsv1.ReadLog{PodUid: "a"})
	a.dialed(t)
	a.cut()
	if got := <-result; reasonOf(got.err) != streamsv1.FailureReason_FAILURE_REASON_AGENT_AWAY {
		t.Errorf("asked, then away: %v", got.err)
	}
	if _, err := a.r.pool.ReadLog(t.Context(), &streamsv1.ReadLog{PodUid: "a"}); reasonOf(err) != streamsv1.FailureReason_FAILURE_REASON_AGENT_AWAY || !strings.Contains(err.Error(), "n1") {
		t.Errorf("away: %v", err)
	}
}

// A stream belongs to the node that was asked for it, once.
func TestNobodyElseCanAnswer(t *testing.T) {
	a := startDialedAgent(t)
	result := a.read(t.Context(), &streamsv1.ReadLog{PodUid: "a"})
	id := a.dialed(t)
	refused := func(conn *grpc.ClientConn, id string, want codes.Code) {
		t.Helper()
		if _, err := answerOver(t, conn, id).Recv(); status.Code(err) != want {
			t.Errorf("%v, want %v", err, want)
		}
	}
	refused(a.r.dial(t, identity.RoleAgent, "n2"), id, codes.NotFound)
	refused(a.r.dial(t, identity.RoleGateway, "n1"), id, codes.PermissionDenied)
	refused(a.conn, "guessed", codes.NotFound)
	stream := answerOver(t, a.conn, id)
	tell(t, stream, opened)
	got := <-result
	if got.err != nil {
		t.Fatal(got.err)
	}
	refused(a.conn, id, codes.NotFound)
	got.reader.Close()
}

func TestStreamsIntoANodeAreBounded(t *testing.T) {
	a := startDialedAgent(t)
	a.r.pool.streams.open["n1"] = maxStreamsPerNode
	if _, err := a.r.pool.ReadLog(t.Context(), &streamsv1.ReadLog{PodUid: "a"}); reasonOf(err) != streamsv1.FailureReason_FAILURE_REASON_BUSY {
		t.Errorf("%v", err)
	}
	delete(a.r.pool.streams.open, "n1")
}

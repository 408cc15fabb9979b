package nodeagent

import (
	"errors"
	"io"
	"strings"
	"testing"

	agentv1 "sanfran.dev/proto/sanfran/agent/v1"
	streamsv1 "sanfran.dev/proto/sanfran/streams/v1"
)

// wanted asks the agent for a stream and says what for.
func (ta *testAgent) wanted(want *streamsv1.AnswerResponse) streamsv1.StreamService_AnswerServer {
	ta.t.Helper()
	ta.cp.say <- &agentv1.ConnectResponse{Message: &agentv1.ConnectResponse_Dial{Dial: &agentv1.Dial{StreamId: "id"}}}
	stream := <-ta.cp.answers
	if m, err := stream.Recv(); err != nil || m.GetStreamId() != "id" {
		ta.t.Fatalf("the stream begins with %v, %v", m, err)
	}
	if err := stream.Send(want); err != nil {
		ta.t.Fatal(err)
	}
	return stream
}

func wantLog(l *streamsv1.ReadLog) *streamsv1.AnswerResponse {
	return &streamsv1.AnswerResponse{Message: &streamsv1.AnswerResponse_ReadLog{ReadLog: l}}
}

// rest is all data of a stream, and the failure that it ends with.
func rest(t *testing.T, stream streamsv1.StreamService_AnswerServer) (string, *streamsv1.Failure) {
	t.Helper()
	var all strings.Builder
	for {
		m, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return all.String(), nil
		case err != nil:
			t.Fatal(err)
		case m.GetFailure() != nil:
			return all.String(), m.GetFailure()
		}
		all.Write(m.GetData())
	}
}

func TestTheControlPlaneReadsLogs(t *testing.T) {
	ta := startTestAgent(t, nil)
	spec := assignment("hello", "10.245.0.1", ta.cp.bundle(nil))
	ta.assigned(spec, agentv1.PodState_POD_STATE_ACTIVE)
	p := ta.pods.get(spec.GetPodUid())
	for _, word := range []string{"one", "two", "three"} {
		wantAnswer(t, ta.viaData(t.Context(), spec, "/print?text="+word+"%0A"), 200, "default/hello")
	}
	readLogUntil(t, p, "three\n")
	one, limit := int64(1), int64(5)
	for name, c := range map[string]struct {
		want   *streamsv1.ReadLog
		text   string
		reason streamsv1.FailureReason
	}{
		"all":      {&streamsv1.ReadLog{}, "one\ntwo\nthree\n", 0},
		"tail":     {&streamsv1.ReadLog{TailLines: &one}, "three\n", 0},
		"limit":    {&streamsv1.ReadLog{LimitBytes: &limit}, "one\nt", 0},
		"stderr":   {&streamsv1.ReadLog{Stream: streamsv1.LogStream_LOG_STREAM_STDERR}, "", 0},
		"previous": {&streamsv1.ReadLog{Previous: true}, "", streamsv1.FailureReason_FAILURE_REASON_NO_PREVIOUS},
		"no pod":   {&streamsv1.ReadLog{PodUid: "nobody's"}, "", streamsv1.FailureReason_FAILURE_REASON_NO_POD},
	} {
		if c.want.PodUid == "" {
			c.want.PodUid = spec.GetPodUid()
		}
		if text, failure := rest(t, ta.wanted(wantLog(c.want))); text != c.text || failure.GetReason() != c.reason {
			t.Errorf("%s: %q, %v", name, text, failure)
		}
	}
	if _, failure := rest(t, ta.wanted(&streamsv1.AnswerResponse{})); failure.GetReason() != streamsv1.FailureReason_FAILURE_REASON_INTERNAL {
		t.Errorf("something unknown: %v", failure)
	}

	// Who follows hears of the end.
	stream := ta.wanted(wantLog(&streamsv1.ReadLog{PodUid: spec.GetPodUid(), Follow: true}))
	if m, err := stream.Recv(); err != nil || m.GetOpened() == nil {
		t.Fatalf("%v, %v", m, err)
	}
	wantAnswer(t, ta.viaData(t.Context(), spec, "/print?text=four%0A"), 200, "default/hello")
	ta.viaData(t.Context(), spec, "/die")
	if text, failure := rest(t, stream); text != "one\ntwo\nthree\nfour\n" || failure != nil {
		t.Errorf("followed: %q, %v", text, failure)
	}
	// One that is left open does not hold up the agent's stop.
	ta.wanted(wantLog(&streamsv1.ReadLog{PodUid: spec.GetPodUid(), Follow: true}))
}

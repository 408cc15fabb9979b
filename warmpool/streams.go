package warmpool

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	agentv1 "sanfran.dev/proto/sanfran/agent/v1"
	streamsv1 "sanfran.dev/proto/sanfran/streams/v1"
)

const (
	// answerWithin is how long an agent may take to open a stream.
	answerWithin = 10 * time.Second
	// maxStreamsPerNode is how many streams into one agent may be open.
	maxStreamsPerNode = 200
)

// StreamError says why there is no stream, or why it ended early.
type StreamError struct {
	Reason  streamsv1.FailureReason
	Message string
}

func (e *StreamError) Error() string { return e.Message }

// FailureReason is Reason.
func (e *StreamError) FailureReason() streamsv1.FailureReason { return e.Reason }

// answer is the stream that an agent has opened.
type answer interface {
	Send(*streamsv1.AnswerResponse) error
	Recv() (*streamsv1.AnswerRequest, error)
}

// Streams are calls into agents: each one is asked for on the agent's session, and
// comes as a stream that the agent opens. It is safe for concurrent use.
type Streams struct {
	books *Books

	mu     sync.Mutex
	dialed map[string]*dial // by stream id, until the agent has answered
	open   map[string]int   // by node, those dialed included
}

// dial is a stream that an agent was asked for.
type dial struct {
	node string
	// answered gets the agent's stream; it takes one value without a reader.
	answered chan answer
	// over is closed when the stream is wanted no more; left is called then.
	over chan struct{}
	left func()
}

// NewStreams returns the streams into the agents of books.
func NewStreams(books *Books) *Streams {
	return &Streams{books: books, dialed: map[string]*dial{}, open: map[string]int{}}
}

// Answered takes an agent's stream. It returns a channel that is closed when the
// stream is to be ended. False: nobody has asked that node for it.
func (s *Streams) Answered(node, id string, a answer) (over <-chan struct{}, ok bool) {
	s.mu.Lock()
	d := s.dialed[id]
	if d == nil || d.node != node {
		s.mu.Unlock()
		return nil, false
	}
	delete(s.dialed, id)
	s.mu.Unlock()
	d.answered <- a
	return d.over, true
}

// callHome asks the home agent of a pod for a stream, and says what is wanted. The
// caller closes it.
func (s *Streams) callHome(ctx context.Context, podUID string, want *streamsv1.AnswerResponse) (*stream, error) {
	node, err := s.books.HomeOf(podUID)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	if s.open[node] >= maxStreamsPerNode {
		s.mu.Unlock()
		return nil, &StreamError{streamsv1.FailureReason_FAILURE_REASON_BUSY, fmt.Sprintf("%d logs, programs and connections of pods on node %s are open already; end some", maxStreamsPerNode, node)}
	}
	s.open[node]++
	s.mu.Unlock()
	return s.call(ctx, node, want, func() {
		if s.open[node]--; s.open[node] == 0 {
			delete(s.open, node)
		}
	})
}

// call asks the agent on a node for a stream. left is called once with mu held, when
// the stream ends or there is none.
func (s *Streams) call(ctx context.Context, node string, want *streamsv1.AnswerResponse, left func()) (_ *stream, err error) {
	id := rand.Text()
	d := &dial{node: node, answered: make(chan answer, 1), over: make(chan struct{}), left: left}
	s.mu.Lock()
	s.dialed[id] = d
	s.mu.Unlock()
	defer func() {
		if err != nil {
			s.end(id, d)
		}
	}()
	gone, err := s.books.dial(node, id)
	if err != nil {
		return nil, err
	}
	timer := time.NewTimer(answerWithin)
	defer timer.Stop()
	select {
	case a := <-d.answered:
		st := &stream{answer: a, node: node}
		stop := context.AfterFunc(ctx, func() { s.end("", d) })
		st.end = func() { stop(); s.end("", d) }
		if err := st.begin(want); err != nil {
			st.end()
			return nil, err
		}
		return st, nil
	case <-gone:
		return nil, away(node)
	case <-timer.C:
		return nil, &StreamError{streamsv1.FailureReason_FAILURE_REASON_AGENT_AWAY, fmt.Sprintf("the agent on node %s has not answered within %v", node, answerWithin)}
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// end ends a stream, answered or not, once.
func (s *Streams) end(id string, d *dial) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.dialed, id)
	select {
	case <-d.over:
		return
	default:
	}
	close(d.over)
	d.left()
}

// stream is an agent's stream after Opened. Its errors are *StreamError where the
// agent is the reason. Receive must not be called by two at once; the other methods
// are safe for concurrent use.
type stream struct {
	answer answer
	node   string
	// end ends the stream: whoever sends or receives is woken.
	end func()

	sending sync.Mutex // gRPC takes one message at a time
}

// begin says what is wanted and waits for Opened.
func (s *stream) begin(want *streamsv1.AnswerResponse) error {
	if err := s.send(want); err != nil {
		return err
	}
	m, err := s.receive()
	if err == nil && m.GetOpened() == nil {
		err = fmt.Errorf("the agent on node %s answered with %T", s.node, m.GetMessage())
	}
	return err
}

func (s *stream) send(m *streamsv1.AnswerResponse) error {
	s.sending.Lock()
	defer s.sending.Unlock()
	return s.answer.Send(m)
}

// receive returns the next message; io.EOF: that was all.
func (s *stream) receive() (*streamsv1.AnswerRequest, error) {
	m, err := s.answer.Recv()
	switch {
	case errors.Is(err, io.EOF):
		return nil, io.EOF
	case err != nil:
		return nil, &StreamError{streamsv1.FailureReason_FAILURE_REASON_AGENT_AWAY, fmt.Sprintf("the stream of the agent on node %s has ended: %v", s.node, err)}
	case m.GetFailure() != nil:
		return nil, &StreamError{m.GetFailure().GetReason(), m.GetFailure().GetMessage()}
	}
	return m, nil
}

// ReadLog reads what a pod has written, until ctx ends. Its errors, and those of
// the reader, are *StreamError where an agent is the reason. The caller closes the
// reader, whose Read must not be called by two at once.
func (s *Streams) ReadLog(ctx context.Context, want *streamsv1.ReadLog) (io.ReadCloser, error) {
	st, err := s.callHome(ctx, want.GetPodUid(), &streamsv1.AnswerResponse{Message: &streamsv1.AnswerResponse_ReadLog{ReadLog: want}})
	if err != nil {
		return nil, fmt.Errorf("read the log of pod %s: %w", want.GetPodUid(), err)
	}
	return &logStream{stream: st}, nil
}

// logStream reads an agent's stream as one stream of bytes.
type logStream struct {
	stream *stream
	rest   []byte
}

// Read implements io.Reader.
func (l *logStream) Read(p []byte) (int, error) {
	for len(l.rest) == 0 {
		m, err := l.stream.receive()
		if err != nil {
			return 0, err
		}
		l.rest = m.GetData()
	}
	n := copy(p, l.rest)
	l.rest = l.rest[n:]
	return n, nil
}

// Close implements io.Closer.
func (l *logStream) Close() error {
	l.stream.end()
	return nil
}

func away(node string) error {
	return &StreamError{streamsv1.FailureReason_FAILURE_REASON_AGENT_AWAY, fmt.Sprintf("the agent on node %s, which has it, is not connected", node)}
}

// HomeOf is the node whose agent has the pod. Without one it is a *StreamError.
func (b *Books) HomeOf(podUID string) (node string, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.pods[podUID]
	if p == nil || p.node == "" {
		return "", &StreamError{streamsv1.FailureReason_FAILURE_REASON_NO_POD, "the pod is at no agent"}
	}
	return p.node, nil
}

// dial asks the agent on node for a stream. It returns a channel that is closed
// when the session ends on which it was asked.
func (b *Books) dial(node, id string) (gone <-chan struct{}, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	a := b.agents[node]
	if a == nil || a.session == nil {
		return nil, away(node)
	}
	a.session.dials = append(a.session.dials, &agentv1.Dial{StreamId: id})
	wake(a.session.wake)
	return a.session.over, nil
}

package nodeagent

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sync"

	"sanfran.dev/nodeagent/logs"
	streamsv1 "sanfran.dev/proto/sanfran/streams/v1"
)

// maxStreams is how many streams of the control plane this agent serves at once.
// The control plane keeps to less.
const maxStreams = 256

// streams answers the control plane's calls into this agent: each Dial with a
// stream of its own, which is slowed down by nothing but its own reader.
type streams struct {
	agent  *Agent
	client streamsv1.StreamServiceClient
	ctx    context.Context // of all streams

	mu      sync.Mutex
	open    int
	running sync.WaitGroup
}

// dialed opens a stream. It does not wait for it.
func (s *streams) dialed(id string) {
	s.mu.Lock()
	full := s.open >= maxStreams
	if !full {
		s.open++
	}
	s.mu.Unlock()
	if full {
		s.agent.log.Warn("the control plane wants more streams than this agent serves", "open", maxStreams)
		return // it gives up by itself
	}
	s.running.Go(func() {
		if err := s.answer(s.ctx, id); err != nil && s.ctx.Err() == nil {
			s.agent.log.Warn("a stream that the control plane wanted", "err", err)
		}
		s.mu.Lock()
		s.open--
		s.mu.Unlock()
	})
}

func (s *streams) answer(ctx context.Context, id string) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stream, err := s.client.Answer(ctx)
	if err != nil {
		return err
	}
	// io.EOF means that the control plane has ended the stream; Recv says why.
	if err := stream.Send(&streamsv1.AnswerRequest{Message: &streamsv1.AnswerRequest_StreamId{StreamId: id}}); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	wanted, err := stream.Recv()
	if err != nil {
		return err
	}
	c := &inquiry{ctx: ctx, stream: stream}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		cancel(c.receive())
	}()
	defer func() {
		cancel(nil)
		<-ended
	}()
	switch m := wanted.GetMessage().(type) {
	case *streamsv1.AnswerResponse_ReadLog:
		err = s.readLog(c, m.ReadLog)
	case *streamsv1.AnswerResponse_Exec:
		err = s.exec(c, m.Exec)
	case *streamsv1.AnswerResponse_Attach:
		err = s.attach(c, m.Attach)
	case *streamsv1.AnswerResponse_Forward:
		err = s.forward(c, m.Forward)
	case *streamsv1.AnswerResponse_Measure:
		err = s.measure(c)
	default:
		err = c.fail(streamsv1.FailureReason_FAILURE_REASON_INTERNAL, "this agent does not know what is wanted; it may be older than the control plane")
	}
	switch cause := context.Cause(ctx); {
	case cause != nil && !errors.Is(cause, errOver):
		return cause // the control plane does not keep to the rules, or the agent stops
	case errors.Is(err, io.EOF) || cause != nil:
		return nil // nobody wants it any more
	case err != nil:
		return err
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	// Leaving ends the call at once, with what is still on its way.
	<-ended
	return nil
}

func (s *streams) readLog(c *inquiry, m *streamsv1.ReadLog) error {
	p := s.agent.pods.get(m.GetPodUid())
	if p == nil {
		return c.fail(streamsv1.FailureReason_FAILURE_REASON_NO_POD, "the pod is not at the agent on node "+s.agent.cfg.NodeName+" any more")
	}
	reading, err := p.log.Read(logOptions(m))
	if errors.Is(err, logs.ErrNoPrevious) {
		return c.fail(streamsv1.FailureReason_FAILURE_REASON_NO_PREVIOUS, err.Error())
	}
	if err != nil {
		return c.fail(streamsv1.FailureReason_FAILURE_REASON_INTERNAL, err.Error())
	}
	if err := c.opened(nil); err != nil {
		return err
	}
	var sendErr error
	err = reading.Run(c.ctx, func(b []byte) error {
		sendErr = c.data(bytes.Clone(b))
		return sendErr
	})
	if err == nil || sendErr != nil || c.ctx.Err() != nil {
		return sendErr
	}
	s.agent.log.Error("a function's log cannot be read", "pod", p.spec.PodUID, "name", p.spec.PodName, "err", err)
	return c.fail(streamsv1.FailureReason_FAILURE_REASON_INTERNAL, err.Error())
}

// logOptions takes a message's content over.
func logOptions(m *streamsv1.ReadLog) logs.ReadOptions {
	o := logs.ReadOptions{
		Previous: m.GetPrevious(), Follow: m.GetFollow(), Timestamps: m.GetTimestamps(),
		Tail: m.TailLines, Limit: m.LimitBytes,
	}
	if m.GetSince() != nil {
		o.Since = m.GetSince().AsTime()
	}
	switch m.GetStream() {
	case streamsv1.LogStream_LOG_STREAM_STDOUT:
		o.Stream = logs.Stdout
	case streamsv1.LogStream_LOG_STREAM_STDERR:
		o.Stream = logs.Stderr
	}
	return o
}

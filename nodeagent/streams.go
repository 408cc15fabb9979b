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
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
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
	// The control plane says nothing more but that it has enough.
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = stream.Recv()
		cancel()
	}()
	defer func() {
		cancel()
		<-ended
	}()
	switch m := wanted.GetMessage().(type) {
	case *streamsv1.AnswerResponse_ReadLog:
		err = s.readLog(ctx, m.ReadLog, stream)
	default:
		err = sendFailure(stream, streamsv1.FailureReason_FAILURE_REASON_INTERNAL, "this agent does not know what is wanted; it may be older than the control plane")
	}
	if errors.Is(err, io.EOF) || ctx.Err() != nil {
		return nil // nobody wants it any more
	}
	if err != nil {
		return err
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	// Leaving ends the call at once, with what is still on its way.
	<-ended
	return nil
}

func sendFailure(stream streamsv1.StreamService_AnswerClient, reason streamsv1.FailureReason, message string) error {
	return stream.Send(&streamsv1.AnswerRequest{Message: &streamsv1.AnswerRequest_Failure{Failure: &streamsv1.Failure{Reason: reason, Message: message}}})
}

func (s *streams) readLog(ctx context.Context, m *streamsv1.ReadLog, stream streamsv1.StreamService_AnswerClient) error {
	p := s.agent.pods.get(m.GetPodUid())
	if p == nil {
		return sendFailure(stream, streamsv1.FailureReason_FAILURE_REASON_NO_POD, "the pod is not at the agent on node "+s.agent.cfg.NodeName+" any more")
	}
	reading, err := p.log.Read(logOptions(m))
	if errors.Is(err, logs.ErrNoPrevious) {
		return sendFailure(stream, streamsv1.FailureReason_FAILURE_REASON_NO_PREVIOUS, err.Error())
	}
	if err != nil {
		return sendFailure(stream, streamsv1.FailureReason_FAILURE_REASON_INTERNAL, err.Error())
	}
	if err := stream.Send(&streamsv1.AnswerRequest{Message: &streamsv1.AnswerRequest_Opened{Opened: &streamsv1.Opened{}}}); err != nil {
		return err
	}
	var sendErr error
	err = reading.Run(ctx, func(b []byte) error {
		sendErr = stream.Send(&streamsv1.AnswerRequest{Message: &streamsv1.AnswerRequest_Data{Data: bytes.Clone(b)}})
		return sendErr
	})
	if err == nil || sendErr != nil || ctx.Err() != nil {
		return sendErr
	}
	s.agent.log.Error("a function's log cannot be read", "pod", p.spec.PodUID, "name", p.spec.PodName, "err", err)
	return sendFailure(stream, streamsv1.FailureReason_FAILURE_REASON_INTERNAL, err.Error())
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

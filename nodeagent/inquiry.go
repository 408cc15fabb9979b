package nodeagent

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	streamsv1 "sanfran.dev/proto/sanfran/streams/v1"
)

// inquiry is one stream that the control plane wanted. What it says is taken all the
// time, so that its end is seen at once.
type inquiry struct {
	// ctx ends with the stream.
	ctx    context.Context
	stream streamsv1.StreamService_AnswerClient

	// sending: gRPC takes one message at a time.
	sending sync.Mutex
	// take takes a message in, and does not wait for anybody; nil: none is
	// expected. Its error ends the stream.
	take atomic.Pointer[func(*streamsv1.AnswerResponse) error]
}

// receive takes in what comes, until the stream ends.
func (c *inquiry) receive() error {
	for {
		m, err := c.stream.Recv()
		if err != nil {
			return errOver
		}
		take := c.take.Load()
		if take == nil {
			return fmt.Errorf("the control plane says %T, which is not expected", m.GetMessage())
		}
		if err := (*take)(m); err != nil {
			return err
		}
	}
}

// errOver: the control plane has ended the stream.
var errOver = errors.New("nobody wants the stream any more")

func (c *inquiry) send(m *streamsv1.AnswerRequest) error {
	c.sending.Lock()
	defer c.sending.Unlock()
	return c.stream.Send(m)
}

// opened says that what was wanted is there. From then on messages go to take.
func (c *inquiry) opened(take func(*streamsv1.AnswerResponse) error) error {
	if take != nil {
		c.take.Store(&take)
	}
	return c.send(&streamsv1.AnswerRequest{Message: &streamsv1.AnswerRequest_Opened{Opened: &streamsv1.Opened{}}})
}

func (c *inquiry) fail(reason streamsv1.FailureReason, message string) error {
	return c.send(&streamsv1.AnswerRequest{Message: &streamsv1.AnswerRequest_Failure{Failure: &streamsv1.Failure{Reason: reason, Message: message}}})
}

func (c *inquiry) data(p []byte) error {
	return c.send(&streamsv1.AnswerRequest{Message: &streamsv1.AnswerRequest_Data{Data: p}})
}

func (c *inquiry) errorData(p []byte) error {
	return c.send(&streamsv1.AnswerRequest{Message: &streamsv1.AnswerRequest_ErrorData{ErrorData: p}})
}

// taken says that so much of the control plane's data was taken.
func (c *inquiry) taken(n int) error {
	return c.send(&streamsv1.AnswerRequest{Message: &streamsv1.AnswerRequest_Taken{Taken: &streamsv1.Taken{Data: uint32(n)}}})
}

// refused is why a stream into a pod cannot be had.
type refused struct {
	reason  streamsv1.FailureReason
	message string
}

func (r *refused) Error() string { return r.message }

// hold returns an instance of the pod that stays until release is called, activating
// one if need be: whoever asks for a stream into a pod is activity of it, as a
// request is. Its errors are *refused, or ctx's.
func (a *Agent) hold(ctx context.Context, podUID string) (_ *pod, _ *instance, release func(), err error) {
	p := a.pods.get(podUID)
	if p == nil {
		return nil, nil, nil, &refused{streamsv1.FailureReason_FAILURE_REASON_NO_POD, "the pod is not at the agent on node " + a.cfg.NodeName + " any more"}
	}
	inst, err := p.lease(ctx)
	switch {
	case err == nil:
	case errors.Is(err, errWithdrawn):
		return nil, nil, nil, &refused{streamsv1.FailureReason_FAILURE_REASON_NO_POD, "the pod is being deleted, or moves to another node"}
	case ctx.Err() != nil:
		return nil, nil, nil, err
	default:
		message := err.Error()
		if f := asFailure(err); f != nil {
			message = f.reason + ": " + f.message
		}
		return nil, nil, nil, &refused{streamsv1.FailureReason_FAILURE_REASON_NO_CONTAINER, "the pod has no container: " + message}
	}
	inst.usage.hold()
	inst.usage.end(time.Now()) // what lease has begun
	return p, inst, sync.OnceFunc(func() { inst.usage.letGo(time.Now()) }), nil
}

// refuse answers with an error of hold.
func (c *inquiry) refuse(err error) error {
	if r := (*refused)(nil); errors.As(err, &r) {
		return c.fail(r.reason, r.message)
	}
	return err
}

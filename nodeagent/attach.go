package nodeagent

import (
	"bytes"
	"time"

	"sanfran.dev/nodeagent/logs"
	streamsv1 "sanfran.dev/proto/sanfran/streams/v1"
)

// attach follows what the pod's container writes. It reads the log, as it is
// written, so that a caller who does not read holds up no function.
func (s *streams) attach(c *inquiry, m *streamsv1.Attach) error {
	asked := time.Now()
	p, inst, release, err := s.agent.hold(c.ctx, m.GetPodUid())
	if err != nil {
		return c.refuse(err)
	}
	defer release()
	opts := logs.ReadOptions{Follow: true, Tail: new(int64)}
	if inst.leasedAt.After(asked) {
		// It was activated for this: what it wrote while it loaded is of interest.
		opts = logs.ReadOptions{Follow: true, Since: inst.leasedAt}
	}
	reading, err := p.log.Read(opts)
	if err != nil {
		return c.fail(streamsv1.FailureReason_FAILURE_REASON_INTERNAL, err.Error())
	}
	if err := c.opened(nil); err != nil {
		return err
	}
	var sendErr error
	err = reading.RunStreams(c.ctx, func(stream logs.Stream, b []byte) error {
		switch {
		case stream == logs.Stderr && m.GetStderr():
			sendErr = c.errorData(bytes.Clone(b))
		case stream == logs.Stdout && m.GetStdout():
			sendErr = c.data(bytes.Clone(b))
		}
		return sendErr
	})
	if err == nil || sendErr != nil || c.ctx.Err() != nil {
		return sendErr
	}
	s.agent.log.Error("a function's log cannot be read", "pod", p.spec.PodUID, "name", p.spec.PodName, "err", err)
	return c.fail(streamsv1.FailureReason_FAILURE_REASON_INTERNAL, err.Error())
}

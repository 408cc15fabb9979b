package nodeagent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"

	"golang.org/x/sys/unix"

	"sanfran.dev/internal/flow"
	streamsv1 "sanfran.dev/proto/sanfran/streams/v1"
)

// forward connects to a port of the pod.
func (s *streams) forward(c *inquiry, m *streamsv1.Forward) error {
	p, inst, release, err := s.agent.hold(c.ctx, m.GetPodUid())
	if err != nil {
		return c.refuse(err)
	}
	defer release()
	conn, err := s.agent.connect(c.ctx, p.spec, inst, m.GetPort())
	if err != nil {
		return c.fail(streamsv1.FailureReason_FAILURE_REASON_REFUSED, err.Error())
	}
	defer conn.Close()
	input, output := flow.NewReader(c.taken), flow.NewWriter(c.data)
	stop := context.AfterFunc(c.ctx, func() {
		err := context.Cause(c.ctx)
		input.Fail(err)
		output.Fail(err)
		_ = conn.Close()
	})
	defer stop()
	if err := c.opened(func(m *streamsv1.AnswerResponse) error {
		switch m := m.GetMessage().(type) {
		case *streamsv1.AnswerResponse_Data:
			return input.Receive(m.Data)
		case *streamsv1.AnswerResponse_EndOfData:
			input.Fail(io.EOF)
			return nil
		case *streamsv1.AnswerResponse_Taken:
			return output.Taken(int(m.Taken.GetData()))
		default:
			return errUnexpected
		}
	}); err != nil {
		return err
	}
	if err := join(c, conn, input, output); err != nil && c.ctx.Err() == nil {
		return c.fail(streamsv1.FailureReason_FAILURE_REASON_REFUSED, fmt.Sprintf("the connection to port %d of the pod broke off: %v", m.GetPort(), err))
	}
	return nil
}

// join passes both ways on until both have ended, or one breaks.
func join(c *inquiry, conn net.Conn, input *flow.Reader, output *flow.Writer) error {
	broken := func(err error) error {
		input.Fail(err)
		_ = conn.Close()
		return err
	}
	var out error
	var sending sync.WaitGroup
	sending.Go(func() {
		if _, err := io.Copy(output, conn); err != nil {
			out = broken(err)
			return
		}
		// Who cannot be told is gone.
		_ = c.send(&streamsv1.AnswerRequest{Message: &streamsv1.AnswerRequest_EndOfData{EndOfData: &streamsv1.EndOfData{}}})
	})
	_, in := io.Copy(conn, input)
	if in == nil {
		if half, ok := conn.(interface{ CloseWrite() error }); ok {
			in = half.CloseWrite()
		}
		if errors.Is(in, unix.ENOTCONN) {
			in = nil // the other end has closed both
		}
	}
	if in != nil {
		_ = broken(in)
	}
	sending.Wait()
	if out != nil && !errors.Is(out, net.ErrClosed) {
		return out // which is why the other way broke
	}
	return in
}

// connect reaches a port of a pod. The function's own listener is not inside its
// container: it is reached as by everybody, at the pod's address, which leads there
// as long as the pod is held.
func (a *Agent) connect(ctx context.Context, spec *Assignment, inst *instance, port uint32) (net.Conn, error) {
	if port == 0 || port > 1<<16-1 {
		return nil, fmt.Errorf("%d is no TCP port", port)
	}
	if port == uint32(spec.Port) {
		conn, err := a.dialAddress(ctx, "tcp4", netip.AddrPortFrom(spec.Address, spec.Port).String())
		if err != nil {
			return nil, fmt.Errorf("connect to the function: %w", err)
		}
		return conn, nil
	}
	conn, err := a.dialInside(ctx, inst.warm.namespace, uint16(port))
	if errors.Is(err, unix.ECONNREFUSED) {
		return nil, fmt.Errorf("nothing listens on port %d of 127.0.0.1 or ::1 in the pod's container; the function is at port %d: %w", port, spec.Port, err)
	}
	return conn, err
}

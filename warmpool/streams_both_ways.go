package warmpool

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"sanfran.dev/internal/flow"
	streamsv1 "sanfran.dev/proto/sanfran/streams/v1"
)

// errEnded: what a flow was for is over.
var errEnded = errors.New("the stream has ended")

// Exec runs a program in a pod's container and returns its exit code. What want does
// not ask for may be nil. It returns when the program has ended and all it has
// written has been passed on, or when ctx ends, a writer fails, or the agent does;
// then the program is killed. A Read of stdin may be going on then, and a receive of
// sizes: the first ends when stdin's owner closes it. Its errors are *StreamError
// where the agent is the reason.
func (s *Streams) Exec(ctx context.Context, want *streamsv1.Exec, stdin io.Reader, stdout, stderr io.Writer, sizes <-chan *streamsv1.TerminalSize) (code int, err error) {
	st, err := s.callHome(ctx, want.GetPodUid(), &streamsv1.AnswerResponse{Message: &streamsv1.AnswerResponse_Exec{Exec: want}})
	if err != nil {
		return 0, fmt.Errorf("run a program in pod %s: %w", want.GetPodUid(), err)
	}
	ctx, done := context.WithCancel(ctx)
	var sizing sync.WaitGroup
	defer sizing.Wait()
	defer done()
	defer st.end() // which wakes whoever sends
	if want.GetTerminal() {
		sizing.Go(func() { st.passSizes(ctx, sizes) })
	}
	input := flow.NewWriter(st.data)
	output := flow.NewReader(func(n int) error { return st.taken(&streamsv1.Taken{Data: uint32(n)}) })
	errorOutput := flow.NewReader(func(n int) error { return st.taken(&streamsv1.Taken{ErrorData: uint32(n)}) })
	if want.GetStdin() {
		go st.feed(input, stdin) // ends with stdin, see above
	}
	var passing sync.WaitGroup
	var passErr error
	var once sync.Once
	pass := func(to io.Writer, from io.Reader) {
		if to == nil {
			to = io.Discard
		}
		if _, err := io.Copy(to, from); err != nil {
			once.Do(func() { passErr = err })
			st.end()
		}
	}
	passing.Go(func() { pass(stdout, output) })
	passing.Go(func() { pass(stderr, errorOutput) })

	code, err = st.untilExited(input, output, errorOutput)
	rest := err
	if rest == nil {
		rest = io.EOF
	}
	input.Fail(errEnded)
	output.Fail(rest)
	errorOutput.Fail(rest)
	passing.Wait()
	if err == nil {
		err = passErr
	}
	if err != nil {
		return 0, fmt.Errorf("run a program in pod %s: %w", want.GetPodUid(), err)
	}
	return code, nil
}

// untilExited takes in what the agent says, until the program has ended.
func (s *stream) untilExited(input *flow.Writer, output, errorOutput *flow.Reader) (code int, err error) {
	for {
		m, err := s.receive()
		if errors.Is(err, io.EOF) {
			err = fmt.Errorf("the agent on node %s does not say how the program ended: %w", s.node, io.ErrUnexpectedEOF)
		}
		if err != nil {
			return 0, err
		}
		switch m := m.GetMessage().(type) {
		case *streamsv1.AnswerRequest_Data:
			err = output.Receive(m.Data)
		case *streamsv1.AnswerRequest_ErrorData:
			err = errorOutput.Receive(m.ErrorData)
		case *streamsv1.AnswerRequest_Taken:
			err = input.Taken(int(m.Taken.GetData()))
		case *streamsv1.AnswerRequest_Exited:
			return int(m.Exited.GetCode()), nil
		default:
			err = fmt.Errorf("the agent on node %s says %T of a program", s.node, m)
		}
		if err != nil {
			return 0, err
		}
	}
}

// feed passes what is read on as input, and its end. When reading fails, whoever was
// at the other end is gone, and so is what they wanted.
func (s *stream) feed(input *flow.Writer, from io.Reader) {
	switch _, err := io.Copy(input, from); {
	case err == nil:
		_ = s.send(&streamsv1.AnswerResponse{Message: &streamsv1.AnswerResponse_EndOfData{EndOfData: &streamsv1.EndOfData{}}})
	case !errors.Is(err, errEnded):
		s.end()
	}
}

func (s *stream) passSizes(ctx context.Context, sizes <-chan *streamsv1.TerminalSize) {
	for {
		select {
		case size, ok := <-sizes:
			if !ok || s.send(&streamsv1.AnswerResponse{Message: &streamsv1.AnswerResponse_TerminalSize{TerminalSize: size}}) != nil {
				return
			}
		case <-ctx.Done():
			return
		}
	}
}

func (s *stream) data(p []byte) error {
	return s.send(&streamsv1.AnswerResponse{Message: &streamsv1.AnswerResponse_Data{Data: p}})
}

func (s *stream) taken(t *streamsv1.Taken) error {
	return s.send(&streamsv1.AnswerResponse{Message: &streamsv1.AnswerResponse_Taken{Taken: t}})
}

// Attach follows what a pod's container writes, until it has ended by itself (nil),
// ctx ends, or a writer fails. Its errors are *StreamError where the agent is the
// reason.
func (s *Streams) Attach(ctx context.Context, want *streamsv1.Attach, stdout, stderr io.Writer) error {
	st, err := s.callHome(ctx, want.GetPodUid(), &streamsv1.AnswerResponse{Message: &streamsv1.AnswerResponse_Attach{Attach: want}})
	if err != nil {
		return fmt.Errorf("attach to pod %s: %w", want.GetPodUid(), err)
	}
	defer st.end()
	for {
		m, err := st.receive()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("attach to pod %s: %w", want.GetPodUid(), err)
		case len(m.GetData()) > 0 && stdout != nil:
			_, err = stdout.Write(m.GetData())
		case len(m.GetErrorData()) > 0 && stderr != nil:
			_, err = stderr.Write(m.GetErrorData())
		}
		if err != nil {
			return fmt.Errorf("attach to pod %s: pass its output on: %w", want.GetPodUid(), err)
		}
	}
}

// Forward joins conn to a port of a pod, until both ways have ended, one breaks, or
// ctx ends. Close of conn is called when the pod sends no more, and must leave the
// other way open. A Read may be going on when Forward returns: it ends when conn's
// owner closes it for good. Its errors are *StreamError where the agent is the
// reason.
func (s *Streams) Forward(ctx context.Context, want *streamsv1.Forward, conn io.ReadWriteCloser) error {
	st, err := s.callHome(ctx, want.GetPodUid(), &streamsv1.AnswerResponse{Message: &streamsv1.AnswerResponse_Forward{Forward: want}})
	if err != nil {
		return fmt.Errorf("connect to port %d of pod %s: %w", want.GetPort(), want.GetPodUid(), err)
	}
	defer st.end()
	input := flow.NewWriter(st.data)
	output := flow.NewReader(func(n int) error { return st.taken(&streamsv1.Taken{Data: uint32(n)}) })
	go st.feed(input, conn) // ends with conn, see above
	var passErr error
	var passing sync.WaitGroup
	passing.Go(func() {
		if _, passErr = io.Copy(conn, output); passErr == nil {
			passErr = conn.Close()
		}
		if passErr != nil {
			st.end()
		}
	})
	err = st.untilBothEnd(input, output)
	input.Fail(errEnded)
	if err != nil {
		output.Fail(err)
	}
	output.Fail(io.EOF)
	passing.Wait()
	if err == nil {
		err = passErr
	}
	if err != nil {
		return fmt.Errorf("connect to port %d of pod %s: %w", want.GetPort(), want.GetPodUid(), err)
	}
	return nil
}

func (s *stream) untilBothEnd(input *flow.Writer, output *flow.Reader) error {
	for {
		m, err := s.receive()
		switch m := m.GetMessage().(type) {
		case *streamsv1.AnswerRequest_Data:
			err = output.Receive(m.Data)
		case *streamsv1.AnswerRequest_EndOfData:
			output.Fail(io.EOF)
		case *streamsv1.AnswerRequest_Taken:
			err = input.Taken(int(m.Taken.GetData()))
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
	}
}

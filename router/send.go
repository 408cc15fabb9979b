package router

import (
	"errors"
	"io"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// continueWait is how long the body of a request that expects 100 (Continue) waits
// for that, or for an answer: a server need not say it (RFC 9110, section 10.1.1).
const continueWait = time.Second

// lastWrite is how long an answered request waits for the end of its last write.
const lastWrite = 5 * time.Millisecond

// sending is a request's body on its way to an upstream, in a goroutine of its
// own, so that the answer may come before the body's end. The goroutine reads
// from the client, whom nothing but its own connection's end can hurry: it may
// outlive the attempt, not the request: see [WholeRequests].
type sending struct {
	body *attemptBody
	conn *upstreamConn
	sent func() // is told when the upstream has all of the body
	// length is what was promised to the upstream; negative: chunks.
	length int64
	// proceed is closed when the upstream wants the body; nil: it is sent at once.
	proceed chan struct{}
	told    bool          // proceed is closed
	over    chan struct{} // closed at the end of the attempt
	done    chan struct{}
	// failed is why the client's body could not be read; see [sending.clientError].
	failed atomic.Pointer[error]
	stall  stall
	// last is set before the last write of the body.
	last atomic.Bool
	// complete is written before done is closed.
	complete bool
}

// send begins to send the body, or to wait until that is wanted.
func (x *Exchange) send(conn *upstreamConn, body *attemptBody) *sending {
	s := &sending{body: body, conn: conn, sent: x.sent, length: x.r.ContentLength, over: make(chan struct{}), done: make(chan struct{})}
	if x.expects {
		s.proceed = make(chan struct{})
	}
	go s.run(x.forwarder.clientStall)
	return s
}

func (s *sending) run(within time.Duration) {
	defer close(s.done)
	defer s.stall.end()
	if s.proceed != nil {
		timer := time.NewTimer(continueWait)
		defer timer.Stop()
		select {
		case <-s.proceed:
		case <-timer.C:
		case <-s.over:
			return
		}
	}
	s.stall.begin(within, func() {
		err := errBodyStalled
		s.failed.CompareAndSwap(nil, &err)
		_ = s.conn.Close()
	})
	var err error
	if s.length > 0 {
		err = s.sendLength()
	} else {
		err = s.sendChunks()
	}
	if s.complete = err == nil; s.complete {
		s.sent()
	} else {
		select {
		case <-s.over:
		default:
			if s.failed.Load() != nil {
				// The function is to see that the body ends too early, now.
				_ = s.conn.Close()
			}
		}
	}
}

// read notes errors of the client's.
func (s *sending) read(p []byte) (int, error) {
	s.stall.wait()
	n, err := s.body.Read(p)
	s.stall.over()
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, errDetached) {
		s.failed.CompareAndSwap(nil, &err)
	}
	return n, err
}

func (s *sending) sendLength() error {
	buffer := buffers.Get().(*[bufferSize]byte)
	defer buffers.Put(buffer)
	for left := s.length; ; {
		n, err := s.read(buffer[:])
		if left -= int64(n); left < 0 {
			return http.ErrContentLength
		}
		s.last.Store(left == 0)
		if n > 0 {
			if _, err := s.conn.Write(buffer[:n]); err != nil {
				return err
			}
		}
		switch {
		case left == 0:
			return nil
		case errors.Is(err, io.EOF):
			err := io.ErrUnexpectedEOF
			s.failed.Store(&err)
			return err
		case err != nil:
			return err
		}
	}
}

// sendChunks sends a body of unknown length, each piece with its size in front and
// in one write.
func (s *sending) sendChunks() error {
	const front = 8 // hexadecimal digits of a size that fits into the buffer, CRLF
	buffer := buffers.Get().(*[bufferSize]byte)
	defer buffers.Put(buffer)
	for {
		n, err := s.read(buffer[front : len(buffer)-2])
		if n > 0 {
			var size [front]byte
			digits := append(strconv.AppendInt(size[:0], int64(n), 16), "\r\n"...)
			from := front - len(digits)
			copy(buffer[from:], digits)
			copy(buffer[front+n:], "\r\n")
			if _, err := s.conn.Write(buffer[from : front+n+2]); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
	}
	end := append(buffer[:0], "0\r\n"...)
	for name, values := range s.body.trailer {
		for _, value := range values {
			end = appendField(end, name, value)
		}
	}
	s.last.Store(true)
	_, err := s.conn.Write(append(end, "\r\n"...))
	return err
}

// continued tells that the upstream wants the body.
func (s *sending) continued() {
	if s.proceed != nil && !s.told {
		s.told = true
		close(s.proceed)
	}
}

// end tells that the attempt is over, and reports whether the whole body was sent,
// so that the connection can take another request.
func (s *sending) end() bool {
	if s == nil {
		return true
	}
	close(s.over)
	select {
	case <-s.done:
		return s.complete
	default:
	}
	if !s.last.Load() {
		return false
	}
	// The upstream may have the last byte, and have answered, before the write
	// returns here. One that does not read on is not waited for.
	timer := time.NewTimer(lastWrite)
	defer timer.Stop()
	select {
	case <-s.done:
		return s.complete
	case <-timer.C:
		return false
	}
}

// clientError is why the client's body could not be read, or nil.
func (s *sending) clientError() error {
	if s == nil {
		return nil
	}
	if err := s.failed.Load(); err != nil {
		return *err
	}
	return nil
}

// answered notes that the answer is there. A nil sending is over.
func (s *sending) answered() {
	if s != nil {
		s.stall.end()
	}
}

var errBodyStalled = errors.New("nothing of it has come for too long")

// stall bounds each wait for a client: for its next bytes, until the answer is there,
// as from then on it may have nothing to say for long; or to take some of the answer.
type stall struct {
	mu     sync.Mutex
	timer  *time.Timer
	within time.Duration
	// waiting: somebody waits now. ended: nobody is cut off any more.
	waiting, ended bool
}

// begin says how long each wait may take, and what then happens, once. It is not
// called concurrently with the waits.
func (s *stall) begin(within time.Duration, cut func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return
	}
	s.within = within
	s.timer = time.AfterFunc(within, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.waiting && !s.ended {
			s.ended = true
			cut()
		}
	})
}

func (s *stall) wait() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.waiting = true; s.timer != nil && !s.ended {
		s.timer.Reset(s.within)
	}
}

func (s *stall) over() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiting = false
}

// end has no wait cut off any more.
func (s *stall) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended = true; s.timer != nil {
		s.timer.Stop()
	}
}

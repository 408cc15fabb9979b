package nodeagent

import (
	"fmt"
	"io"
	"os"
	"sync"
)

// outputKept is how much of a container's latest output is kept, in bytes, to
// say why it ended.
const outputKept = 8 << 10

// output reads what a container writes to stdout and stderr, so that it never
// blocks, and keeps the end of it.
type output struct {
	read, write *os.File
	done        chan struct{}

	mu   sync.Mutex
	tail []byte
}

func newOutput() (*output, error) {
	read, write, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("make a pipe for a container's output: %w", err)
	}
	o := &output{read: read, write: write, done: make(chan struct{})}
	go o.drain()
	return o, nil
}

func (o *output) drain() {
	defer close(o.done)
	_, _ = io.Copy(o, o.read) // ends when the last writer is gone, or with close
}

// Write keeps the last outputKept bytes.
func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.tail = append(o.tail, p...)
	if n := len(o.tail); n > 2*outputKept {
		o.tail = append(o.tail[:0], o.tail[n-outputKept:]...)
	}
	return len(p), nil
}

// last is the end of the output, at most outputKept bytes.
func (o *output) last() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return string(o.tail[max(0, len(o.tail)-outputKept):])
}

// started closes the agent's copy of the writing end, once the container has
// its own.
func (o *output) started() { o.write.Close() }

func (o *output) close() {
	o.write.Close()
	o.read.Close()
	<-o.done
}

package supervisor

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// patience is how long a supervisor may leave a message unread or unanswered, in
// seconds. It answers in microseconds.
const patience = 10

// ErrUnknown is wrapped by the error of ExitStatus about a process that the
// supervisor has not waited for.
var ErrUnknown = errors.New("how the process ended is not known")

// Client is a charge's end of the conversation with its supervisor. It is safe
// for concurrent use, and has no goroutine.
type Client struct {
	mu     sync.Mutex
	fd     int
	buffer []byte
	// broken is why no answer can be told from another any more.
	broken error
}

// Open speaks with the supervisor by an inherited descriptor, which is the
// client's from now on.
func Open(fd int) (*Client, error) {
	kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	if err == nil && kind != unix.SOCK_SEQPACKET {
		err = fmt.Errorf("it is a socket of type %d", kind)
	}
	if err != nil {
		return nil, fmt.Errorf("descriptor %d leads to no supervisor: %w", fd, err)
	}
	unix.CloseOnExec(fd)
	for _, option := range []int{unix.SO_RCVTIMEO, unix.SO_SNDTIMEO} {
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, option, &unix.Timeval{Sec: patience}); err != nil {
			return nil, fmt.Errorf("the supervisor's socket: %w", err)
		}
	}
	return &Client{fd: fd, buffer: make([]byte, maxMessage)}, nil
}

// Close ends the conversation. What is kept stays until the process ends.
func (c *Client) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return unix.Close(c.fd)
}

// Put keeps duplicates of files under name, in place of what was kept there. pid
// names a process that shall live on with it; 0: none. data says what it is.
func (c *Client) Put(name string, pid int, data []byte, files ...syscall.Conn) error {
	return withFDs(files, nil, func(fds []int) error {
		return c.say(request{Op: opPut, Name: name, PID: pid, Data: data}, fds)
	})
}

// Update replaces what is said of the files under name.
func (c *Client) Update(name string, data []byte) error {
	return c.say(request{Op: opUpdate, Name: name, Data: data}, nil)
}

// Remove keeps nothing under name any more; its process lives as long as the
// charge does. It is no error if nothing was kept.
func (c *Client) Remove(name string) error {
	return c.say(request{Op: opRemove, Name: name}, nil)
}

// Kept is what an earlier charge has put.
type Kept struct {
	Name string
	PID  int
	Data []byte
	// Files are descriptors, close-on-exec, that the receiver closes. Their mode
	// (blocking or not) is shared with all duplicates.
	Files []int
}

// Close closes the files.
func (k Kept) Close() { closeFiles(k.Files) }

// Kept returns everything that is kept under names with a prefix, in their order.
// After an error nothing is left open.
func (c *Client) Kept(prefix string) (all []Kept, err error) {
	defer func() {
		if err != nil {
			for _, k := range all {
				k.Close()
			}
			all = nil
		}
	}()
	for more, after := true, prefix; more; {
		var batch []Kept
		if batch, more, err = c.entries(request{Op: opNext, Name: after}); err != nil {
			return all, fmt.Errorf("ask the supervisor for what is kept: %w", err)
		}
		for _, k := range batch {
			after = k.Name
			if !strings.HasPrefix(k.Name, prefix) {
				k.Close()
				more = false // names with the prefix follow each other
				continue
			}
			all = append(all, k)
		}
	}
	return all, nil
}

// Get returns what is kept under a name; false: nothing is.
func (c *Client) Get(name string) (Kept, bool, error) {
	found, _, err := c.entries(request{Op: opGet, Name: name})
	if err != nil {
		return Kept{}, false, fmt.Errorf("ask the supervisor for %s: %w", name, err)
	}
	if len(found) == 0 {
		return Kept{}, false, nil
	}
	return found[0], true, nil
}

func (c *Client) entries(r request) (all []Kept, more bool, err error) {
	answer, files, err := c.ask(r)
	if err != nil {
		return nil, false, err
	}
	for _, h := range answer.Entries {
		all = append(all, Kept{Name: h.Name, PID: h.PID, Data: h.Data, Files: files[:h.Files:h.Files]})
		files = files[h.Files:]
	}
	return all, answer.More, nil
}

// ExitStatus is how a process has ended that is not this one's own child: it must
// have, as its pidfd says. The error wraps ErrUnknown if the supervisor has not
// been its parent.
func (c *Client) ExitStatus(pid int) (unix.WaitStatus, error) {
	r, _, err := c.ask(request{Op: opStatus, PID: pid})
	if err == nil && !r.Known {
		err = ErrUnknown
	}
	if err != nil {
		return 0, fmt.Errorf("ask the supervisor for the end of process %d: %w", pid, err)
	}
	return unix.WaitStatus(r.Status), nil
}

// Listener returns the listening socket kept under a name, or opens one and puts
// it there.
func (c *Client) Listener(name string, open func() (net.Listener, error)) (net.Listener, error) {
	kept, found, err := c.Get(name)
	if err != nil {
		return nil, err
	}
	if found && len(kept.Files) == 1 {
		file := os.NewFile(uintptr(kept.Files[0]), name)
		l, err := net.FileListener(file) // a duplicate
		if err = errors.Join(err, file.Close()); err != nil {
			return nil, fmt.Errorf("go on listening at %s: %w", name, err)
		}
		return l, nil
	}
	kept.Close()
	l, err := open()
	if err != nil {
		return nil, err
	}
	conn, ok := l.(syscall.Conn)
	if !ok {
		return nil, errors.Join(fmt.Errorf("keep the listener %s: %T has no descriptor", name, l), l.Close())
	}
	if err := c.Put(name, 0, nil, conn); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// withFDs calls do with the files' descriptors, none of which is closed meanwhile.
func withFDs(files []syscall.Conn, fds []int, do func(fds []int) error) error {
	if len(files) == 0 {
		return do(fds)
	}
	raw, err := files[0].SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	err = raw.Control(func(fd uintptr) { inner = withFDs(files[1:], append(fds, int(fd)), do) })
	return errors.Join(err, inner)
}

// say sends a request that has no answer.
func (c *Client) say(r request, files []int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.send(r, files)
}

// send checks a request as the supervisor will. The caller holds mu.
func (c *Client) send(r request, files []int) error {
	message, err := json.Marshal(r)
	if err == nil {
		_, err = parseRequest(message, len(files))
	}
	if err == nil {
		err = send(c.fd, message, files)
	}
	if err != nil {
		return fmt.Errorf("tell the supervisor to %s %s: %w", r.Op, r.Name, err)
	}
	return nil
}

func (c *Client) ask(r request) (response, []int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.broken != nil {
		return response{}, nil, c.broken
	}
	if err := c.send(r, nil); err != nil {
		return response{}, nil, err
	}
	n, files, err := receive(c.fd, c.buffer)
	var answer response
	if err == nil {
		if answer, err = parseResponse(c.buffer[:n], len(files)); err != nil {
			closeFiles(files)
		}
	}
	if err != nil {
		c.broken = fmt.Errorf("no answer of the supervisor: %w", err)
	}
	return answer, files, c.broken
}

package supervisor

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// FD is the descriptor by which a charge finds its supervisor, see Open.
const FD = 3

// crashed is the exit code of a Go program that panics.
const crashed = 2

// Config says what to run. Path and Args are required.
type Config struct {
	// Path is the charge's program, Args its arguments with its name first, Env
	// its environment (default: this process's).
	Path string
	Args []string
	Env  []string
	// Soon is how short a charge's life is to be held against what it was given
	// (default 5 s); Crashes is how many such lives in a row make it be dropped
	// (default 3).
	Soon    time.Duration
	Crashes int
	// Log is slog.Default() if nil.
	Log *slog.Logger
}

// supervisor is the state of Run, which is one goroutine's.
type supervisor struct {
	Config
	log   *slog.Logger
	store *store

	// charge is the running charge's pid; 0: there is none, and ended is how the
	// last one ended.
	charge int
	ended  unix.WaitStatus
	// stopping is set when the supervisor has been told to end.
	stopping bool
}

// Run runs the charge until it ends for good, and returns the exit code that the
// process is to end with. The error says what kept the charge from being started.
// It makes the process a subreaper, waits for all its children, and takes SIGTERM,
// SIGINT and SIGCHLD: it is called once, in a process that does nothing else.
func Run(config Config) (code int, err error) {
	s := &supervisor{Config: config, log: config.Log, store: newStore()}
	if s.log == nil {
		s.log = slog.Default()
	}
	if s.Soon == 0 {
		s.Soon = 5 * time.Second
	}
	if s.Crashes == 0 {
		s.Crashes = 3
	}
	if s.Env == nil {
		s.Env = os.Environ()
	}
	// The kernel kills the charge when the thread ends that started it.
	runtime.LockOSThread()
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return 1, fmt.Errorf("supervisor: become the parent of orphaned processes: %w", err)
	}
	stop, dead := make(chan os.Signal, 4), make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	signal.Notify(dead, syscall.SIGCHLD)
	defer signal.Stop(stop)
	defer signal.Stop(dead)

	for inARow := 0; ; {
		began := time.Now()
		if err := s.life(stop, dead); err != nil {
			s.end()
			return 1, err
		}
		if s.stopping || !isCrash(s.ended) {
			s.end()
			return exitCode(s.ended), nil
		}
		s.killStrays(s.store.alive())
		if lived := time.Since(began); lived >= s.Soon {
			inARow = 0
		}
		inARow++
		log := s.log.With("ended", describe(s.ended), "lived", time.Since(began), "inARow", inARow)
		switch {
		case inARow > s.Crashes:
			log.Error("the supervised process keeps crashing although it began with nothing; giving up")
			s.end()
			return exitCode(s.ended), nil
		case inARow == s.Crashes:
			log.Error("the supervised process keeps crashing soon after its start: what was kept for it may be why, and is dropped", "entries", len(s.store.entries))
			s.end()
		default:
			log.Error("the supervised process has crashed; another takes over", "entries", len(s.store.entries), "processes", len(s.store.alive()))
		}
	}
}

// end kills every process and closes every file that is kept.
func (s *supervisor) end() {
	s.store.clear()
	s.killStrays(nil)
}

// life runs one charge to its end, and reads what it has said to the end.
func (s *supervisor) life(stop, dead <-chan os.Signal) error {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("supervisor: make a socket for the charge: %w", err)
	}
	ours, theirs := fds[0], fds[1]
	// A group of its own: what a terminal sends comes by this process, once.
	pid, err := syscall.ForkExec(s.Path, s.Args, &syscall.ProcAttr{
		Env: s.Env, Files: []uintptr{0, 1, 2, FD: uintptr(theirs)},
		Sys: &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL},
	})
	closeFiles([]int{theirs})
	if err != nil {
		closeFiles([]int{ours})
		return fmt.Errorf("supervisor: start %s: %w", s.Path, err)
	}
	s.charge = pid
	said, heard := make(chan heardMessage), make(chan struct{})
	go func() {
		defer close(heard)
		listen(ours, said)
	}()
	for s.charge != 0 {
		select {
		case sig := <-stop:
			s.stopping = true
			s.log.Info("passing on a signal", "signal", sig.String(), "pid", pid)
			if n, ok := sig.(syscall.Signal); ok {
				_ = unix.Kill(pid, n) // it is not waited for yet: the pid is its own
			}
		case <-dead:
			s.reap()
		case m := <-said:
			s.hear(ours, m)
		}
	}
	// What it has said is there, whether anybody else holds its end or not.
	if err := unix.Shutdown(ours, unix.SHUT_RD); err != nil {
		s.log.Error("the supervised process cannot be listened to", "err", err)
	}
	for listening := true; listening; {
		select {
		case m := <-said:
			s.hear(ours, m)
		case <-heard:
			listening = false
		}
	}
	closeFiles([]int{ours})
	return nil
}

// heardMessage is one message of a charge.
type heardMessage struct {
	message []byte
	files   []int
	err     error
}

// listen passes messages on until the charge's end is closed, or reading is shut
// down and all is read.
func listen(fd int, said chan<- heardMessage) {
	buffer := make([]byte, maxMessage)
	for {
		n, files, err := receive(fd, buffer)
		switch {
		case errors.Is(err, errMessage):
			said <- heardMessage{err: err}
		case err != nil: // io.EOF, or the end of the socket by another word
			return
		default:
			said <- heardMessage{message: append([]byte(nil), buffer[:n]...), files: files}
		}
	}
}

// hear does what a message of the charge asks for.
func (s *supervisor) hear(fd int, m heardMessage) {
	r, err := request{}, m.err
	if err == nil {
		r, err = parseRequest(m.message, len(m.files))
	}
	if err != nil {
		closeFiles(m.files)
		s.log.Error("the supervised process says what is not understood", "err", err)
		return
	}
	switch r.Op {
	case opPut:
		s.store.put(r, m.files)
	case opUpdate:
		if !s.store.update(r.Name, r.Data) {
			s.log.Error("the supervised process updates what is not kept", "name", r.Name)
		}
	case opRemove:
		s.store.remove(r.Name)
	case opGet:
		var found []*entry
		if e := s.store.entries[r.Name]; e != nil {
			found = append(found, e)
		}
		s.answerWith(fd, found, false)
	case opNext:
		batch, more := s.store.next(r.Name)
		s.answerWith(fd, batch, more)
	case opStatus:
		s.reap() // whoever asks has seen it end
		status, known := s.store.statusOf(r.PID)
		s.answer(fd, response{Known: known, Status: uint32(status)}, nil)
	}
}

func (s *supervisor) answerWith(fd int, entries []*entry, more bool) {
	answer := response{More: more}
	var files []int
	for _, e := range entries {
		answer.Entries = append(answer.Entries, header{Name: e.name, PID: e.pid, Data: e.data, Files: len(e.files)})
		files = append(files, e.files...)
	}
	s.answer(fd, answer, files)
}

// answer answers the charge, which waits for one answer at a time: there is room.
func (s *supervisor) answer(fd int, r response, files []int) {
	message, err := json.Marshal(r)
	if err == nil {
		err = send(fd, message, files)
	}
	if err != nil && !errors.Is(err, unix.EPIPE) && !errors.Is(err, io.EOF) {
		s.log.Error("the supervised process is not answered", "err", err)
	}
}

func isCrash(status unix.WaitStatus) bool {
	return status.Signaled() || status.ExitStatus() == crashed
}

// exitCode is what a shell would say.
func exitCode(status unix.WaitStatus) int {
	if status.Signaled() {
		return 128 + int(status.Signal())
	}
	return status.ExitStatus()
}

func describe(status unix.WaitStatus) string {
	if status.Signaled() {
		return "by signal " + unix.SignalName(status.Signal())
	}
	return fmt.Sprintf("with exit code %d", status.ExitStatus())
}

package nodeagent

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"sanfran.dev/nodeagent/container"
	"sanfran.dev/nodeagent/workerconn"
	"sanfran.dev/router"
)

// Reasons of containers that ended; the worker gives others (UncaughtException,
// UnhandledRejection).
const (
	// ReasonOutOfMemory: the kernel ended the container at its memory limit, or at
	// that of all together.
	// It is Kubernetes' own word.
	ReasonOutOfMemory = "OOMKilled"
	// ReasonHeapOutOfMemory: V8 ended the process at the limit of its heap.
	ReasonHeapOutOfMemory = "HeapOutOfMemory"
	// ReasonEventLoopBlocked: the function did not let its event loop run.
	ReasonEventLoopBlocked = "EventLoopBlocked"
	// ReasonGracePeriodOver: the container ended in time, and the request did not.
	ReasonGracePeriodOver = "GracePeriodOver"
)

// failure is why a pod is not ready, or why a container ended.
type failure struct {
	// reason is one CamelCase word. The first line of message is one sentence
	// for people; further lines are for the pod's owner.
	reason, message string
	// end is set if a container ended with it.
	end *termination
}

// termination is how a container ended by itself, or was ended because it was
// of no use.
type termination struct {
	reason, message string
	// code is the exit code, 128 + signal if there is one.
	code, signal int
	// startedAt is when the container became the pod's.
	startedAt, finishedAt time.Time
}

func (f *failure) Error() string { return f.reason + ": " + f.message }

// asFailure finds the failure in an error's chain.
func asFailure(err error) *failure {
	var f *failure
	if errors.As(err, &f) {
		return f
	}
	return nil
}

// ended makes the failure the end of a container.
func (f *failure) ended(status container.ExitStatus, startedAt, now time.Time) *failure {
	f.end = &termination{
		reason: f.reason, message: f.message, code: status.Code, signal: int(status.Signal),
		startedAt: startedAt, finishedAt: now,
	}
	return f
}

// killed is how a container ends that the agent kills.
var killed = container.ExitStatus{Code: 128 + int(syscall.SIGKILL), Signal: syscall.SIGKILL}

// problem is what a caller is told whose request met the failure. What a
// function threw is for its owner alone: it may hold anything.
func (f *failure) problem() router.Problem {
	p := router.Problem{Status: http.StatusBadGateway, Code: f.reason}
	p.Message, _, _ = strings.Cut(f.message, "\n")
	switch f.reason {
	case "LoadError":
		p.Message = "the function threw an error while it was loading; kubectl describe pod says which"
	case "UncaughtException":
		p.Message = "the function's process ended with an error that nobody caught; kubectl describe pod says which"
	case "UnhandledRejection":
		p.Message = "the function's process ended with a rejected promise that nobody handled; kubectl describe pod says which"
	case ReasonEventLoopBlocked, ReasonLoadTimeout, ReasonGracePeriodOver:
		p.Status = http.StatusGatewayTimeout
	}
	return p
}

// exitFailure says why a leased container ended by itself. It waits, for a
// bounded time, for what the container said last.
func exitFailure(w *warmContainer, startedAt time.Time) *failure {
	select {
	case <-w.conn.Done():
	case <-time.After(exitGrace):
	}
	w.output.finish()
	status := w.container.ExitStatus()
	return deathFailure(status, w.conn.Ending(), w.output.last()).ended(status, startedAt, time.Now())
}

// deathFailure names the end of a container by its exit status, the worker's
// last word if it said one, and the end of its output.
func deathFailure(status container.ExitStatus, word *workerconn.Ending, output string) *failure {
	f := &failure{reason: ReasonExited}
	switch {
	case status.NodeFull:
		f.reason, f.message = ReasonOutOfMemory, "the memory that this node gives to functions was used up, and the kernel ended this container, which was below its own limit; give the pod a larger resources.requests.memory, or the node's agent more memory"
	case status.OOMKilled:
		f.reason, f.message = ReasonOutOfMemory, "the container used more memory than its limit; give the pod a larger resources.limits.memory"
	case aborted(status) && strings.Contains(output, heapIsFull):
		f.reason, f.message = ReasonHeapOutOfMemory, "the function used more memory than the heap of Node.js may have"
		for line := range strings.Lines(output) { // what follows is where Node.js itself was
			if strings.Contains(line, heapIsFull) {
				output = line
			}
		}
	case word != nil && status.Signal == 0:
		f.reason, f.message = word.Reason, word.Message
		if word.Stack != "" {
			f.message += "\n" + firstLines(word.Stack, 5)
		}
		return f
	case status.Signal != 0:
		f.message = fmt.Sprintf("the container was ended by signal %s", unix.SignalName(status.Signal))
	default:
		f.message = fmt.Sprintf("the container ended by itself with exit code %d", status.Code)
	}
	if words := lastWords(output); words != "" {
		f.message += "\n" + words // a function's output is for its owner
	}
	return f
}

// heapIsFull is what V8 writes before it aborts for want of memory.
const heapIsFull = "JavaScript heap out of memory"

// aborted reports whether a process ended as abort(3) ends one, in which the
// first process of a pid namespace is special: it cannot be ended by SIGABRT,
// and goes on to an instruction that the processor refuses.
func aborted(status container.ExitStatus) bool {
	switch status.Signal {
	case syscall.SIGABRT, syscall.SIGSEGV, syscall.SIGILL, syscall.SIGTRAP, syscall.SIGBUS:
		return true
	}
	return status.Code == 128+int(syscall.SIGABRT)
}

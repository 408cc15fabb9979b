package workerconn

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// ErrProtocol marks a connection that ended because the peer did not keep to
// the protocol.
var ErrProtocol = errors.New("the worker broke the control protocol")

// maxLine bounds one message in either direction, its newline included.
const maxLine = 1 << 20

// Bounds on the texts of a failure; what is longer is cut.
const (
	maxMessage = 4 << 10
	maxStack   = 32 << 10
)

// reasons are all that a worker may give. Function code can write to the control
// socket too: with words of its choice it could pass for the agent's own
// reasons, or make metrics by reason grow without end.
var reasons = []string{"SyntaxError", "ModuleNotFound", "NoHandler", "LoadError", "LoadTimeout", "Exited"}

// ends are all that a worker may give for the end of a function that ran.
var ends = []string{"UncaughtException", "UnhandledRejection", "Exited"}

// Bounds of an activity report's numbers.
const (
	maxCount   = 1 << 20
	maxDelayMs = 24 * 60 * 60 * 1000
)

// Kinds of what a worker has loaded.
const (
	kindHandler = "handler"
	kindServer  = "server"
)

// Activation tells a warm worker which function it is from now on.
type Activation struct {
	Lease     string `json:"lease"`
	Nonce     string `json:"nonce"`
	Namespace string `json:"namespace"`
	Function  string `json:"function"`
	Pod       string `json:"pod"`
	Revision  string `json:"revision"`
	// Entry is the folder (or file) of the function's code in the container.
	Entry string `json:"entry"`
	// PodAddress is the pod's IP address, with its IPv6 one behind a comma if it
	// has both: connections whose local address it is need no lease id.
	PodAddress string            `json:"podAddress"`
	Port       int               `json:"port"`
	Hostname   string            `json:"hostname"`
	Env        map[string]string `json:"env"`
	// Command is the program to run and its arguments; empty: what the bundle
	// says. WorkingDir is where; empty: the folder of Entry.
	Command    []string `json:"command,omitempty"`
	WorkingDir string   `json:"workingDir,omitempty"`
	// LoadTimeout bounds loading; the worker reports LoadTimeout after it.
	LoadTimeout time.Duration `json:"-"`
	// CompileCache is the folder in the container where V8's compiled code of
	// the function lies, if CompileCacheFilled, and is written; empty: nowhere.
	// Its last part is what the worker said when it was warm.
	CompileCache       string `json:"compileCache,omitempty"`
	CompileCacheFilled bool   `json:"compileCacheFilled,omitempty"`
}

// Activity is what a worker says of itself.
type Activity struct {
	// InFlight counts requests that run, those on direct connections included.
	InFlight int
	// Direct counts open connections to the pod's own address.
	Direct int
	// Came counts what has come since the lease began: connections to the pod's
	// address, and requests on others. It begins anew after 2^31.
	Came uint32
	// LoopDelay is by how much the worker's event loop was late at worst since
	// the report before.
	LoopDelay time.Duration
	// Debugger says that an inspector is open: the worker may stand still.
	Debugger bool
	// SIGTERM says that the function listened for it when Ping was last answered.
	SIGTERM bool
}

// Busy reports whether anything is going on.
func (a Activity) Busy() bool { return a.InFlight > 0 || a.Direct > 0 }

// Ending is a worker's last word: the function itself ends the process.
type Ending struct {
	// Reason is UncaughtException, UnhandledRejection or Exited.
	Reason string
	// Message is one line naming file and line where there is one.
	Message string
	Stack   string
}

// LoadError is a worker's report that the function does not load.
type LoadError struct {
	// Reason is SyntaxError, ModuleNotFound, NoHandler, LoadError, LoadTimeout
	// or Exited.
	Reason string
	// Message is one line naming file and line where there is one.
	Message string
	Stack   string
}

func (e *LoadError) Error() string { return e.Reason + ": " + e.Message }

// message is every field of every message a worker sends.
type message struct {
	Type     string  `json:"type"`
	LoadMs   float64 `json:"loadMs"`
	Reason   string  `json:"reason"`
	Message  string  `json:"message"`
	Stack    string  `json:"stack"`
	InFlight int     `json:"inFlight"`
	Direct   int     `json:"direct"`
	Came     uint32  `json:"came"`
	// CompileCache comes with "warm".
	CompileCache string  `json:"compileCache"`
	DelayMs      float64 `json:"delayMs"`
	Debugger     bool    `json:"debugger"`
	SIGTERM      bool    `json:"sigterm"`
	// Kind comes with "ready".
	Kind string `json:"kind"`
}

func (m message) activity() Activity {
	return Activity{InFlight: m.InFlight, Direct: m.Direct, LoopDelay: time.Duration(m.DelayMs * float64(time.Millisecond)), Debugger: m.Debugger, Came: m.Came, SIGTERM: m.SIGTERM}
}

func parse(line []byte) (message, error) {
	var m message
	if err := json.Unmarshal(line, &m); err != nil {
		return m, fmt.Errorf("%w: a line that is no message: %w", ErrProtocol, err)
	}
	if m.InFlight < 0 || m.InFlight > maxCount || m.Direct < 0 || m.Direct > maxCount {
		return m, fmt.Errorf("%w: activity %d, %d is out of range", ErrProtocol, m.InFlight, m.Direct)
	}
	if m.DelayMs < 0 || m.DelayMs > maxDelayMs {
		return m, fmt.Errorf("%w: an event loop's delay of %v ms is out of range", ErrProtocol, m.DelayMs)
	}
	if m.Kind != "" && m.Kind != kindHandler && m.Kind != kindServer {
		return m, fmt.Errorf("%w: kind %.40q", ErrProtocol, m.Kind)
	}
	return m, nil
}

// loadError makes a failure fit to be shown to people and to Kubernetes.
func (m message) loadError() *LoadError {
	e := LoadError(m.lastWord(reasons, "LoadError"))
	return &e
}

// ending makes a last word fit to be shown.
func (m message) ending() *Ending {
	e := m.lastWord(ends, "Exited")
	return &e
}

// lastWord bounds what the worker says, and makes a reason that is not among
// those it may give the other one.
func (m message) lastWord(known []string, otherwise string) Ending {
	e := Ending{
		Reason:  m.Reason,
		Message: strings.Map(printable, cut(m.Message, maxMessage)),
		Stack:   cut(m.Stack, maxStack),
	}
	if !slices.Contains(known, e.Reason) {
		e.Reason = otherwise
	}
	if e.Message == "" {
		e.Message = "the worker gave no message"
	}
	return e
}

// printable keeps a message on one line.
func printable(r rune) rune {
	if unicode.IsPrint(r) {
		return r
	}
	return ' '
}

// cut shortens a text to at most n bytes, at a rune's end.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

type activateMessage struct {
	Type string `json:"type"`
	Activation
	LoadTimeoutMs int64 `json:"loadTimeoutMs"`
}

type compileMessage struct {
	Type string `json:"type"`
}

type drainMessage struct {
	Type    string `json:"type"`
	GraceMs int64  `json:"graceMs"`
}

// A bareMessage has nothing but its type.
type bareMessage struct {
	Type string `json:"type"`
}

type terminateMessage struct {
	Type string `json:"type"`
	// Early: only if the function listens for SIGTERM.
	Early bool `json:"early,omitempty"`
}

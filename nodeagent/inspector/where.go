package inspector

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"regexp"
	"sync/atomic"
	"syscall"

	"github.com/gorilla/websocket"
)

// Port is where Node.js opens its inspector, on loopback.
const Port = 9229

const (
	// maxGreeting bounds what is read until the two sides know each other,
	// maxBytes what is read then, maxMessage one message of that. Each script is
	// told in some 600 bytes, and with its source map where that is inline; each
	// call takes some 2 KB.
	maxGreeting = 64 << 10
	maxBytes    = 32 << 20
	maxMessage  = 8 << 20
	// maxScripts is how many scripts' names are kept, maxFrames how many calls,
	// maxName how many bytes of a name.
	maxScripts = 20_000
	maxFrames  = 50
	maxName    = 300
	// maxHalts is how often the thread is halted: what runs for ever may be a
	// sequence of short calls, between which only Node.js is at work, for some 20
	// statements.
	maxHalts = 200
)

// Dial connects to the inspector of the process.
type Dial func(context.Context) (net.Conn, error)

// Where halts the process's main thread, as a breakpoint does, and returns where
// it is, without the calls of files in the folder own. If it is in no other code
// than that and Node.js's own, it is let go step by step, for some. The
// thread stays halted until forget is called, which must be done when there is no
// error, or ctx ends, which bounds the call.
func Where(ctx context.Context, dial Dial, own string) (_ Stack, forget func(), err error) {
	defer func() {
		if err != nil && ctx.Err() != nil {
			err = fmt.Errorf("ask the inspector where the process is: %w", context.Cause(ctx))
		}
	}()
	var left atomic.Int64
	left.Store(maxGreeting)
	bounded := func(dialCtx context.Context, _, _ string) (net.Conn, error) {
		conn, err := dial(dialCtx)
		if err != nil {
			return nil, err
		}
		// Whatever the other side makes net/http wait for, such as what follows
		// an answer 101.
		context.AfterFunc(ctx, func() { conn.Close() })
		return &boundedConn{Conn: conn, left: &left}, nil
	}
	id, err := target(ctx, bounded)
	if err != nil {
		return nil, nil, fmt.Errorf("ask the inspector for its target: %w", err)
	}
	dialer := websocket.Dialer{NetDialContext: bounded}
	conn, answer, err := dialer.DialContext(ctx, "ws://"+host+"/"+id, nil)
	if err != nil {
		return nil, nil, fmt.Errorf("connect to the inspector: %w", err)
	}
	answer.Body.Close()
	left.Store(maxBytes)
	stack, err := halt(conn, own)
	if err != nil {
		conn.NetConn().Close()
		return nil, nil, fmt.Errorf("ask the inspector for the stack: %w", err)
	}
	return stack, func() { conn.NetConn().Close() }, nil
}

// host is what requests name. Node.js refuses names; where it is, is the
// dialer's affair.
var host = fmt.Sprintf("127.0.0.1:%d", Port)

var validTarget = regexp.MustCompile(`^[0-9a-f-]{1,64}$`)

// target is the name of the process's main thread, which only it knows.
func target(ctx context.Context, dial func(context.Context, string, string) (net.Conn, error)) (string, error) {
	transport := &http.Transport{DialContext: dial, DisableKeepAlives: true, MaxResponseHeaderBytes: maxGreeting / 4}
	defer transport.CloseIdleConnections()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+host+"/json/list", nil)
	if err != nil {
		return "", err
	}
	answer, err := transport.RoundTrip(request) // which follows no redirect
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	var targets []struct {
		ID string `json:"id"`
	}
	if err := json.NewDecoder(answer.Body).Decode(&targets); err != nil {
		return "", fmt.Errorf("not the answer of an inspector: %w", err)
	}
	if len(targets) == 0 || !validTarget.MatchString(targets[0].ID) {
		return "", errors.New("not the answer of an inspector: it names no target")
	}
	return targets[0].ID, nil
}

// message is what of the inspector's messages matters here.
type message struct {
	Method string `json:"method"`
	Params struct {
		ScriptID   string      `json:"scriptId"`
		URL        string      `json:"url"`
		CallFrames []callFrame `json:"callFrames"`
	} `json:"params"`
}

type callFrame struct {
	FunctionName string `json:"functionName"`
	Location     struct {
		ScriptID     string `json:"scriptId"`
		LineNumber   int    `json:"lineNumber"`
		ColumnNumber int    `json:"columnNumber"`
	} `json:"location"`
}

// halt halts the main thread and returns where. A stack of nothing but Node.js's
// own code is better than none.
func halt(conn *websocket.Conn, own string) (stack Stack, err error) {
	conn.SetReadLimit(maxMessage)
	urls := map[string]string{} // of the scripts; calls name them by number alone
	next := "Debugger.pause"
	if err := command(conn, "Debugger.enable"); err != nil {
		return nil, err
	}
	for range maxHalts {
		if err = command(conn, next); err != nil {
			break
		}
		var calls []callFrame
		if calls, err = await(conn, "Debugger.paused", urls); err != nil {
			break
		}
		if now := stackOf(calls, urls).outside(own); len(now) > 0 {
			stack = now
		}
		if stack.hasFunction() {
			return stack, nil
		}
		// Halted at a moment of chance, a sequence of short calls of which most
		// are Node.js's could be met there for ever: a step is not by chance.
		next = "Debugger.stepInto"
	}
	switch {
	case len(stack) > 0:
		return stack, nil
	case err != nil:
		return nil, err
	default:
		return nil, errors.New("the process is in no call")
	}
}

// command has the inspector do something. Nobody asks for its answer.
func command(conn *websocket.Conn, method string) error {
	return conn.WriteMessage(websocket.TextMessage, []byte(`{"id":1,"method":"`+method+`"}`))
}

// await reads until the inspector tells of an event, and returns the calls that it
// names. It remembers the scripts it is told of meanwhile.
func await(conn *websocket.Conn, event string, urls map[string]string) ([]callFrame, error) {
	for {
		_, text, err := conn.ReadMessage()
		if err != nil {
			return nil, err
		}
		var m message
		if err := json.Unmarshal(text, &m); err != nil {
			return nil, fmt.Errorf("not a message of an inspector: %w", err)
		}
		switch m.Method {
		case event:
			return m.Params.CallFrames, nil
		case "Debugger.scriptParsed":
			if len(urls) == maxScripts {
				return nil, fmt.Errorf("it tells of more than %d scripts", maxScripts)
			}
			urls[printable(m.Params.ScriptID, maxName)] = printable(pathOf(m.Params.URL), maxName)
		}
	}
}

func stackOf(calls []callFrame, urls map[string]string) (stack Stack) {
	for _, call := range calls[:min(len(calls), maxFrames)] {
		stack = append(stack, Frame{
			Function: printable(call.FunctionName, maxName),
			File:     urls[call.Location.ScriptID],
			Line:     call.Location.LineNumber + 1, Column: call.Location.ColumnNumber + 1,
		})
	}
	// Node.js emits an event when it opens the inspector, from within the call that
	// it interrupts, and may be halted there.
	if len(stack) > 1 && stack[0].Function == "emit" && stack[0].File == "node:events" {
		stack = stack[1:]
	}
	return stack
}

var errTooMuch = errors.New("it sends too much")

// boundedConn reads no more than what is left for all connections together.
type boundedConn struct {
	net.Conn
	left *atomic.Int64
}

func (c *boundedConn) Read(p []byte) (int, error) {
	acknowledgeAtOnce(c.Conn)
	n, err := c.Conn.Read(p)
	if c.left.Add(-int64(n)) < 0 {
		return 0, errTooMuch
	}
	return n, err
}

// acknowledgeAtOnce has the kernel not wait with the acknowledgement of what comes
// next. Node.js sends an event in several parts, and the second only when the
// first is acknowledged (Nagle's algorithm), which would take 40 ms each time. The
// kernel forgets it (TCP_QUICKACK in tcp(7)), so it is said for every read. It is
// but faster by it: an error is nothing to tell.
func acknowledgeAtOnce(conn net.Conn) {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		_ = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_QUICKACK, 1)
	})
}

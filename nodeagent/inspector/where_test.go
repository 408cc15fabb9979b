package inspector

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/gorilla/websocket"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const uid = "d2b65588-20cb-4b0d-a7c3-8cc71a557f94"

// fakeInspector answers like that of Node.js, but for what a test replaces.
type fakeInspector struct {
	list   string
	script func(*websocket.Conn)
	// closed is closed when the debugger has gone.
	closed chan struct{}
}

func (f *fakeInspector) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/json/list":
		fmt.Fprint(w, f.list)
	case "/" + uid:
		upgrader := websocket.Upgrader{}
		conn, err := upgrader.Upgrade(w, r, nil)
		if err != nil {
			return
		}
		defer conn.Close()
		f.script(conn)
		for {
			if _, _, err := conn.ReadMessage(); err != nil {
				close(f.closed)
				return
			}
		}
	default:
		http.NotFound(w, r)
	}
}

func newFakeInspector() *fakeInspector {
	return &fakeInspector{list: `[{"id":"` + uid + `","type":"node"}]`, closed: make(chan struct{}), script: say(
		`{"id":1,"result":{}}`,
		`{"method":"Debugger.scriptParsed","params":{"scriptId":"7","url":"/function/index.js","sourceMapURL":"data:x"}}`,
		`{"method":"Debugger.scriptParsed","params":{"scriptId":"8","url":"file:///function/lib/tick%20tock.mjs"}}`,
		`{"method":"Debugger.scriptParsed","params":{"scriptId":"9","url":"/opt/sanfran/worker/server.js"}}`,
		`{"method":"Debugger.scriptParsed","params":{"scriptId":"10","url":"/opt/sanfran/other.js"}}`,
		`{"method":"Debugger.scriptParsed","params":{"scriptId":"11","url":"node:events"}}`,
		`{"id":2,"result":{}}`,
		`{"method":"Debugger.paused","params":{"callFrames":[
			{"functionName":"serve","location":{"scriptId":"9"}}, {"functionName":"emit","location":{"scriptId":"11"}}]}}`,
		`{"method":"Debugger.resumed","params":{}}`,
		`{"method":"Debugger.paused","params":{"callFrames":[]}}`,
		`{"method":"Debugger.resumed","params":{}}`,
		`{"method":"Debugger.paused","params":{"reason":"other","callFrames":[
			{"functionName":"now","location":{"scriptId":"3","lineNumber":0,"columnNumber":4}},
			{"functionName":"loop","location":{"scriptId":"8","lineNumber":8,"columnNumber":1},"scopeChain":[]},
			{"functionName":"","location":{"scriptId":"7","lineNumber":2}},
			{"functionName":"handle","location":{"scriptId":"9","lineNumber":3,"columnNumber":1}},
			{"functionName":"serve\nme","location":{"scriptId":"10","lineNumber":10,"columnNumber":1}}]}}`,
	)}
}

func say(lines ...string) func(*websocket.Conn) {
	return func(conn *websocket.Conn) {
		for _, line := range lines {
			if conn.WriteMessage(websocket.TextMessage, []byte(line)) != nil {
				return
			}
		}
	}
}

// dialTo serves with the handler and returns how to reach it.
func dialTo(t *testing.T, handler http.Handler) Dial {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return dialAddress(server.Listener.Addr())
}

func dialAddress(address net.Addr) Dial {
	return func(ctx context.Context) (net.Conn, error) {
		var dialer net.Dialer
		return dialer.DialContext(ctx, "tcp", address.String())
	}
}

func TestWhere(t *testing.T) {
	fake := newFakeInspector()
	stack, forget, err := Where(t.Context(), dialTo(t, fake), "/opt/sanfran/worker")
	if err != nil {
		t.Fatal(err)
	}
	const want = `    at now (<anonymous>:1:5)
    at loop (/function/lib/tick tock.mjs:9:2)
    at /function/index.js:3:1
    at serve me (/opt/sanfran/other.js:11:2)`
	if stack.String() != want {
		t.Errorf("the stack is\n%s\nwant\n%s", stack, want)
	}
	select {
	case <-fake.closed:
		t.Error("the debugger has gone, and the process runs on")
	default:
	}
	forget()
	<-fake.closed

	for folder, want := range map[string]string{
		"/function": "lib/tick tock.mjs:9", "/function/": "lib/tick tock.mjs:9", "/opt/sanfran": "other.js:11", "/func": "", "/elsewhere": "",
	} {
		if got := stack.Place(folder); got != want {
			t.Errorf("the place in %s is %q, want %q", folder, got, want)
		}
	}
}

// TestWhereBelievesNothing has on the inspector's port whatever a function may
// put there.
func TestWhereBelievesNothing(t *testing.T) {
	endless := func(head, again string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			conn, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			_, err = io.WriteString(conn, head)
			for text := strings.Repeat(again, 1000); err == nil; {
				_, err = io.WriteString(conn, text)
			}
		})
	}
	with := func(list string, script func(*websocket.Conn)) http.Handler {
		fake := newFakeInspector()
		if list != "" {
			fake.list = list
		}
		if script != nil {
			fake.script = script
		}
		return fake
	}
	for name, tc := range map[string]struct {
		handler http.Handler
		want    string
	}{
		"a server":             {http.NotFoundHandler(), "not the answer of an inspector"},
		"no HTTP":              {endless("hello", "\r\n"), "malformed HTTP"},
		"endless headers":      {endless("HTTP/1.1 200 OK\r\n", "A: b\r\n"), "headers exceeded"},
		"endless answer":       {endless("HTTP/1.1 200 OK\r\n\r\n[", "[],"), "not the answer of an inspector"},
		"leads elsewhere":      {http.RedirectHandler("http://192.0.2.1/json/list", http.StatusFound), "not the answer of an inspector"},
		"no target":            {with("[]", nil), "names no target"},
		"a target elsewhere":   {with(`[{"id":"../json"}]`, nil), "names no target"},
		"an unknown target":    {with(`[{"id":"1"}]`, nil), "bad handshake"},
		"no JSON":              {with("", say("{")), "not a message of an inspector"},
		"other JSON":           {with("", say(`{"method":"Debugger.paused","params":[]}`)), "not a message of an inspector"},
		"no calls":             {with("", again(`{"method":"Debugger.paused","params":{}}`, `{"method":"Debugger.resumed"}`)), "in no call"},
		"a huge message":       {with("", say(strings.Repeat(" ", maxMessage+1))), "read limit exceeded"},
		"many messages":        {with("", again(strings.Repeat(" ", maxMessage/2)+"{}")), "it sends too much"},
		"many scripts":         {with("", manyScripts), "more than 20000 scripts"},
		"closes":               {with("", func(conn *websocket.Conn) { conn.Close() }), "ask the inspector for the stack"},
		"endless in handshake": {handshake(endless("HTTP/1.1 101 x\r\n", "A: b\r\n")), "it sends too much"},
	} {
		t.Run(name, func(t *testing.T) {
			stack, _, err := Where(t.Context(), dialTo(t, tc.handler), "/own")
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%v, %v; want an error with %q", stack, err, tc.want)
			}
		})
	}
}

func again(lines ...string) func(*websocket.Conn) {
	return func(conn *websocket.Conn) {
		for n := 0; conn.WriteMessage(websocket.TextMessage, []byte(lines[n%len(lines)])) == nil; n++ {
		}
	}
}

func manyScripts(conn *websocket.Conn) {
	for n := range maxScripts + 1 {
		say(fmt.Sprintf(`{"method":"Debugger.scriptParsed","params":{"scriptId":"%d"}}`, n))(conn)
	}
}

// handshake is an inspector up to the upgrade.
func handshake(then http.Handler) http.Handler {
	fake := newFakeInspector()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/json/list" {
			fake.ServeHTTP(w, r)
			return
		}
		then.ServeHTTP(w, r)
	})
}

// TestWhereKnowsNodeItself has a process that is always in code of Node.js.
func TestWhereKnowsNodeItself(t *testing.T) {
	const paused = `{"method":"Debugger.paused","params":{"callFrames":[{"functionName":"tick","location":{"scriptId":"1"}}]}}`
	for name, rest := range map[string]func(*websocket.Conn){
		"for ever":       again(paused, `{"method":"Debugger.resumed"}`),
		"and then stops": say(paused, "no JSON"),
	} {
		fake := newFakeInspector()
		fake.script = func(conn *websocket.Conn) {
			say(`{"method":"Debugger.scriptParsed","params":{"scriptId":"1","url":"node:timers"}}`)(conn)
			rest(conn)
		}
		stack, forget, err := Where(t.Context(), dialTo(t, fake), "/own")
		if err != nil || stack.String() != "    at tick (node:timers:1:1)" {
			t.Fatalf("%s: %v, %v", name, stack, err)
		}
		forget()
	}
}

func TestWhereIsBoundedByItsContext(t *testing.T) {
	reached := make(chan struct{}, 1)
	silent := func(conn *websocket.Conn) { reached <- struct{}{} }
	fake := newFakeInspector()
	fake.script = silent
	switches := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
		reached <- struct{}{}
		_, _ = io.Copy(io.Discard, conn)
	})
	for name, dial := range map[string]Dial{
		"switches protocols": dialTo(t, switches),
		"accepts nobody":     dialAddress(unaccepted(t, reached)),
		"says nothing":       dialTo(t, fake),
	} {
		ctx, cancel := context.WithCancelCause(t.Context())
		go func() {
			<-reached
			cancel(fmt.Errorf("time is over"))
		}()
		if stack, _, err := Where(ctx, dial, "/own"); err == nil || !strings.Contains(err.Error(), "time is over") {
			t.Errorf("%s: %v, %v", name, stack, err)
		}
	}
	<-fake.closed
}

// unaccepted is a listener that takes connections and does nothing with them.
func unaccepted(t *testing.T, reached chan<- struct{}) net.Addr {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	accepted := make(chan struct{})
	go func() {
		defer close(accepted)
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		reached <- struct{}{}
		t.Cleanup(func() { conn.Close() })
	}()
	t.Cleanup(func() { listener.Close(); <-accepted })
	return listener.Addr()
}

func TestTheEventOfTheInspectorIsNoneOfTheFunctions(t *testing.T) {
	var emit, call callFrame
	emit.FunctionName, emit.Location.ScriptID = "emit", "1"
	call.FunctionName = "loop"
	for want, calls := range map[string][]callFrame{"loop": {emit, call}, "emit": {emit}} {
		if stack := stackOf(calls, map[string]string{"1": "node:events"}); stack[0].Function != want {
			t.Errorf("the innermost of %v is %v", calls, stack)
		}
	}
}

func TestFramesAreBounded(t *testing.T) {
	calls := make([]callFrame, 1000)
	for i := range calls {
		calls[i].FunctionName = strings.Repeat("é\x00", 1000)
	}
	stack := stackOf(calls, nil)
	if len(stack) != maxFrames || len(stack[0].Function) > maxName || strings.ContainsRune(stack[0].Function, 0) {
		t.Errorf("%d calls, the first named %q", len(stack), stack[0].Function)
	}
}

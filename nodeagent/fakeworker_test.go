package nodeagent

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"

	"sanfran.dev/nodeagent/container"
	"sanfran.dev/nodeagent/container/containertest"
	"sanfran.dev/router"
)

// fakeWorkers are the programs of fake containers. They keep to the control
// protocol and to the rules of leases like the real worker.
type fakeWorkers struct {
	mu sync.Mutex
	// broken functions do not load.
	broken map[string]bool
	loads  map[string]int
	// commands and folders are what the last activation of a function was told
	// to run, and where. One with a command is a server.
	commands map[string][]string
	folders  map[string]string
	// release, if not nil, is what a request for /block waits for; each one
	// that waits says so on blocked.
	release chan struct{}
	blocked chan struct{}
	// listens says that functions listen for SIGTERM; terminated gets a value
	// when one does, and it ends with goOn.
	listens bool
	// server says that functions listen by themselves.
	server bool
	// deaf says that workers take no connection any more.
	deaf       atomic.Bool
	terminated chan struct{}
	goOn       chan struct{}
	// left gets a value when the client of a request for /echo has gone.
	left chan struct{}
}

func newFakeWorkers() *fakeWorkers {
	return &fakeWorkers{broken: map[string]bool{}, loads: map[string]int{}, commands: map[string][]string{}, folders: map[string]string{}, release: make(chan struct{}), blocked: make(chan struct{}, 100), terminated: make(chan struct{}, 100), goOn: make(chan struct{}), left: make(chan struct{}, 100)}
}

func (f *fakeWorkers) loaded(function string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.loads[function]
}

func (f *fakeWorkers) setBroken(function string, broken bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.broken[function] = broken
}

func (f *fakeWorkers) setServer(server bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.server = server
}

// fakeWorker is one of them.
type fakeWorker struct {
	all    *fakeWorkers
	sock   net.Conn
	log    io.Writer
	exit   context.CancelFunc
	status container.ExitStatus

	mu       sync.Mutex
	active   map[string]string // the strings of the activation
	draining bool
	// stuck workers say nothing any more.
	stuck    bool
	inFlight int
	idle     *sync.Cond
}

func (f *fakeWorkers) run(ctx context.Context, p *containertest.Process) container.ExitStatus {
	ctx, exit := context.WithCancel(ctx)
	defer exit()
	sock, err := net.FileConn(p.Control)
	if err != nil {
		return container.ExitStatus{Code: 10}
	}
	listener, err := net.FileListener(p.Listener)
	if err != nil {
		return container.ExitStatus{Code: 11}
	}
	w := &fakeWorker{all: f, sock: sock, exit: exit, log: p.Log}
	w.idle = sync.NewCond(&w.mu)
	server := &http.Server{Handler: w}
	var work sync.WaitGroup
	work.Go(func() { _ = server.Serve(&hearing{listener, f, ctx.Done()}) })
	work.Go(func() { w.converse(ctx) })
	w.say(`{"type":"warm"}`)
	<-ctx.Done()
	server.Close()
	listener.Close()
	sock.Close()
	w.mu.Lock()
	w.inFlight = 0
	w.idle.Broadcast()
	w.mu.Unlock()
	work.Wait()
	return w.status
}

// hearing is a listener that a worker listens to while it is not deaf.
type hearing struct {
	net.Listener
	all    *fakeWorkers
	exited <-chan struct{}
}

// Accept implements net.Listener. The first connection that a deaf worker gets is
// lost with it, those behind wait in the socket's queue.
func (h *hearing) Accept() (net.Conn, error) {
	conn, err := h.Listener.Accept()
	if err == nil && h.all.deaf.Load() {
		<-h.exited
		conn.Close()
		return nil, net.ErrClosed
	}
	return conn, err
}

func (w *fakeWorker) say(line string) { _, _ = fmt.Fprintln(w.sock, line) }

func (w *fakeWorker) converse(ctx context.Context) {
	var drains sync.WaitGroup
	defer drains.Wait()
	terminating := false
	lines := bufio.NewScanner(w.sock)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var m map[string]any
		if json.Unmarshal(lines.Bytes(), &m) != nil {
			return
		}
		w.mu.Lock()
		stuck := w.stuck
		w.mu.Unlock()
		if stuck {
			<-ctx.Done()
			return
		}
		switch m["type"] {
		case "activate":
			w.activate(m)
		case "ping":
			w.say(`{"type":"activity","inFlight":1,"delayMs":7}`)
		case "terminate":
			if m["early"] == true && !w.all.listens || terminating {
				break
			}
			terminating = true
			w.all.terminated <- struct{}{}
			if !w.all.listens {
				w.status = container.ExitStatus{Code: 143}
				w.exit()
				break
			}
			drains.Go(func() {
				select {
				case <-w.all.goOn:
					w.status = container.ExitStatus{Code: 7}
					w.exit()
				case <-ctx.Done():
				}
			})
		case "drain":
			w.mu.Lock()
			w.draining = true
			w.mu.Unlock()
			drains.Go(func() {
				w.mu.Lock()
				for w.inFlight > 0 {
					w.idle.Wait()
				}
				w.mu.Unlock()
				w.say(fmt.Sprintf(`{"type":"drained","sigterm":%t}`, w.all.listens))
			})
		}
	}
}

func (w *fakeWorker) activate(m map[string]any) {
	active := map[string]string{}
	for key, value := range m {
		if s, ok := value.(string); ok {
			active[key] = s
		}
	}
	f := w.all
	f.mu.Lock()
	f.loads[active["function"]]++
	kind := "handler"
	if command, ok := m["command"].([]any); ok {
		kind = "server"
		f.commands[active["function"]] = nil
		for _, word := range command {
			f.commands[active["function"]] = append(f.commands[active["function"]], word.(string))
		}
	}
	f.folders[active["function"]] = active["workingDir"]
	if f.server {
		kind = "server"
	}
	broken := f.broken[active["function"]]
	f.mu.Unlock()
	if broken {
		w.print("it does not load\n")
		w.say(`{"type":"failed","reason":"SyntaxError","message":"index.js:1: broken","stack":"here"}`)
		return
	}
	w.mu.Lock()
	w.active = active
	w.mu.Unlock()
	w.say(`{"type":"ready","loadMs":1,"kind":"` + kind + `"}`)
}

// print writes into the function's log as JavaScript does.
func (w *fakeWorker) print(text string) {
	head := []byte{0x1e, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	binary.LittleEndian.PutUint32(head[8:], uint32(len(text)))
	_, _ = w.log.Write(append(head, text...))
}

// ServeHTTP is the function, behind the door of the lease.
func (w *fakeWorker) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	w.mu.Lock()
	if w.active == nil || w.draining || r.Header.Get(router.HeaderLease) != w.active["lease"] {
		nonce := w.active["nonce"]
		w.mu.Unlock()
		rw.Header().Set(router.HeaderRefused, nonce)
		rw.WriteHeader(http.StatusMisdirectedRequest)
		return
	}
	w.inFlight++
	active := w.active
	w.mu.Unlock()
	defer func() {
		w.mu.Lock()
		if w.inFlight > 0 {
			w.inFlight--
		}
		w.idle.Broadcast()
		w.mu.Unlock()
	}()
	switch r.URL.Path {
	case "/print":
		w.print(r.URL.Query().Get("text"))
	case "/stuck":
		w.mu.Lock()
		w.stuck = true
		w.mu.Unlock()
		w.all.blocked <- struct{}{}
		<-r.Context().Done()
		panic(http.ErrAbortHandler)
	case "/throw":
		w.say(`{"type":"ending","reason":"UncaughtException","message":"Error: password=1 (index.js:3)","stack":"Error: password=1\n    at x"}`)
		w.status = container.ExitStatus{Code: 1}
		w.exit()
		panic(http.ErrAbortHandler)
	case "/die":
		w.status = container.ExitStatus{Code: 3}
		w.exit()
		panic(http.ErrAbortHandler)
	case "/upgrade":
		conn, both, err := http.NewResponseController(rw).Hijack()
		if err != nil {
			panic(err)
		}
		defer conn.Close()
		fmt.Fprintf(both, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", r.Header.Get("Upgrade"))
		_ = both.Flush()
		_, _ = io.Copy(conn, both)
		return
	case "/echo":
		if err := echoLines(rw, r); err != nil {
			w.all.left <- struct{}{}
			panic(http.ErrAbortHandler)
		}
		return
	case "/client":
		fmt.Fprint(rw, r.Header[router.HeaderClient])
		return
	case "/traceparent":
		fmt.Fprint(rw, r.Header.Get("Traceparent"))
		return
	case "/connection":
		fmt.Fprint(rw, r.RemoteAddr)
		return
	case "/block":
		w.all.blocked <- struct{}{}
		select {
		case <-w.all.release:
		case <-r.Context().Done():
		}
	}
	fmt.Fprintf(rw, "%s/%s under %s", active["namespace"], active["pod"], active["lease"])
}

// echoLines says a hint, then each line back as it comes, and the trailer X-Sum.
func echoLines(rw http.ResponseWriter, r *http.Request) error {
	control := http.NewResponseController(rw)
	_ = control.EnableFullDuplex()
	rw.Header().Set("Link", "</style.css>")
	rw.WriteHeader(http.StatusEarlyHints)
	rw.Header().Del("Link")
	rw.Header().Set("Trailer", "X-Sum")
	rw.WriteHeader(http.StatusOK)
	_ = control.Flush()
	for in := bufio.NewReader(r.Body); ; {
		line, err := in.ReadString('\n')
		_, _ = io.WriteString(rw, line)
		_ = control.Flush()
		if errors.Is(err, io.EOF) {
			rw.Header().Set("X-Sum", r.Trailer.Get("X-Sum"))
			return nil
		}
		if err != nil {
			return err
		}
	}
}

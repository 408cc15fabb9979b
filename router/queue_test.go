package router

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	routesv1 "sanfran.dev/proto/sanfran/routes/v1"
)

// Room for one at a time goes to those in line in their order, also when some give
// up, and none of it is lost.
func TestTheLineMovesInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := new(queue)
		var room atomic.Int64
		var mu sync.Mutex
		var got []int
		var group sync.WaitGroup
		for i := range 6 {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			group.Go(func() {
				ok := q.awaitTurn(ctx, time.Duration(i+1)*time.Hour, func() bool {
					for n := room.Load(); n > 0; n = room.Load() {
						if room.CompareAndSwap(n, n-1) {
							return true
						}
					}
					return false
				})
				mu.Lock()
				defer mu.Unlock()
				if ok {
					got = append(got, i)
				} else {
					got = append(got, -i)
				}
			})
			synctest.Wait()
			if i == 2 {
				cancel() // in the middle of the line
				synctest.Wait()
			}
		}
		room.Add(1)
		q.roomMade()
		synctest.Wait()
		// Two at once, and one signal would do.
		room.Add(2)
		q.roomMade()
		synctest.Wait()
		time.Sleep(5*time.Hour + time.Minute) // the fifth gives up
		synctest.Wait()
		room.Add(1)
		q.roomMade()
		group.Wait()
		if want := []int{-2, 0, 1, 3, -4, 5}; !slices.Equal(got, want) {
			t.Errorf("served %v, want %v", got, want)
		}
		if q.inLine.Load() != 0 || len(q.line) != 0 {
			t.Error("somebody is left in line")
		}
	})
}

// Under any interleaving everybody in line is served in the end.
func TestNoSignalIsLost(t *testing.T) {
	f := functionOf(t, &routesv1.Policy{Concurrency: 1}, route("a", "f", "10.0.0.1", "L1"))
	q := &f.state.queue
	var group sync.WaitGroup
	for range 16 {
		group.Go(func() {
			for range 200 {
				c, v := f.acquire(&tries{}, "")
				if v == busy && !q.awaitTurn(context.Background(), time.Minute, func() bool {
					c, v = f.acquire(&tries{}, "")
					return v == chosen
				}) {
					t.Error("somebody in line was never served")
					return
				}
				runtime.Gosched()
				f.release(c)
			}
		})
	}
	group.Wait()
}

// busyGateway is a gateway to one function whose container holds every request until
// it may answer.
func busyGateway(t *testing.T, policy *routesv1.Policy) (gateway *Gateway, held chan chan struct{}) {
	held = make(chan chan struct{}, 100)
	container := newBackend(t, func(b *backend, w http.ResponseWriter, r *http.Request) {
		answer := make(chan struct{})
		held <- answer
		select {
		case <-answer:
		case <-r.Context().Done():
		}
		b.executed.Add(1)
		_, _ = io.WriteString(w, "done")
	})
	r := warmRoute(container.address(), "127.0.0.1:1")
	r.Policy = policy
	return newGateway(t, r).(*Gateway), held
}

// serve sends a request to the handler itself and tells what came of it.
func serve(ctx context.Context, g http.Handler) (status func() int, body func() string) {
	w := httptest.NewRecorder()
	done := make(chan struct{})
	go func() {
		defer close(done)
		g.ServeHTTP(w, httptest.NewRequest("GET", "/fn/hello", nil).WithContext(ctx))
	}()
	return func() int { <-done; return w.Code }, func() string { <-done; return w.Body.String() }
}

func (g *Gateway) queueOfHello() *queue {
	return &g.cfg.Table.Function(FunctionKey{"default", "hello"}).state.queue
}

// until polls for what another goroutine does in a moment.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}

func TestRequestsWaitForABusyContainer(t *testing.T) {
	gateway, held := busyGateway(t, &routesv1.Policy{Concurrency: 1, QueueLength: 2})
	queue := gateway.queueOfHello()
	first, _ := serve(t.Context(), gateway)
	answer := <-held
	second, _ := serve(t.Context(), gateway)
	until(t, "the second is in line", func() bool { return queue.inLine.Load() == 1 })
	leaving, leave := context.WithCancel(t.Context())
	third, _ := serve(leaving, gateway)
	until(t, "the third is in line", func() bool { return queue.inLine.Load() == 2 })
	fourth, body := serve(t.Context(), gateway)
	if fourth() != 503 || !strings.Contains(body(), `"QueueFull"`) {
		t.Errorf("one more than may wait: %d %s", fourth(), body())
	}
	leave()
	if third() != 499 {
		t.Errorf("a client that has gone: %d", third())
	}
	if len(held) != 0 {
		t.Fatal("the container was given a second request while it had one")
	}
	close(answer)
	if first() != 200 {
		t.Errorf("the first: %d", first())
	}
	answer = <-held
	// The second is served and waits no more: there is room for two again.
	fifth, _ := serve(t.Context(), gateway)
	sixth, _ := serve(t.Context(), gateway)
	until(t, "two are in line", func() bool { return queue.inLine.Load() == 2 })
	close(answer)
	close(<-held)
	close(<-held)
	if second() != 200 || fifth() != 200 || sixth() != 200 {
		t.Errorf("the second: %d, the fifth: %d, the sixth: %d", second(), fifth(), sixth())
	}
	if n, bytes := queue.waiting.Load(), gateway.held.Load(); n != 0 || bytes != 0 {
		t.Errorf("%d requests with %d bytes are still counted", n, bytes)
	}
}

func TestARequestDoesNotWaitForEver(t *testing.T) {
	gateway, held := busyGateway(t, &routesv1.Policy{Concurrency: 1, QueueTimeout: durationpb.New(20 * time.Millisecond)})
	first, _ := serve(t.Context(), gateway)
	answer := <-held
	w := httptest.NewRecorder()
	gateway.ServeHTTP(w, httptest.NewRequest("GET", "/fn/hello", nil))
	if w.Code != 503 || !strings.Contains(w.Body.String(), `"QueueTimeout"`) || w.Header().Get("Retry-After") != "5" || !strings.Contains(w.Body.String(), w.Header().Get(HeaderRequestID)) {
		t.Errorf("%d %v %s", w.Code, w.Header(), w.Body)
	}
	close(answer)
	first()
	if n, bytes := gateway.queueOfHello().waiting.Load(), gateway.held.Load(); n != 0 || bytes != 0 {
		t.Errorf("%d requests with %d bytes are still counted", n, bytes)
	}
}

func TestANewContainerServesThoseInLine(t *testing.T) {
	gateway, held := busyGateway(t, &routesv1.Policy{Concurrency: 1})
	first, _ := serve(t.Context(), gateway)
	answer := <-held
	second, _ := serve(t.Context(), gateway)
	until(t, "the second is in line", func() bool { return gateway.queueOfHello().inLine.Load() == 1 })
	other := newBackend(t, echo)
	r := route("b", "hello", "10.0.0.2", "L2")
	r.Instances[0].Address = other.address()
	r.Policy = &routesv1.Policy{Concurrency: 1}
	mustApply(t, gateway.cfg.Table, delta([]*routesv1.Route{r}))
	if second() != 200 || other.executed.Load() != 1 {
		t.Errorf("the second: %d, the new container executed %d", second(), other.executed.Load())
	}
	close(answer)
	first()
}

func TestNobodyWaitsForAFunctionThatIsGone(t *testing.T) {
	gateway, held := busyGateway(t, &routesv1.Policy{Concurrency: 1})
	first, _ := serve(t.Context(), gateway)
	answer := <-held
	second, body := serve(t.Context(), gateway)
	third, _ := serve(t.Context(), gateway)
	queue := gateway.queueOfHello()
	until(t, "two are in line", func() bool { return queue.inLine.Load() == 2 })
	mustApply(t, gateway.cfg.Table, delta(nil, "a"))
	if second() != 503 || third() != 503 || !strings.Contains(body(), `"NoInstance"`) {
		t.Errorf("got %d %s, and %d", second(), body(), third())
	}
	close(answer)
	first()
}

// Cold requests are bounded as those in line are, and told to the agent how long to
// wait; they are counted until the answer begins.
func TestColdRequestsAreBounded(t *testing.T) {
	arrived := make(chan http.Header, 10)
	begin, end := make(chan struct{}), make(chan struct{})
	home := newBackend(t, func(_ *backend, w http.ResponseWriter, r *http.Request) {
		arrived <- r.Header
		<-begin
		w.WriteHeader(200)
		_ = http.NewResponseController(w).Flush()
		<-end
	})
	r := parkedRoute(home.address())
	r.Policy = &routesv1.Policy{QueueLength: 2, QueueTimeout: durationpb.New(1500 * time.Millisecond)}
	gateway := newGateway(t, r).(*Gateway)
	first, _ := serve(t.Context(), gateway)
	second, _ := serve(t.Context(), gateway)
	for range 2 {
		if h := <-arrived; h.Get(HeaderWait) != "1500" || AskedWait(&http.Request{Header: h}) != 1500*time.Millisecond {
			t.Errorf("the agent was told to wait %q", h.Get(HeaderWait))
		}
	}
	third, body := serve(t.Context(), gateway)
	if third() != 503 || !strings.Contains(body(), `"QueueFull"`) {
		t.Errorf("a third: %d %s", third(), body())
	}
	close(begin)
	until(t, "the answers have begun", func() bool { return gateway.queueOfHello().waiting.Load() == 0 && gateway.held.Load() == 0 })
	fourth, _ := serve(t.Context(), gateway)
	close(end)
	for i, status := range []func() int{first, second, fourth} {
		if status() != 200 {
			t.Errorf("request %d: %d", i, status())
		}
	}
}

// What waits counts with its headers, of which each takes more than it is long.
func TestHeadersAreInTheBudget(t *testing.T) {
	gateway := newGateway(t, parkedRoute("127.0.0.1:1")).(*Gateway)
	f := gateway.cfg.Table.Function(FunctionKey{"default", "hello"})
	r := httptest.NewRequest("GET", "/fn/hello", nil)
	for i := range 900 {
		r.Header[fmt.Sprintf("X%03d", i)] = []string{"four"}
	}
	x := gateway.cfg.Forwarder.Begin(httptest.NewRecorder(), r, ExchangeOptions{})
	if ok, held := gateway.wait(x, f), gateway.held.Load(); !ok || held != waitBytes+900*(headerMemory+8) {
		t.Errorf("waits %v, counted with %d bytes", ok, held)
	}
	if x.End(); gateway.held.Load() != 0 {
		t.Errorf("%d bytes are still counted", gateway.held.Load())
	}
}

func TestWaitingHasABudgetOfMemory(t *testing.T) {
	table := NewTable()
	mustApply(t, table, snapshotOf(parkedRoute("127.0.0.1:1")))
	forwarder := NewForwarder(ForwarderConfig{})
	t.Cleanup(forwarder.Close)
	gateway := NewGateway(GatewayConfig{Table: table, Forwarder: forwarder, QueueMemory: waitBytes + 10})
	f := table.Function(FunctionKey{"default", "hello"})
	for body, fits := range map[string]bool{"": true, "ten bytes!": true, "eleven byte": false} {
		x := forwarder.Begin(httptest.NewRecorder(), httptest.NewRequest("POST", "/fn/hello", strings.NewReader(body)), ExchangeOptions{})
		if got := gateway.wait(x, f); got != fits {
			t.Errorf("a body of %d bytes fits: %v", len(body), got)
		}
		x.End()
		x.End()
		if n, bytes := f.state.queue.waiting.Load(), gateway.held.Load(); n != 0 || bytes != 0 {
			t.Fatalf("%d requests with %d bytes are still counted", n, bytes)
		}
	}
}

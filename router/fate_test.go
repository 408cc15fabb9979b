package router

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// breaksOff executes a request and breaks the connection.
func breaksOff(b *backend, _ http.ResponseWriter, _ *http.Request) {
	b.executed.Add(1)
	panic(http.ErrAbortHandler)
}

func TestTheHomeAgentSaysWhyAContainerBrokeOff(t *testing.T) {
	container := newBackend(t, breaksOff)
	for name, tc := range map[string]struct {
		home   func(*backend, http.ResponseWriter, *http.Request)
		status int
		code   string
	}{
		"blocked": {func(b *backend, w http.ResponseWriter, r *http.Request) {
			pod, lease, ok := AskedFate(r)
			if !ok || pod != "a" || lease != "L" || r.Header.Get(HeaderPod) != "" {
				b.executed.Add(1)
			}
			WriteFate(w, &Problem{Status: 504, Code: "EventLoopBlocked", Message: "m"})
		}, 504, "EventLoopBlocked"},
		"not known":                  {func(_ *backend, w http.ResponseWriter, _ *http.Request) { WriteFate(w, nil) }, 502, "UpstreamFailed"},
		"an agent that does not ask": {refuse(AgentNonce), 502, "UpstreamFailed"},
		"nonsense":                   {func(_ *backend, w http.ResponseWriter, _ *http.Request) { w.Write([]byte("{}")) }, 502, "UpstreamFailed"},
		"no answer":                  {breaksOff, 502, "UpstreamFailed"},
	} {
		t.Run(name, func(t *testing.T) {
			home := newBackend(t, tc.home)
			before := container.executed.Load()
			status, body, header := call(t, newGateway(t, warmRoute(container.address(), home.address())), httptest.NewRequest("GET", "/fn/hello", nil))
			if status != tc.status || !strings.Contains(body, `"code":"`+tc.code+`"`) {
				t.Errorf("%d %s, want %d %s", status, body, tc.status, tc.code)
			}
			if id := header.Get(HeaderRequestID); id == "" || !strings.Contains(body, `"requestId":"`+id+`"`) {
				t.Errorf("request id %q, body %s", id, body)
			}
			if n := container.executed.Load() - before; n != 1 {
				t.Errorf("executed %d times, want once", n)
			}
			if n := home.executed.Load(); n != 0 && name != "no answer" {
				t.Errorf("the home agent was asked in a wrong way")
			}
		})
	}
}

func TestRequestsHaveAName(t *testing.T) {
	container := newBackend(t, func(_ *backend, w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/own" {
			w.Header().Set(HeaderRequestID, "the function's")
		}
		w.Write([]byte(r.Header.Get(HeaderRequestID) + " " + r.Header.Get("Traceparent")))
	})
	gateway := newGateway(t, warmRoute(container.address(), "127.0.0.1:1"))
	const trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	ask := func(path, id string) (seen, answered string) {
		r := httptest.NewRequest("GET", "/fn/hello"+path, nil)
		r.Header.Set("Traceparent", trace)
		if id != "" {
			r.Header.Set(HeaderRequestID, id)
		}
		_, body, header := call(t, gateway, r)
		seen, got, _ := strings.Cut(body, " ")
		if got != trace {
			t.Errorf("traceparent %q", got)
		}
		return seen, header.Get(HeaderRequestID)
	}
	if seen, answered := ask("", "mine-1"); seen != "mine-1" || answered != "mine-1" {
		t.Errorf("a client's own: the function sees %q, the client gets %q", seen, answered)
	}
	for _, id := range []string{"", strings.Repeat("x", 129), "two words", `a"b`, "a\tb", "é"} {
		if seen, answered := ask("", id); len(seen) != 32 || answered != seen {
			t.Errorf("%q: the function sees %q, the client gets %q", id, seen, answered)
		}
	}
	if _, answered := ask("/own", "mine-2"); answered != "the function's" {
		t.Errorf("the function's own became %q", answered)
	}
}

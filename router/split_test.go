package router

import (
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	routesv1 "sanfran.dev/proto/sanfran/routes/v1"
)

func partsOf(percent ...uint32) *routesv1.Split {
	s := &routesv1.Split{}
	for i, p := range percent {
		s.Parts = append(s.Parts, &routesv1.Part{Function: fmt.Sprint("part-", i), Percent: p})
	}
	return s
}

// Of many requests each part has about its share: within five standard deviations
// of what chance does, which a right split misses once in a million runs.
func TestSplitGivesEveryPartItsShare(t *testing.T) {
	header, cookie := partsOf(10, 30), partsOf(10, 30)
	header.Sticky = &routesv1.Split_Header{Header: "x-user"}
	cookie.Sticky = &routesv1.Split_Cookie{Cookie: "who"}
	for name, s := range map[string]*routesv1.Split{"at random": partsOf(10, 30), "by header": header, "by cookie": cookie} {
		const n = 20000
		got := map[string]int{}
		made := newSplit(s)
		for i := range n {
			r := httptest.NewRequest("GET", "/", nil)
			r.Header.Set("X-User", fmt.Sprint("user-", i))
			if name == "by cookie" && i%2 == 0 {
				r.Header.Set("Cookie", fmt.Sprintf("a=b; who=%d", i))
			}
			to, _ := made.choose(r)
			got[to]++
		}
		for part, share := range map[string]int{"part-0": 10, "part-1": 30, "": 60} {
			if want := n * share / 100; got[part] < want-5*70 || got[part] > want+5*70 {
				t.Errorf("%s: %q got %d of %d, want about %d", name, part, got[part], n, want)
			}
		}
	}
}

func TestStickyClientsStay(t *testing.T) {
	s := partsOf(20)
	s.Sticky = &routesv1.Split_Header{Header: "X-User"}
	small, moved := newSplit(s), 0
	s.Parts[0].Percent = 50
	large := newSplit(s)
	for i := range 1000 {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header.Set("X-User", fmt.Sprint("user-", i))
		first, cookie := small.choose(r)
		for range 3 {
			if again, _ := small.choose(r); again != first {
				t.Fatalf("user %d went to %q, then to %q", i, first, again)
			}
		}
		if cookie != "" {
			t.Fatal("a cookie is set though a header decides")
		}
		switch grown, _ := large.choose(r); {
		case first != "" && grown != first:
			t.Fatalf("a part that grew has lost user %d", i)
		case grown != first:
			moved++
		}
	}
	if moved < 200 || moved > 400 {
		t.Errorf("%d of 1000 clients moved as a part grew by 30 percent", moved)
	}
}

// namedBackend answers with its name.
func namedBackend(t *testing.T, name string) *backend {
	return newBackend(t, func(b *backend, w http.ResponseWriter, r *http.Request) {
		b.executed.Add(1)
		w.Header().Set("Set-Cookie", "own=1")
		_, _ = io.WriteString(w, name+" "+r.URL.Path)
	})
}

func namedRoute(uid, name string, b *backend) *routesv1.Route {
	r := route(uid, name, fmt.Sprintf("10.0.0.%d", uid[0]), "L"+uid)
	r.Instances[0].Address = b.address()
	return r
}

func TestGatewaySplitsAndBringsTheClientBack(t *testing.T) {
	stable, next := namedBackend(t, "stable"), namedBackend(t, "next")
	front := namedRoute("a", "hello", stable)
	front.Policy = &routesv1.Policy{Split: &routesv1.Split{
		Parts:  []*routesv1.Part{{Function: "hello-next", Percent: 50}},
		Sticky: &routesv1.Split_Cookie{Cookie: "hello-split"},
	}}
	gateway := newGateway(t, front, namedRoute("b", "hello-next", next))
	seen := map[string]bool{}
	for len(seen) < 2 {
		_, body, header := call(t, gateway, httptest.NewRequest("GET", "/fn/hello/x", nil))
		seen[body] = true
		cookies := header.Values("Set-Cookie")
		if len(cookies) != 2 || cookies[0] != "own=1" || !strings.HasPrefix(cookies[1], "hello-split=") || !strings.HasSuffix(cookies[1], "; Path=/fn/hello; HttpOnly; SameSite=Lax") {
			t.Fatalf("cookies %q", cookies)
		}
		r := httptest.NewRequest("GET", "/fn/hello/x", nil)
		value, _, _ := strings.Cut(cookies[1], ";")
		r.Header.Set("Cookie", value)
		_, again, header := call(t, gateway, r)
		if again != body {
			t.Errorf("a client of %q came to %q", body, again)
		}
		if cookies := header.Values("Set-Cookie"); len(cookies) != 1 {
			t.Errorf("a client that has its cookie was told %q", cookies)
		}
	}
}

// TestStickyCookiesAreSuchAsClientsTake: by their name, by how the client has come, and
// for the path that it knows.
func TestStickyCookiesAreSuchAsClientsTake(t *testing.T) {
	for _, tt := range []struct {
		name    string
		change  func(*http.Request)
		trusted bool
		want    string // after name and value; empty: none
	}{
		{"who", func(*http.Request) {}, false, "; Path=/fn/Hello_v1; HttpOnly; SameSite=Lax"},
		{"who", func(r *http.Request) { r.TLS = new(tls.ConnectionState) }, false, "; Path=/fn/Hello_v1; HttpOnly; SameSite=Lax"},
		{"who", func(r *http.Request) { r.Host, r.URL.Path = "Hello.default.fn.example.com", "/x" }, false, "; Path=/; HttpOnly; SameSite=Lax"},
		{"who", func(r *http.Request) { r.Header.Set("X-Forwarded-Prefix", "/api/") }, false, "; Path=/fn/Hello_v1; HttpOnly; SameSite=Lax"},
		{"who", func(r *http.Request) { r.Header.Set("X-Forwarded-Prefix", "/api/") }, true, "; Path=/api/fn/Hello_v1; HttpOnly; SameSite=Lax"},
		{"__Secure-who", func(r *http.Request) { r.TLS = new(tls.ConnectionState) }, false, "; Path=/fn/Hello_v1; HttpOnly; Secure; SameSite=Lax"},
		{"__Host-who", func(r *http.Request) { r.TLS = new(tls.ConnectionState) }, false, "; Path=/; HttpOnly; Secure; SameSite=Lax"},
		{"__hOST-who", func(r *http.Request) { r.Header.Set("X-Forwarded-Proto", "HTTPS, http") }, true, "; Path=/; HttpOnly; Secure; SameSite=Lax"},
		{"__Host-who", func(r *http.Request) { r.Header.Set("X-Forwarded-Proto", "https") }, false, ""},
		{"__Http-who", func(r *http.Request) { r.TLS = new(tls.ConnectionState); r.Header.Set("X-Forwarded-Proto", "http") }, true, ""},
		{"__Secure-who", func(*http.Request) {}, false, ""},
	} {
		front := namedRoute("a", "Hello_v1", namedBackend(t, "stable"))
		front.Policy = &routesv1.Policy{Split: &routesv1.Split{
			Parts: []*routesv1.Part{{Function: "Next.1", Percent: 50}}, Sticky: &routesv1.Split_Cookie{Cookie: tt.name},
		}}
		host := namedRoute("c", "hello", namedBackend(t, "stable"))
		host.Policy = front.Policy
		cfg := GatewayConfig{HostSuffix: "fn.example.com"}
		if tt.trusted {
			cfg.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
		}
		gateway := telling(t, cfg, front, host, namedRoute("b", "Next.1", namedBackend(t, "next")))
		r := httptest.NewRequest("GET", "/fn/Hello_v1/x", nil)
		tt.change(r)
		w, _ := recorded(gateway, r)
		cookies := w.Header().Values("Set-Cookie")[1:]
		if tt.want == "" {
			if len(cookies) > 0 {
				t.Errorf("%s: told %q by plain HTTP", tt.name, cookies)
			}
			continue
		}
		if len(cookies) != 1 || !strings.HasPrefix(cookies[0], tt.name+"=") || !strings.HasSuffix(cookies[0], tt.want) || strings.Count(cookies[0], ";") != strings.Count(tt.want, ";") {
			t.Errorf("%s: told %q, want …%s", tt.name, cookies, tt.want)
		}
	}
}

func TestClientsStickByHost(t *testing.T) {
	s := partsOf(50)
	s.Sticky = &routesv1.Split_Header{Header: "host"}
	made, seen := newSplit(s), map[string]int{}
	for i := range 40 {
		r := httptest.NewRequest("GET", "/", nil)
		r.Host = fmt.Sprintf("tenant-%d.example.com", i)
		first, _ := made.choose(r)
		seen[first]++
		for range 10 {
			if again, _ := made.choose(r); again != first {
				t.Fatalf("%s went to %q, then to %q", r.Host, first, again)
			}
		}
	}
	if len(seen) != 2 {
		t.Errorf("all 40 hosts went to the same part: %v", seen)
	}
}

func TestASplitGivesNothingToWhatCannotServe(t *testing.T) {
	for name, change := range map[string]func(*routesv1.Route){
		"not there":     func(r *routesv1.Route) { r.Function = "another" },
		"off the gate":  func(r *routesv1.Route) { r.Exposed = false },
		"not ready":     func(r *routesv1.Route) { r.Ready = false },
		"of other name": func(r *routesv1.Route) { r.Namespace = "other" },
	} {
		stable, next := namedBackend(t, "stable"), namedBackend(t, "next")
		front, to := namedRoute("a", "hello", stable), namedRoute("b", "hello-next", next)
		front.Policy = &routesv1.Policy{Split: &routesv1.Split{Parts: []*routesv1.Part{{Function: "hello-next", Percent: 100}}}}
		change(to)
		if status, body, _ := call(t, newGateway(t, front, to), httptest.NewRequest("GET", "/fn/hello", nil)); status != 200 || body != "stable /" {
			t.Errorf("%s: got %d %q", name, status, body)
		}
	}
}

// A function that gets a part lets it in by its own limits.
func TestASplitsPartHasItsOwnLimits(t *testing.T) {
	stable, next := namedBackend(t, "stable"), namedBackend(t, "next")
	front, to := namedRoute("a", "hello", stable), namedRoute("b", "hello-next", next)
	front.Policy = &routesv1.Policy{Split: &routesv1.Split{Parts: []*routesv1.Part{{Function: "hello-next", Percent: 100}}}}
	to.Policy = &routesv1.Policy{MaxBodyBytes: 3}
	gateway := newGateway(t, front, to)
	if status, body, _ := call(t, gateway, httptest.NewRequest("POST", "/fn/hello", strings.NewReader("long"))); status != 413 {
		t.Errorf("got %d %q", status, body)
	}
	if status, body, _ := call(t, gateway, httptest.NewRequest("POST", "/fn/hello", strings.NewReader("yes"))); status != 200 || body != "next /" {
		t.Errorf("got %d %q", status, body)
	}
}

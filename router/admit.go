package router

import (
	"fmt"
	"net/http"
	"time"
)

// admit finds the function that a request is for and decides whether it is let in.
// A refusal comes with the function whose limit it is, if there is one.
//
// It does not allocate for a request that is, but for a new cookie of a split.
//
// The function that is asked for lets the request in by its own limits. If it gives
// the request to another, that one's limits count as well, as if it had been asked.
func (g *Gateway) admit(r *http.Request) (to target, function *Function, refused *Problem) {
	to, ok := g.target(r)
	if !ok {
		return to, nil, noSuchPath(r, g.cfg.HostSuffix)
	}
	if function = g.exposed(to.function); function == nil {
		return to, nil, noSuchFunction(to.function)
	}
	if refused = function.admit(r); refused != nil {
		return to, function, refused
	}
	s := function.policy.split
	if s == nil {
		return to, function, nil
	}
	name, sticky := s.choose(r)
	to.cookie, to.sticky = s.cookie, sticky
	if name == "" {
		return to, function, nil
	}
	// What is not there, or not usable, gets no share: its clients are the function's.
	other := g.exposed(FunctionKey{Namespace: to.function.Namespace, Name: name})
	if other == nil || len(other.Owners) != 1 {
		return to, function, nil
	}
	if refused = other.admit(r); refused != nil {
		return to, other, refused
	}
	return to, other, nil
}

// target reads what a request asks for: by its host, else by its path.
func (g *Gateway) target(r *http.Request) (target, bool) {
	if key, ok := parseHost(r.Host, g.cfg.HostSuffix); ok {
		return target{function: key}, true
	}
	return parsePath(escapedPath(r.URL), g.cfg.DefaultNamespace)
}

// admit says why a request is not let in; nil: it is. What the rate limit lets in is
// counted.
func (f *Function) admit(r *http.Request) *Problem {
	if len(f.Owners) > 1 {
		return nameClash(f.Key)
	}
	if limit := f.policy.maxBody; limit > 0 && r.ContentLength > limit {
		p := bodyTooLarge(limit)
		return &p
	}
	if f.policy.rate.interval > 0 {
		if wait, ok := f.state.bucket.take(f.policy.rate, nanos()); !ok {
			return rateLimited(f, wait)
		}
	}
	return nil
}

func noSuchPath(r *http.Request, suffix string) *Problem {
	hosts := ""
	if suffix != "" {
		hosts = ", and at the host <name>.<namespace>." + suffix
	}
	return &Problem{
		Status:  http.StatusNotFound,
		Code:    "NoSuchPath",
		Message: fmt.Sprintf("%q is not a function's path; functions are at /fn/<name> and /ns/<namespace>/fn/<name>%s", r.URL.EscapedPath(), hosts),
	}
}

func noSuchFunction(key FunctionKey) *Problem {
	return &Problem{
		Status:  http.StatusNotFound,
		Code:    "NoSuchFunction",
		Message: fmt.Sprintf("there is no function %q in namespace %q; see kubectl get pods -n %s -o wide for those on the sanfran node", key.Name, key.Namespace, key.Namespace),
	}
}

// nameClash does not tell the world whose pods they are; their events do.
func nameClash(key FunctionKey) *Problem {
	return &Problem{
		Status:  http.StatusConflict,
		Code:    "NameClash",
		Message: fmt.Sprintf("%q in namespace %q is the name of several functions; the event NameClash of the later one's pods names both. Give all but one another name by the label sanfran.dev/function, or keep them off the gateway by the annotation sanfran.dev/expose", key.Name, key.Namespace),
	}
}

func rateLimited(f *Function, wait time.Duration) *Problem {
	return &Problem{
		Status:     http.StatusTooManyRequests,
		Code:       "RateLimited",
		Message:    fmt.Sprintf("function %s takes %.4g requests a second from each gateway, and %d at once after a pause; its annotation sanfran.dev/rate-limit sets the limit", f.Key, float64(time.Second)/float64(f.policy.rate.interval), f.policy.rate.burst),
		RetryAfter: wait,
	}
}

package router

import (
	"net/url"
	"strings"
)

// target is what a request at the gateway means.
type target struct {
	function FunctionKey
	// path is the escaped path the function gets, prefix what was taken off.
	path   string
	prefix string
	// sticky is a value the client has not been told yet that shall bring it back to
	// the same part of a split, cookie the name it is told it by.
	sticky, cookie string
}

// parsePath reads /fn/<name>[/path] and /ns/<namespace>/fn/<name>[/path] from
// an escaped path. The function's part is kept byte for byte; a function
// called without one sees "/".
func parsePath(escaped, defaultNamespace string) (target, bool) {
	rest, namespace := escaped, defaultNamespace
	if after, ok := strings.CutPrefix(rest, "/ns/"); ok {
		segment, _, ok := strings.Cut(after, "/")
		if !ok {
			return target{}, false
		}
		if namespace, ok = segmentName(segment); !ok {
			return target{}, false
		}
		rest = after[len(segment):]
	}
	after, ok := strings.CutPrefix(rest, "/fn/")
	if !ok {
		return target{}, false
	}
	segment, _, _ := strings.Cut(after, "/")
	name, ok := segmentName(segment)
	if !ok {
		return target{}, false
	}
	path := escaped[len(escaped)-len(after)+len(segment):]
	if path == "" {
		path = "/"
	}
	return target{
		function: FunctionKey{Namespace: namespace, Name: name},
		path:     path,
		prefix:   escaped[:len(escaped)-len(after)+len(segment)],
	}, true
}

// escapedPath is the path of a URL that net/http has parsed, as it was sent. Unlike
// [url.URL.EscapedPath] it does not prove once more that RawPath fits Path, for which
// it would have to allocate.
func escapedPath(u *url.URL) string {
	if u.RawPath != "" {
		return u.RawPath
	}
	return u.EscapedPath()
}

// segmentName unescapes a path segment that names a Kubernetes object.
func segmentName(segment string) (string, bool) {
	name, err := url.PathUnescape(segment)
	// No name is longer than 253 characters (RFC 1123, Kubernetes' object
	// names), and none has a slash.
	if err != nil || name == "" || len(name) > 253 || strings.Contains(name, "/") {
		return "", false
	}
	return name, true
}

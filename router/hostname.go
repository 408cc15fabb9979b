package router

import (
	"fmt"
	"strings"
)

// maxHost is the longest host name (RFC 1035, section 2.3.4).
const maxHost = 253

// CheckHostSuffix says what is wrong with the suffix of functions' host names.
func CheckHostSuffix(suffix string) error {
	if suffix != strings.ToLower(suffix) || strings.Trim(suffix, ".") != suffix || strings.ContainsAny(suffix, ":/* ") || len(suffix) > maxHost {
		return fmt.Errorf("%q is not a host name's end; give for example functions.example.com, in lower case, without port, star or dots around it", suffix)
	}
	return nil
}

// parseHost reads <name>.<namespace>.<suffix> from a request's host. The name may
// have dots, as pods' names may; a namespace has none. It does not allocate for a
// host in lower case.
func parseHost(host, suffix string) (FunctionKey, bool) {
	if suffix == "" || len(host) > maxHost+len(".:65535") {
		return FunctionKey{}, false
	}
	// An IPv6 address has colons, too, and no suffix.
	if colon := strings.LastIndexByte(host, ':'); colon >= 0 {
		host = host[:colon]
	}
	host = strings.TrimSuffix(host, ".")
	rest := len(host) - len(suffix) - 1
	if rest < 3 || host[rest] != '.' || !strings.EqualFold(host[rest+1:], suffix) {
		return FunctionKey{}, false
	}
	host = strings.ToLower(host[:rest])
	dot := strings.LastIndexByte(host, '.')
	if dot <= 0 || dot == len(host)-1 {
		return FunctionKey{}, false
	}
	return FunctionKey{Namespace: host[dot+1:], Name: host[:dot]}, true
}

package router

import (
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Headers that SanFran's own processes and workers exchange. Clients' and
// functions' headers of this family are removed at the edge, so that neither
// can pretend to be the other.
const (
	headerPrefix = "Sanfran-"
	// HeaderLease names the lease a request is meant for.
	HeaderLease = "Sanfran-Lease"
	// HeaderRefused is set on a 421 answer that no function code saw; its value
	// is the nonce of the lease, or [AgentNonce].
	HeaderRefused = "Sanfran-Refused"
	// HeaderPod and HeaderRevision name the pod a home agent shall wake.
	HeaderPod      = "Sanfran-Pod"
	HeaderRevision = "Sanfran-Revision"
	// HeaderClient names the client, as host:port, whom an agent forwards for at a
	// function pod's address: to the container beside the lease, to the home agent
	// beside the pod. It is believed of nobody else.
	HeaderClient = "Sanfran-Client"
	// HeaderWait tells that agent how long the request may wait for a container, in
	// milliseconds.
	HeaderWait = "Sanfran-Wait"
)

// AgentNonce is the value of [HeaderRefused] when a home agent refuses a
// request for a pod that it does not hold. An agent removes the header from
// its containers' answers, so that no function can say it.
const AgentNonce = "agent"

// AskedWait returns how long a request may wait for a container; zero: it does not
// say.
func AskedWait(r *http.Request) time.Duration {
	ms, err := strconv.ParseUint(r.Header.Get(HeaderWait), 10, 31)
	if err != nil {
		return 0
	}
	return time.Duration(ms) * time.Millisecond
}

// StripHeaders removes SanFran's own headers.
func StripHeaders(h http.Header) { stripFamily(h, headerPrefix) }

// stripFamily removes the headers whose names begin with prefix.
func stripFamily(h http.Header, prefix string) {
	for name := range h {
		if isFamily(name, prefix) {
			delete(h, name)
		}
	}
}

func isFamily(name, prefix string) bool {
	return len(name) >= len(prefix) && strings.EqualFold(name[:len(prefix)], prefix)
}

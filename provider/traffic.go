package provider

import (
	"errors"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation"

	"google.golang.org/protobuf/types/known/durationpb"

	routesv1 "sanfran.dev/proto/sanfran/routes/v1"
)

// Annotations that say how gateways treat requests for a function; docs/routing.md
// has what each means. They change nothing about its containers.
const (
	AnnotationConnectTimeout    = "sanfran.dev/connect-timeout"
	AnnotationFirstByteTimeout  = "sanfran.dev/first-byte-timeout"
	AnnotationStreamIdleTimeout = "sanfran.dev/stream-idle-timeout"
	AnnotationRequestTimeout    = "sanfran.dev/request-timeout"
	AnnotationRateLimit         = "sanfran.dev/rate-limit"
	AnnotationRateBurst         = "sanfran.dev/rate-burst"
	AnnotationMaxBody           = "sanfran.dev/max-body"
	AnnotationConcurrency       = "sanfran.dev/concurrency"
	AnnotationQueueLength       = "sanfran.dev/queue-length"
	AnnotationQueueTimeout      = "sanfran.dev/queue-timeout"
	AnnotationSplit             = "sanfran.dev/split"
	AnnotationSplitSticky       = "sanfran.dev/split-sticky"
)

// trafficAnnotations are all of the above.
var trafficAnnotations = []string{
	AnnotationConnectTimeout, AnnotationFirstByteTimeout, AnnotationStreamIdleTimeout, AnnotationRequestTimeout,
	AnnotationRateLimit, AnnotationRateBurst, AnnotationMaxBody, AnnotationConcurrency,
	AnnotationQueueLength, AnnotationQueueTimeout, AnnotationSplit, AnnotationSplitSticky,
}

// Bounds of what annotations may say: beyond them there is a slip of the pen.
const (
	leastTimeout = time.Millisecond
	mostTimeout  = 24 * time.Hour
	mostRate     = 1e6
	mostBurst    = 1e6
	mostAtOnce   = 1e6
	mostParts    = 10
	// mostText is in bytes: all that a split may need, with room to spare.
	mostText = 4096
)

// sizes are those that [resource.ParseQuantity] reads at once. With an exponent it
// would count as many digits as that says, for minutes, and Kubernetes takes any text
// for an annotation.
var sizes = regexp.MustCompile(`^[0-9]{1,16}(\.[0-9]{1,9})?([KMGTP]i|[kMGTP])?$`)

// readPolicy reads the annotations; nil if there are none. The error is an
// *[Unsupported], and then none of them counts.
func readPolicy(pod *corev1.Pod, function string) (*routesv1.Policy, error) {
	if !slices.ContainsFunc(trafficAnnotations, func(name string) bool { _, ok := pod.Annotations[name]; return ok }) {
		return nil, nil
	}
	a := annotations{of: pod.Annotations}
	policy := &routesv1.Policy{
		ConnectTimeout:    a.timeout(AnnotationConnectTimeout),
		FirstByteTimeout:  a.timeout(AnnotationFirstByteTimeout),
		StreamIdleTimeout: a.timeout(AnnotationStreamIdleTimeout),
		RequestTimeout:    a.timeout(AnnotationRequestTimeout),
		Rate:              a.rate(AnnotationRateLimit),
		Burst:             uint32(a.whole(AnnotationRateBurst, mostBurst)),
		MaxBodyBytes:      a.size(AnnotationMaxBody),
		Concurrency:       uint32(a.whole(AnnotationConcurrency, mostAtOnce)),
		QueueLength:       uint32(a.whole(AnnotationQueueLength, mostAtOnce)),
		QueueTimeout:      a.timeout(AnnotationQueueTimeout),
		Split:             a.split(function),
	}
	if policy.Burst != 0 && policy.Rate == 0 {
		a.refuse(AnnotationRateBurst, "there is no rate that it belongs to; set %s too, or remove it", AnnotationRateLimit)
	}
	if a.err != nil {
		return nil, a.err
	}
	return policy, nil
}

// annotations reads one after the other and keeps the first error.
type annotations struct {
	of  map[string]string
	err error
}

func (a *annotations) refuse(name, advice string, args ...any) {
	if a.err == nil {
		a.err = unsupported("metadata.annotations["+name+"]", advice, args...)
	}
}

// text is an annotation's, if there is one that is worth reading.
func (a *annotations) text(name string) (string, bool) {
	text, ok := a.of[name]
	if len(text) > mostText {
		a.refuse(name, "it has %d bytes; none that means something has more than %d", len(text), mostText)
		return "", false
	}
	return text, ok
}

func (a *annotations) timeout(name string) *durationpb.Duration {
	text, ok := a.text(name)
	if !ok {
		return nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < leastTimeout || d > mostTimeout {
		a.refuse(name, "%q is not a duration between 1ms and 24h; write for example 500ms, 30s or 5m, or remove it", text)
		return nil
	}
	return durationpb.New(d)
}

// whole reads a number from 1.
func (a *annotations) whole(name string, most float64) uint64 {
	text, ok := a.text(name)
	if !ok {
		return 0
	}
	n, err := strconv.ParseUint(text, 10, 32)
	if err != nil || n == 0 || float64(n) > most {
		a.refuse(name, "%q is not a whole number between 1 and %.0f", text, most)
		return 0
	}
	return n
}

// rate reads requests in a second, a minute or an hour: "50", "50/s", "600/m".
func (a *annotations) rate(name string) float64 {
	text, ok := a.text(name)
	if !ok {
		return 0
	}
	number, unit, found := strings.Cut(text, "/")
	seconds, known := map[string]float64{"s": 1, "m": 60, "h": 3600}[unit]
	if !found {
		seconds, known = 1, true
	}
	n, err := strconv.ParseFloat(number, 64)
	if err != nil || !known || !(n > 0) || n/seconds > mostRate || math.IsInf(n, 0) {
		a.refuse(name, "%q is not a rate; write for example 50/s, 600/m or 1000/h", text)
		return 0
	}
	return n / seconds
}

func (a *annotations) size(name string) int64 {
	text, ok := a.text(name)
	if !ok {
		return 0
	}
	var q resource.Quantity
	err := errors.New("no size")
	if sizes.MatchString(text) {
		q, err = resource.ParseQuantity(text)
	}
	if err != nil || q.Sign() <= 0 || q.CmpInt64(1<<50) > 0 {
		a.refuse(name, "%q is not a size in bytes; write for example 512Ki, 10Mi or 2Gi", text)
		return 0
	}
	return q.Value() // of what is less than a byte, one
}

// split reads "name=percent,name=percent" and what is sticky.
func (a *annotations) split(function string) *routesv1.Split {
	text, ok := a.text(AnnotationSplit)
	sticky, isSticky := a.text(AnnotationSplitSticky)
	if !ok {
		if isSticky {
			a.refuse(AnnotationSplitSticky, "there is no split that it belongs to; set %s too, or remove it", AnnotationSplit)
		}
		return nil
	}
	s := &routesv1.Split{}
	total := uint64(0)
	for _, part := range strings.Split(text, ",") {
		name, number, _ := strings.Cut(strings.TrimSpace(part), "=")
		percent, err := strconv.ParseUint(number, 10, 32)
		switch {
		case err != nil || percent == 0 || percent > 100 || !mayNameFunction(name):
			a.refuse(AnnotationSplit, "%q is not a function and its percentage; write for example hello-next=10", part)
			return nil
		case name == function:
			a.refuse(AnnotationSplit, "%q is the function itself, which gets what the others leave; name only others", name)
			return nil
		case slices.ContainsFunc(s.Parts, func(other *routesv1.Part) bool { return other.GetFunction() == name }):
			a.refuse(AnnotationSplit, "%q is named twice", name)
			return nil
		}
		total += percent
		s.Parts = append(s.Parts, &routesv1.Part{Function: name, Percent: uint32(percent)})
	}
	if total > 100 || len(s.Parts) > mostParts {
		a.refuse(AnnotationSplit, "the parts are %d and add up to %d percent; give at most %d, and 100 percent together", len(s.Parts), total, mostParts)
		return nil
	}
	if isSticky {
		a.sticky(s, sticky)
	}
	return s
}

// mayNameFunction says whether a function can have the name: the value of a label, or
// the name of an object.
func mayNameFunction(name string) bool {
	return name != "" && (len(validation.IsValidLabelValue(name)) == 0 || len(validation.IsDNS1123Subdomain(name)) == 0)
}

func (a *annotations) sticky(s *routesv1.Split, text string) {
	kind, name, _ := strings.Cut(text, ":")
	switch {
	case kind == "header" && strings.EqualFold(name, "Cookie"):
		a.refuse(AnnotationSplitSticky, "%q has all of a client's cookies, of which any may change; write for example cookie:hello-split", text)
	case kind == "header" && tellsNoClient(name):
		a.refuse(AnnotationSplitSticky, "%q is a header of one connection or one message, or SanFran's own, and says nothing of the client; write for example header:X-User", text)
	case kind == "header" && isToken(name):
		s.Sticky = &routesv1.Split_Header{Header: name}
	case kind == "cookie" && isToken(name):
		s.Sticky = &routesv1.Split_Cookie{Cookie: name}
	default:
		a.refuse(AnnotationSplitSticky, "%q names neither a header nor a cookie; write for example header:X-User or cookie:hello-split", text)
	}
}

// tellsNoClient says whether a header is of a connection (RFC 9110, section 7.6.1), of
// a message's body, or one that gateways take out.
func tellsNoClient(header string) bool {
	header = strings.ToLower(header)
	return strings.HasPrefix(header, "sanfran-") || slices.Contains([]string{
		"connection", "proxy-connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "http2-settings",
		"proxy-authenticate", "proxy-authorization", "content-length", "expect",
	}, header)
}

// isToken says whether s may be the name of a header or a cookie (RFC 9110, section
// 5.6.2, and RFC 6265, section 4.1.1).
func isToken(s string) bool {
	return s != "" && len(s) <= 100 && !strings.ContainsFunc(s, func(r rune) bool {
		return r <= ' ' || r > '~' || strings.ContainsRune("\"(),/:;<=>?@[\\]{}", r)
	})
}

// unknownAnnotations are those of SanFran's own prefix that nothing reads: a slip
// of the pen, which would else go unnoticed.
func unknownAnnotations(pod *corev1.Pod) []string {
	var all []string
	for name := range pod.Annotations {
		if strings.HasPrefix(name, "sanfran.dev/") && !slices.Contains(trafficAnnotations, name) &&
			name != AnnotationIdleTimeout && name != AnnotationPark && name != AnnotationExpose {
			all = append(all, fmt.Sprintf("metadata.annotations[%s] is unknown and has no effect; docs/routing.md has all there are", name))
		}
	}
	slices.Sort(all)
	return all
}

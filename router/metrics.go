package router

import (
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	// DefaultFunctionSeries is how many functions have time series of their own. One
	// has about 40, of which Prometheus keeps some hundred KiB.
	DefaultFunctionSeries = 500
	// otherFunctions is the label of the functions beyond that.
	otherFunctions = "other"
	// forgetEvery is how often functions that are no more make room for others.
	forgetEvery = 10 * time.Second
)

// Metrics are a gateway's Prometheus metrics. A nil *Metrics records nothing. It is
// safe for concurrent use.
type Metrics struct {
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
	retries  *prometheus.CounterVec
	inFlight *prometheus.GaugeVec
	queued   *prometheus.GaugeVec

	registry prometheus.Registerer
	limit    int
	// known is replaced when a function is added, and read without a lock.
	known atomic.Pointer[map[FunctionKey]*functionMetrics]
	// none is of requests for no function, other of those beyond the limit.
	none, other *functionMetrics

	mu     sync.Mutex
	exists func(FunctionKey) bool // nil: every function does, for ever
	forgot time.Time
}

// NewMetrics registers the metrics. series is how many functions have time series
// of their own, the others are "other" together; 0: [DefaultFunctionSeries].
func NewMetrics(registry prometheus.Registerer, series int) *Metrics {
	if series == 0 {
		series = DefaultFunctionSeries
	}
	function := []string{"namespace", "function"}
	m := &Metrics{
		registry: registry,
		limit:    series,
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sanfran_gateway_requests_total",
			Help: "Requests answered by this gateway, by function, HTTP status code and whether they went to a parked pod. 499 is a client that did not wait.",
		}, append(function, "code", "cold")),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "sanfran_gateway_request_duration_seconds",
			Help:    "Time from a request's headers to the end of its answer, upgrades not counted.",
			Buckets: []float64{.0005, .001, .002, .003, .005, .008, .015, .03, .1, .3, 1, 3, 10},
		}, append(function, "cold")),
		retries: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sanfran_gateway_retries_total",
			Help: "Attempts that ended before any function code saw the request, by function and outcome.",
		}, append(function, "outcome")),
		inFlight: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "sanfran_gateway_requests_in_flight",
			Help: "Requests of this gateway that have not ended, those that wait and open upgrades included.",
		}, function),
		queued: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "sanfran_gateway_requests_queued",
			Help: "Requests that wait for a container at this gateway: in line, or for a parked pod's answer to begin. The function's queue length is of each gateway.",
		}, function),
	}
	m.none, m.other = m.make(FunctionKey{}), m.make(FunctionKey{Namespace: otherFunctions, Name: otherFunctions})
	m.known.Store(&map[FunctionKey]*functionMetrics{})
	registry.MustRegister(m.requests, m.duration, m.retries, m.inFlight, m.queued)
	return m
}

// functionMetrics are the series of one function. What every request needs is at
// hand, without a look-up by labels. A nil *functionMetrics records nothing.
type functionMetrics struct {
	all              *Metrics
	key              FunctionKey
	inFlight, queued prometheus.Gauge
	// ok and duration are by temperature, cold last; ok counts answers with status
	// 200. They are made when they are first needed.
	ok       [2]atomic.Pointer[prometheus.Counter]
	duration [2]atomic.Pointer[prometheus.Observer]
}

func (m *Metrics) make(key FunctionKey) *functionMetrics {
	return &functionMetrics{
		all: m, key: key,
		inFlight: m.inFlight.WithLabelValues(key.Namespace, key.Name), queued: m.queued.WithLabelValues(key.Namespace, key.Name),
	}
}

// of returns the series of a function.
func (m *Metrics) of(key FunctionKey) *functionMetrics {
	if m == nil {
		return nil
	}
	if f, ok := (*m.known.Load())[key]; ok {
		return f
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	known := *m.known.Load()
	if f, ok := known[key]; ok {
		return f
	}
	if len(known) >= m.limit {
		if known = m.forget(known); len(known) >= m.limit {
			return m.other
		}
	}
	next := make(map[FunctionKey]*functionMetrics, len(known)+1)
	for k, f := range known {
		next[k] = f
	}
	f := m.make(key)
	next[key] = f
	m.known.Store(&next)
	return f
}

// forget drops the series of functions that are no more. The caller holds the lock.
func (m *Metrics) forget(known map[FunctionKey]*functionMetrics) map[FunctionKey]*functionMetrics {
	if m.exists == nil || time.Since(m.forgot) < forgetEvery {
		return known
	}
	m.forgot = time.Now()
	left := make(map[FunctionKey]*functionMetrics, len(known))
	for key, f := range known {
		if m.exists(key) {
			left[key] = f
			continue
		}
		labels := prometheus.Labels{"namespace": key.Namespace, "function": key.Name}
		m.requests.DeletePartialMatch(labels)
		m.duration.DeletePartialMatch(labels)
		m.retries.DeletePartialMatch(labels)
		m.inFlight.DeletePartialMatch(labels)
		m.queued.DeletePartialMatch(labels)
	}
	m.known.Store(&left)
	return left
}

// begin counts a request that has come; observe ends it.
func (f *functionMetrics) begin() {
	if f != nil {
		f.inFlight.Inc()
	}
}

// beginWait counts a request that waits for a container; endWait ends it.
func (f *functionMetrics) beginWait() {
	if f != nil {
		f.queued.Inc()
	}
}

func (f *functionMetrics) endWait() {
	if f != nil {
		f.queued.Dec()
	}
}

// observe records a request that has ended.
func (m *Metrics) observe(rec *record, cold bool, took time.Duration) {
	if m == nil {
		return
	}
	f := rec.metrics
	if f == nil {
		f = m.none
	} else {
		f.inFlight.Dec()
	}
	f.count(rec.status, cold)
	if rec.status != http.StatusSwitchingProtocols { // open as long as both ends like
		f.observer(cold).Observe(took.Seconds())
	}
	for outcome, n := range rec.outcomes {
		if n > 0 && Outcome(outcome) != Answered {
			m.retries.WithLabelValues(f.key.Namespace, f.key.Name, Outcome(outcome).String()).Add(float64(n))
		}
	}
}

func (f *functionMetrics) count(status int, cold bool) {
	if status != http.StatusOK {
		code := "other" // a function may say any three digits
		if http.StatusText(status) != "" || status == StatusClientGone {
			code = strconv.Itoa(status)
		}
		f.all.requests.WithLabelValues(f.key.Namespace, f.key.Name, code, strconv.FormatBool(cold)).Inc()
		return
	}
	slot := &f.ok[temperature(cold)]
	counter := slot.Load()
	if counter == nil {
		made := f.all.requests.WithLabelValues(f.key.Namespace, f.key.Name, "200", strconv.FormatBool(cold))
		counter = &made
		slot.Store(counter)
	}
	(*counter).Inc()
}

func (f *functionMetrics) observer(cold bool) prometheus.Observer {
	slot := &f.duration[temperature(cold)]
	observer := slot.Load()
	if observer == nil {
		made := f.all.duration.WithLabelValues(f.key.Namespace, f.key.Name, strconv.FormatBool(cold))
		observer = &made
		slot.Store(observer)
	}
	return *observer
}

// temperature is an index.
func temperature(cold bool) int {
	if cold {
		return 1
	}
	return 0
}

// serves tells of the gateway whose metrics these are, which has one.
func (m *Metrics) serves(g *Gateway) {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.exists = func(key FunctionKey) bool { return g.cfg.Table.Function(key) != nil }
	m.registry.MustRegister(
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "sanfran_gateway_requests_away",
			Help: "Requests of which no byte has been sent because a home agent cannot be reached.",
		}, func() float64 { return float64(g.away.Load()) }),
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "sanfran_gateway_access_log_dropped_total",
			Help: "Lines of the access log that were dropped because its reader is too slow.",
		}, func() float64 { return float64(g.cfg.AccessLog.Dropped()) }),
	)
}

// connects tells of the connections of the gateway's clients.
func (m *Metrics) connects(c *Connections) {
	if m == nil {
		return
	}
	closed := func(reason string, of func(ClosedConnections) uint64) prometheus.Collector {
		return prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name:        "sanfran_gateway_connections_closed_total",
			Help:        "Connections of clients that were closed because there were too many: idle ones, or refused, new ones while all others were busy.",
			ConstLabels: prometheus.Labels{"reason": reason},
		}, func() float64 { _, closed := c.Count(); return float64(of(closed)) })
	}
	m.registry.MustRegister(
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "sanfran_gateway_connections",
			Help: "Open connections of clients.",
		}, func() float64 { open, _ := c.Count(); return float64(open) }),
		closed("idle", func(c ClosedConnections) uint64 { return c.Idle }),
		closed("refused", func(c ClosedConnections) uint64 { return c.Refused }),
	)
}

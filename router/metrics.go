package router

import (
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics are a gateway's Prometheus metrics. A nil *Metrics records nothing.
type Metrics struct {
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
	retries  *prometheus.CounterVec
}

// NewMetrics registers the metrics.
func NewMetrics(registry prometheus.Registerer) *Metrics {
	m := &Metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sanfran_gateway_requests_total",
			Help: "Requests answered, by HTTP status code and by whether they went to a parked pod.",
		}, []string{"code", "cold"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "sanfran_gateway_request_duration_seconds",
			Help:    "Time from a request's headers to the end of its answer, upgrades not counted.",
			Buckets: []float64{.0005, .001, .002, .003, .005, .008, .015, .03, .1, .3, 1, 3, 10},
		}, []string{"cold"}),
		retries: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sanfran_gateway_retries_total",
			Help: "Attempts that ended before any function code saw the request, by outcome.",
		}, []string{"outcome"}),
	}
	registry.MustRegister(m.requests, m.duration, m.retries)
	return m
}

func (m *Metrics) observe(status int, cold bool, took time.Duration) {
	if m == nil {
		return
	}
	temperature := strconv.FormatBool(cold)
	m.requests.WithLabelValues(strconv.Itoa(status), temperature).Inc()
	if status != http.StatusSwitchingProtocols { // open as long as both ends like
		m.duration.WithLabelValues(temperature).Observe(took.Seconds())
	}
}

func (m *Metrics) retried(outcome Outcome) {
	if m == nil {
		return
	}
	m.retries.WithLabelValues(outcome.String()).Inc()
}

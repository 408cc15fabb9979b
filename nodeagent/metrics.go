package nodeagent

import (
	"context"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"sanfran.dev/router"
)

// metrics is everything the agent counts, in a registry of its own.
type metrics struct {
	registry *prometheus.Registry

	requests      prometheus.Counter
	refused       *prometheus.CounterVec
	acquiring     prometheus.Histogram
	loading       prometheus.Histogram
	loadsFailed   prometheus.Counter
	ended         *prometheus.CounterVec
	connected     prometheus.Gauge
	loopDelay     *prometheus.HistogramVec
	compileCache  *prometheus.CounterVec
	compileWrites *prometheus.CounterVec
	bundleFetches *prometheus.HistogramVec
	mended        prometheus.Counter
}

// coldBuckets are finest around the few milliseconds an activation should take.
var coldBuckets = []float64{.0005, .001, .0015, .002, .0025, .003, .004, .006, .008, .012, .02, .05, .1, .25, .5, 1, 2.5, 5, 10, 30}

// delayBuckets go from a slow request to the limit.
var delayBuckets = []float64{.001, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30}

// fetchBuckets go from a ConfigMap to the largest bundle.
var fetchBuckets = []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60}

func newMetrics() *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "sanfran_agent_requests_total", Help: "Requests this agent brought to a pod of its own."}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sanfran_agent_requests_unserved_total", Help: "Requests that the agent itself answered, because no container could be had, by reason."}, []string{"reason"}),
		acquiring: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "sanfran_agent_activation_acquire_seconds", Help: "Time an activation waited for a warm container.", Buckets: coldBuckets}),
		loading: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "sanfran_agent_activation_load_seconds", Help: "Time from a warm container to a loaded function.", Buckets: coldBuckets}),
		loadsFailed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "sanfran_agent_activations_failed_total", Help: "Containers in which a function did not load."}),
		ended: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sanfran_agent_leases_ended_total", Help: "Leases that ended, by cause."}, []string{"cause"}),
		connected: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "sanfran_agent_control_plane_connected", Help: "1 while the stream to the control plane stands."}),
		loopDelay: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "sanfran_agent_event_loop_delay_seconds", Help: "By how much functions' event loops were late at worst between two reports of their activity.", Buckets: delayBuckets}, []string{"runtime"}),
	}
	m.compileCache = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "sanfran_agent_compile_cache_activations_total", Help: "Activations by what they had of the compile cache: hit, miss (it is written afterwards), none."}, []string{"result"})
	m.compileWrites = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "sanfran_agent_compile_cache_writes_total", Help: "Compile caches that containers wrote: kept, small (not worth a mount), refused (not what Node.js writes), failed."}, []string{"result"})
	m.bundleFetches = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "sanfran_agent_bundle_fetch_seconds", Help: "Time to fetch and unpack a bundle, by result: ok, failed.", Buckets: fetchBuckets}, []string{"result"})
	m.mended = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "sanfran_agent_node_mended_total", Help: "Things of the agent's on its node (rules, routes) that somebody took away and that were put back."})
	m.registry.MustRegister(m.compileCache, m.compileWrites, m.bundleFetches, m.mended)
	m.registry.MustRegister(m.requests, m.refused, m.acquiring, m.loading, m.loadsFailed, m.ended, m.connected, m.loopDelay,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

func (m *metrics) handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}

func (m *metrics) activated(acquire, load time.Duration) {
	m.acquiring.Observe(acquire.Seconds())
	m.loading.Observe(load.Seconds())
}

func (m *metrics) activationFailed() { m.loadsFailed.Inc() }

func (m *metrics) instanceEnded(c cause) { m.ended.WithLabelValues(c.String()).Inc() }

func (m *metrics) loopDelayed(runtime string, delay time.Duration) {
	m.loopDelay.WithLabelValues(runtime).Observe(delay.Seconds())
}

func (m *metrics) compileCacheAsked(result string) { m.compileCache.WithLabelValues(result).Inc() }

func (m *metrics) compileCacheWritten(result string) { m.compileWrites.WithLabelValues(result).Inc() }

// bundleFetched has the signature of bundle.Options.Fetched.
func (m *metrics) bundleFetched(took time.Duration, err error) {
	result := "ok"
	if err != nil {
		result = "failed"
	}
	m.bundleFetches.WithLabelValues(result).Observe(took.Seconds())
}

// watch adds what is read when somebody asks.
func (m *metrics) watch(a *Agent) { m.registry.MustRegister(stateCollector{a}) }

// stateCollector counts pods and containers by state.
type stateCollector struct{ agent *Agent }

var (
	podsDesc       = prometheus.NewDesc("sanfran_agent_pods", "Function pods this agent is home to, by state.", []string{"state"}, nil)
	containersDesc = prometheus.NewDesc("sanfran_agent_containers", "Containers by runtime and state.", []string{"runtime", "state"}, nil)
	restingDesc    = prometheus.NewDesc("sanfran_agent_ports_resting", "Ports of ended leases that are withheld until no router can believe in them, each with a descriptor.", nil, nil)
	logBytesDesc   = prometheus.NewDesc("sanfran_agent_log_bytes", "What functions' logs take on this node's disk.", nil, nil)
	logLostDesc    = prometheus.NewDesc("sanfran_agent_log_writes_failed_total", "Writes to functions' logs that failed; their lines are lost.", nil, nil)
	failuresDesc   = prometheus.NewDesc("sanfran_agent_container_start_failures_total", "Containers that could not be started, by runtime.", []string{"runtime"}, nil)
)

var (
	awayDesc              = prometheus.NewDesc("sanfran_agent_requests_away", "Requests for pods of other agents that wait because those cannot be reached.", nil, nil)
	connectionsDesc       = prometheus.NewDesc("sanfran_agent_connections", "Open connections by listener: clients of pods' addresses that lead to the agent, or routers, gateways and other agents.", []string{"listener"}, nil)
	connectionsClosedDesc = prometheus.NewDesc("sanfran_agent_connections_closed_total", "Connections that were closed because there were too many: idle ones, or refused, new ones while all others were busy.", []string{"listener", "reason"}, nil)
)

var (
	cachesDesc     = prometheus.NewDesc("sanfran_agent_compile_caches", "Compile caches on this node.", nil, nil)
	cacheBytesDesc = prometheus.NewDesc("sanfran_agent_compile_cache_bytes", "Size of the compile caches on this node.", nil, nil)
	evictedDesc    = prometheus.NewDesc("sanfran_agent_compile_caches_evicted_total", "Compile caches dropped to make room for others.", nil, nil)
)

var (
	bundlesDesc        = prometheus.NewDesc("sanfran_agent_bundles", "Bundles on this node.", nil, nil)
	bundleBytesDesc    = prometheus.NewDesc("sanfran_agent_bundle_bytes", "What the bundles on this node take of its disk.", nil, nil)
	bundleInUseDesc    = prometheus.NewDesc("sanfran_agent_bundle_bytes_in_use", "What those bundles take that pods of this node use, parked ones too; they are never evicted.", nil, nil)
	bundleBudgetDesc   = prometheus.NewDesc("sanfran_agent_bundle_budget_bytes", "What the bundles on this node may take.", nil, nil)
	bundlesEvictedDesc = prometheus.NewDesc("sanfran_agent_bundles_evicted_total", "Bundles dropped to make room for others.", nil, nil)
)

// Describe implements prometheus.Collector.
func (stateCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- podsDesc
	ch <- containersDesc
	ch <- restingDesc
	ch <- awayDesc
	ch <- connectionsDesc
	ch <- connectionsClosedDesc
	ch <- failuresDesc
	ch <- logBytesDesc
	ch <- logLostDesc
	ch <- cachesDesc
	ch <- cacheBytesDesc
	ch <- evictedDesc
	ch <- bundlesDesc
	ch <- bundleBytesDesc
	ch <- bundleInUseDesc
	ch <- bundleBudgetDesc
	ch <- bundlesEvictedDesc
}

// Collect implements prometheus.Collector.
func (c stateCollector) Collect(ch chan<- prometheus.Metric) {
	counts := map[State]int{Preparing: 0, Active: 0, Parked: 0, Failed: 0}
	for _, p := range c.agent.pods.all() {
		counts[p.status().State]++
	}
	for state, n := range counts {
		ch <- prometheus.MustNewConstMetric(podsDesc, prometheus.GaugeValue, float64(n), state.String())
	}
	ch <- prometheus.MustNewConstMetric(restingDesc, prometheus.GaugeValue, float64(c.agent.quarantine.count()))
	ch <- prometheus.MustNewConstMetric(awayDesc, prometheus.GaugeValue, float64(c.agent.away.Load()))
	for listener, bound := range map[string]*router.Connections{"clients": c.agent.clients, "routers": c.agent.routers} {
		open, closed := bound.Count()
		ch <- prometheus.MustNewConstMetric(connectionsDesc, prometheus.GaugeValue, float64(open), listener)
		ch <- prometheus.MustNewConstMetric(connectionsClosedDesc, prometheus.CounterValue, float64(closed.Idle), listener, "idle")
		ch <- prometheus.MustNewConstMetric(connectionsClosedDesc, prometheus.CounterValue, float64(closed.Refused), listener, "refused")
	}
	if c.agent.Ready(context.Background()) != nil {
		return // the pools may not be there yet, or not any more
	}
	ch <- prometheus.MustNewConstMetric(logBytesDesc, prometheus.GaugeValue, float64(c.agent.logs.Used()))
	ch <- prometheus.MustNewConstMetric(logLostDesc, prometheus.CounterValue, float64(c.agent.logs.Lost()))
	if store := c.agent.compiled; store != nil {
		stats := store.Stats()
		ch <- prometheus.MustNewConstMetric(cachesDesc, prometheus.GaugeValue, float64(stats.Caches))
		ch <- prometheus.MustNewConstMetric(cacheBytesDesc, prometheus.GaugeValue, float64(stats.Bytes))
		ch <- prometheus.MustNewConstMetric(evictedDesc, prometheus.CounterValue, float64(stats.Evicted))
	}
	bundles := c.agent.bundles.Stats()
	ch <- prometheus.MustNewConstMetric(bundlesDesc, prometheus.GaugeValue, float64(bundles.Bundles))
	ch <- prometheus.MustNewConstMetric(bundleBytesDesc, prometheus.GaugeValue, float64(bundles.Bytes))
	ch <- prometheus.MustNewConstMetric(bundleInUseDesc, prometheus.GaugeValue, float64(bundles.InUse))
	ch <- prometheus.MustNewConstMetric(bundleBudgetDesc, prometheus.GaugeValue, float64(bundles.Budget))
	ch <- prometheus.MustNewConstMetric(bundlesEvictedDesc, prometheus.CounterValue, float64(bundles.Evicted))
	for _, s := range c.agent.warmers.Status() {
		for state, n := range map[string]int{"warming": s.Warming, "warm": s.Warm, "leased": s.Leased, "draining": s.Draining} {
			ch <- prometheus.MustNewConstMetric(containersDesc, prometheus.GaugeValue, float64(n), s.Runtime, state)
		}
		ch <- prometheus.MustNewConstMetric(failuresDesc, prometheus.CounterValue, float64(s.StartFailures), s.Runtime)
	}
}

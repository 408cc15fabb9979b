package nodeagent

import "time"

// State is how a function pod is at this agent.
type State int

const (
	// Preparing says that what it mounts is being fetched, or its first container loads.
	Preparing State = iota + 1
	// Active says that a container serves it.
	Active
	// Parked says that it holds no container; its next request leases one.
	Parked
	// Failed says that it does not load. The agent tries again after a growing delay.
	Failed
	// Gone says that the agent holds nothing of it any more.
	Gone
)

func (s State) String() string {
	return [...]string{"Unknown", "Preparing", "Active", "Parked", "Failed", "Gone"}[s]
}

// Reasons the agent itself gives for a pod that is not ready; the worker gives
// others (SyntaxError, ModuleNotFound, NoHandler, LoadError, LoadTimeout).
const (
	ReasonBundleFetchFailed    = "BundleFetchFailed"
	ReasonBundleRefused        = "BundleRefused"
	ReasonBundleStoreFull      = "BundleStoreFull"
	ReasonVolumeFailed         = "VolumeFailed"
	ReasonRuntimeUnknown       = "RuntimeUnknown"
	ReasonContainerStartFailed = "ContainerStartFailed"
	ReasonExited               = "Exited"
	ReasonAssignmentRefused    = "AssignmentRefused"
	ReasonLoadTimeout          = "LoadTimeout"
)

// Delays between tries to bring a failed pod back, those of the kubelet's
// CrashLoopBackOff: they double from the first to the last, and start over
// once a container has lived for backoffReset.
const (
	backoffFirst = 10 * time.Second
	backoffLast  = 5 * time.Minute
	backoffReset = 10 * time.Minute
)

// backoff is the delay after the n-th failure in a row, n from 1.
func backoff(n int) time.Duration {
	if n > 6 { // 10 s << 5 is beyond the last already
		return backoffLast
	}
	return min(backoffFirst<<(n-1), backoffLast)
}

// lifecycle is the state of one pod and every decision about it. It does no
// I/O, knows no clock, and is guarded by its pod's mutex.
type lifecycle struct {
	state   State
	failure *failure
	// startedAt is when the pod first became ready at this agent.
	startedAt time.Time
	// ended counts containers that ended by themselves; last is the last of them.
	ended int
	last  *termination
	// failures counts failed loads and deaths in a row; retryAt is when to try
	// again, while Failed.
	failures int
	retryAt  time.Time
}

func newLifecycle() lifecycle { return lifecycle{state: Preparing} }

// ready reports whether Kubernetes may send requests.
func (l *lifecycle) ready() bool { return l.state == Active || l.state == Parked }

// restarts is how often a container was started after one that had ended by
// itself, as the kubelet counts. The next request of a pod that is ready does so.
func (l *lifecycle) restarts() int {
	if l.state == Failed {
		return max(0, l.ended-1)
	}
	return l.ended
}

func (l *lifecycle) becameReady(now time.Time) {
	l.failure, l.retryAt = nil, time.Time{}
	if l.startedAt.IsZero() {
		l.startedAt = now
	}
}

// prepared: what the pod mounts is there, and it need not be activated to
// prove that it loads.
func (l *lifecycle) prepared(now time.Time) {
	if l.state == Preparing || l.state == Failed {
		l.state = Parked
		l.failures = 0
		l.becameReady(now)
	}
}

// activated: a container has loaded the function.
func (l *lifecycle) activated(now time.Time) {
	l.state = Active
	l.becameReady(now)
}

// parked: the pod was idle and gave its container back. Whoever lives long
// enough to be idle is sound.
func (l *lifecycle) parked() {
	l.state = Parked
	l.failures = 0
}

// failed: the function does not load, or the pod cannot be prepared.
func (l *lifecycle) failed(f *failure, now time.Time) {
	l.terminated(f)
	l.failures++
	l.fail(f, backoff(l.failures), now)
}

// exited: the serving container ended by itself after it had lived so long.
// The first death is forgiven: the next request gets a fresh container. A pod
// whose containers keep dying waits longer from time to time.
func (l *lifecycle) exited(f *failure, lived time.Duration, now time.Time) {
	l.terminated(f)
	if lived >= backoffReset {
		l.failures = 0
	}
	l.failures++
	if l.failures == 1 {
		l.state = Parked
		return
	}
	l.fail(f, backoff(l.failures-1), now)
}

// terminated counts a failure that is the end of a container.
func (l *lifecycle) terminated(f *failure) {
	if f.end != nil {
		l.ended++
		l.last = f.end
	}
}

func (l *lifecycle) fail(f *failure, delay time.Duration, now time.Time) {
	l.state = Failed
	l.failure = f
	l.retryAt = now.Add(delay)
}

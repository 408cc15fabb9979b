package nodeagent

import "sync"

// outbox holds what the control plane is still to be told. It keeps which pods
// changed, not each change: what is sent is how a pod is when it is sent, so
// the box is bounded by the number of pods however long the control plane is
// connected. While there is no stream it takes nothing in, since the next one
// begins with all pods. It is safe for concurrent use.
type outbox struct {
	// filled gets a value when there is something to take.
	filled chan struct{}

	mu      sync.Mutex
	open    bool
	changed map[*pod]struct{}
	told    []status
}

func newOutbox() *outbox {
	return &outbox{filled: make(chan struct{}, 1), changed: map[*pod]struct{}{}}
}

func (o *outbox) signal() {
	select {
	case o.filled <- struct{}{}:
	default:
	}
}

// add says that a pod changed.
func (o *outbox) add(p *pod) {
	o.mu.Lock()
	if o.open {
		o.changed[p] = struct{}{}
	}
	o.mu.Unlock()
	o.signal()
}

// tell adds the status of a pod that is not at this agent: gone, or refused.
func (o *outbox) tell(s status) {
	o.mu.Lock()
	if o.open {
		o.told = append(o.told, s)
	}
	o.mu.Unlock()
	o.signal()
}

// take empties the box.
func (o *outbox) take() []status {
	o.mu.Lock()
	changed, told := o.changed, o.told
	o.changed, o.told = map[*pod]struct{}{}, nil
	o.mu.Unlock()
	statuses := make([]status, 0, len(changed)+len(told))
	for p := range changed {
		if s := p.status(); !s.Withdrawn {
			statuses = append(statuses, s)
		}
	}
	return append(statuses, told...)
}

// connect begins anew for a new stream, before all pods are told on it.
func (o *outbox) connect() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.open = true
	o.changed, o.told = map[*pod]struct{}{}, nil
}

// disconnect forgets everything.
func (o *outbox) disconnect() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.open = false
	o.changed, o.told = map[*pod]struct{}{}, nil
}

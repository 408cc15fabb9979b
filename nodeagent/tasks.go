package nodeagent

import "sync"

// tasks are the goroutines of an agent. They can be waited for while others
// still want to begin: those are refused.
type tasks struct {
	mu      sync.Mutex
	closed  bool
	running sync.WaitGroup
}

// start runs f in a goroutine, unless the tasks are closed.
func (t *tasks) start(f func()) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return false
	}
	t.running.Go(f)
	return true
}

// follow starts f in a goroutine on behalf of a task that is still running, also
// when the tasks are closed: whoever closes them waits for it too.
func (t *tasks) follow(f func()) { t.running.Go(f) }

// close refuses further tasks and waits for those that run.
func (t *tasks) close() {
	t.mu.Lock()
	t.closed = true
	t.mu.Unlock()
	t.running.Wait()
}

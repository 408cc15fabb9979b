package supervisor

import (
	"maps"
	"slices"

	"golang.org/x/sys/unix"
)

// entry is what is kept under one name.
type entry struct {
	name  string
	pid   int // 0: no process belongs to it
	data  []byte
	files []int
	// ended is set, with status, once the process has been waited for.
	ended  bool
	status unix.WaitStatus
}

// deathsKept is how many ends of processes are remembered that no entry names
// (yet): a charge asks at once.
const deathsKept = 1024

type death struct {
	pid    int
	status unix.WaitStatus
}

// store is everything that is kept. It belongs to one goroutine. The only I/O it
// does is to close the files it no longer keeps.
type store struct {
	entries map[string]*entry
	// deaths are of processes without an entry, the oldest first.
	deaths []death
}

func newStore() *store { return &store{entries: map[string]*entry{}} }

// put keeps the files, which are the store's from now on.
func (s *store) put(r request, files []int) {
	s.remove(r.Name)
	e := &entry{name: r.Name, pid: r.PID, data: r.Data, files: files}
	// A process that has ended before it was named has its status here.
	if status, ok := s.statusOf(r.PID); ok && r.PID != 0 {
		e.ended, e.status = true, status
	}
	s.entries[r.Name] = e
}

// update replaces the data of an entry, and reports whether there is one.
func (s *store) update(name string, data []byte) bool {
	e := s.entries[name]
	if e != nil {
		e.data = data
	}
	return e != nil
}

func (s *store) remove(name string) {
	if e := s.entries[name]; e != nil {
		delete(s.entries, name)
		closeFiles(e.files)
	}
}

// clear removes everything.
func (s *store) clear() {
	for name := range s.entries {
		s.remove(name)
	}
}

// next returns the entries after a name, as many as one message carries, and
// whether there are further ones.
func (s *store) next(after string) (batch []*entry, more bool) {
	names := slices.Sorted(maps.Keys(s.entries))
	at, found := slices.BinarySearch(names, after)
	if found {
		at++
	}
	files, data := 0, 0
	for _, name := range names[at:] {
		e := s.entries[name]
		files += len(e.files)
		data += len(e.data) + len(e.name)
		if len(batch) > 0 && (files > batchFiles || data > batchData) {
			return batch, true
		}
		batch = append(batch, e)
	}
	return batch, false
}

// died says that a process has been waited for. Until then no other process can
// have had its pid, so the entry that names it means it.
func (s *store) died(pid int, status unix.WaitStatus) {
	for _, e := range s.entries {
		if e.pid == pid && !e.ended {
			e.ended, e.status = true, status
			return
		}
	}
	if len(s.deaths) == deathsKept {
		s.deaths = slices.Delete(s.deaths, 0, 1)
	}
	s.deaths = append(s.deaths, death{pid, status})
}

// statusOf is how a process ended; false: that is not known.
func (s *store) statusOf(pid int) (unix.WaitStatus, bool) {
	for _, e := range s.entries {
		if e.pid == pid {
			return e.status, e.ended
		}
	}
	for _, d := range slices.Backward(s.deaths) {
		if d.pid == pid {
			return d.status, true
		}
	}
	return 0, false
}

// alive are the processes that the entries name and that have not ended.
func (s *store) alive() map[int]bool {
	pids := map[int]bool{}
	for _, e := range s.entries {
		if e.pid != 0 && !e.ended {
			pids[e.pid] = true
		}
	}
	return pids
}

func closeFiles(files []int) {
	for _, fd := range files {
		_ = unix.Close(fd) // a duplicate, which was never written to
	}
}

package container

import (
	"fmt"
	"sync"
)

// Ids below this are used by people, services, Kubernetes' user namespaces and
// systemd's containers; ids above the end belong to systemd's foreign range.
const (
	firstHostID = 0x7000_0000
	hostRanges  = (0x7FFE_0000 - firstHostID) / idRange
)

// hostIDs hands out ranges of host user ids. No two containers alive have the
// same, so that one could do nothing to another even if it got out of its
// namespaces; a range that came back waits as long as possible for its next use.
type hostIDs struct {
	mu   sync.Mutex
	used map[uint32]bool
	next uint32
}

func (h *hostIDs) take() (uint32, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.used) >= hostRanges {
		return 0, fmt.Errorf("all %d ranges of user ids are in use; destroy containers first", hostRanges)
	}
	if h.used == nil {
		h.used = map[uint32]bool{}
	}
	for h.used[h.next] {
		h.next = (h.next + 1) % hostRanges
	}
	n := h.next
	h.used[n] = true
	h.next = (h.next + 1) % hostRanges
	return firstHostID + n*idRange, nil
}

// claim takes the range that begins with id, which a container of an earlier
// process has.
func (h *hostIDs) claim(id uint32) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := (id - firstHostID) / idRange
	if id < firstHostID || (id-firstHostID)%idRange != 0 || n >= hostRanges || h.used[n] {
		return fmt.Errorf("the range of user ids from %d: %w: it is none of containers', or in use", id, ErrInvalid)
	}
	if h.used == nil {
		h.used = map[uint32]bool{}
	}
	h.used[n] = true
	return nil
}

func (h *hostIDs) give(id uint32) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.used, (id-firstHostID)/idRange)
}

package provider

import (
	"cmp"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// claims are the names of functions and whose pods have them. Nearly every name is
// one owner's, which is seen at once, however many pods it has. It is safe for
// concurrent use.
type claims struct {
	mu     sync.Mutex
	byPod  map[types.UID]claim
	byName map[string]map[string]map[types.UID]claim // namespace/name, owner
}

// claim is a pod's to a name.
type claim struct {
	uid         types.UID
	pod         string
	name, owner string
	created     time.Time
}

func newClaims() *claims {
	return &claims{byPod: make(map[types.UID]claim), byName: make(map[string]map[string]map[types.UID]claim)}
}

// take notes that a pod has a name, in place of the one it had, and returns the
// claims of other owners to it. It reports whether that is news, which the others'
// pods may have to be told.
func (c *claims) take(pod *corev1.Pod, f *Function) (own claim, others []claim, news bool) {
	own = claim{uid: pod.UID, pod: pod.Name, name: pod.Namespace + "/" + f.Name, owner: f.Owner, created: pod.CreationTimestamp.Time}
	c.mu.Lock()
	defer c.mu.Unlock()
	if news = c.byPod[pod.UID] != own; news {
		c.forget(pod.UID)
		owners := c.byName[own.name]
		if owners == nil {
			owners = make(map[string]map[types.UID]claim)
			c.byName[own.name] = owners
		}
		if owners[own.owner] == nil {
			owners[own.owner] = make(map[types.UID]claim)
		}
		owners[own.owner][pod.UID] = own
		c.byPod[pod.UID] = own
	}
	if len(c.byName[own.name]) == 1 {
		return own, nil, news
	}
	for owner, pods := range c.byName[own.name] {
		if owner == own.owner {
			continue
		}
		for _, other := range pods {
			others = append(others, other)
		}
	}
	return own, others, news
}

// drop notes that a pod has no name any more.
func (c *claims) drop(uid types.UID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.forget(uid)
}

func (c *claims) forget(uid types.UID) {
	old, ok := c.byPod[uid]
	if !ok {
		return
	}
	delete(c.byPod, uid)
	owners := c.byName[old.name]
	if delete(owners[old.owner], uid); len(owners[old.owner]) == 0 {
		delete(owners, old.owner)
	}
	if len(owners) == 0 {
		delete(c.byName, old.name)
	}
}

// before orders claims by when their pods were made; the UID decides within a second.
func (c claim) before(other claim) bool {
	return cmp.Or(c.created.Compare(other.created), strings.Compare(string(c.uid), string(other.uid))) < 0
}

// String says whose the claim is, for people.
func (c claim) String() string {
	if c.owner == "" {
		return "pod " + c.pod
	}
	return c.owner
}

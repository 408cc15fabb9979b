package nodeagent

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"

	"sanfran.dev/internal/supervisor"
	"sanfran.dev/nodeagent/container"
)

// What the supervisor keeps of this agent, by the names it is kept under.
const (
	// keptNode says that the node stands: what it is kept beside is of an agent
	// that had got as far as serving.
	keptNode = "node"
	// keptDataListener and keptPodListener are the listening sockets.
	keptDataListener = "listener/data"
	keptPodListener  = "listener/pods"
	// keptContainers is the prefix of containers, by id.
	keptContainers = "container/"
	// keptPorts is the prefix of resting ports, by number.
	keptPorts = "port/"
)

// keeper tells the supervisor what is to outlive this process. Without a
// supervisor nothing does. Its methods wait for nobody, and are safe for
// concurrent use.
type keeper struct {
	client *supervisor.Client
	log    *slog.Logger
}

func (k *keeper) told(err error) {
	if err != nil {
		// Its supervisor is gone, and this process is about to be killed.
		k.log.Error("the supervisor is not told", "err", err)
	}
}

// listener opens a listening socket, or goes on with that of an earlier process.
func (k *keeper) listener(name string, open func() (net.Listener, error)) (net.Listener, error) {
	if k.client == nil {
		return open()
	}
	return k.client.Listener(name, open)
}

func (k *keeper) forget(name string) {
	if k.client != nil {
		k.told(k.client.Remove(name))
	}
}

// nodeStands says that from now on what is kept is worth to be taken over.
func (k *keeper) nodeStands() {
	if k.client != nil {
		k.told(k.client.Put(keptNode, 0, nil))
	}
}

// stage is how far the life of a kept container has come. It only grows.
type stage int

const (
	// stageWarm: nobody's.
	stageWarm stage = iota
	// stageLeasing: a pod's, but not known to serve it.
	stageLeasing
	// stageActive: it serves its pod.
	stageActive
	// stageDraining: out of service; what it has may finish.
	stageDraining
	// stageEnding: it is being destroyed.
	stageEnding
)

// containerRecord is what a later process must know of a container beside its
// files. It holds no secret but the lease's own two words.
type containerRecord struct {
	Runtime string
	HostID  uint32
	Stage   stage
	// CompileCache is what its worker said when it was warm.
	CompileCache string
	// Booted is the processor time that it had used then.
	Booted time.Duration
	Lease  *leaseRecord `json:",omitempty"`
}

// leaseRecord is what it must know of a leased container.
type leaseRecord struct {
	PodUID, Namespace, PodName string
	Address, Address6          netip.Addr
	// Work is the digest of what the pod asked for; Folder is the pod's own.
	Work, Folder string
	Lease, Nonce string
	LeasedAt     time.Time
	// The rest is known once it is active. Life is the pod's.
	Loaded        time.Duration
	Stays, Server bool
	Life          *keptLife `json:",omitempty"`
	// CompileCacheKey is that of the compile cache mounted; empty: none is.
	CompileCacheKey string
	// Until is when what it has must have finished; set while draining.
	Until time.Time
}

func (r *leaseRecord) addresses() []netip.Addr { return validAddrs(r.Address, r.Address6) }

// validAddrs leaves out what is not valid.
func validAddrs(addrs ...netip.Addr) []netip.Addr {
	return slices.DeleteFunc(addrs, func(a netip.Addr) bool { return !a.IsValid() })
}

// keptContainer keeps one container. A nil one keeps nothing.
type keptContainer struct {
	keeper *keeper
	name   string

	mu     sync.Mutex
	record containerRecord
	gone   bool
}

// containerFiles is how many files of a container are kept: its first process,
// its listening socket, the control socket, standard output and error, frames.
const containerFiles = 6

// container keeps a warm container, unless it cannot outlive this process.
func (k *keeper) container(w *warmContainer) *keptContainer {
	lasting, ok := w.container.(container.Lasting)
	if k.client == nil || !ok {
		return nil
	}
	h := lasting.Handle()
	if h.Process == nil {
		return nil // it has ended
	}
	c := &keptContainer{keeper: k, name: keptContainers + lasting.ID(), record: containerRecord{
		Runtime: w.runtime, HostID: h.HostID, CompileCache: w.conn.CompileCache(), Booted: w.booted,
	}}
	data, err := json.Marshal(c.record)
	if err == nil {
		err = k.client.Put(c.name, h.PID, data, h.Process, w.socket.File(), w.conn, w.output.stdout.read, w.output.stderr.read, w.output.frames.read)
	}
	k.told(err)
	return c
}

// reached says that the container's life has come to a stage. It must have
// returned before anything is done that a process which believes in the stage
// before would do wrong by. A stage behind the present one changes nothing.
func (c *keptContainer) reached(s stage, change func(*leaseRecord)) {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.gone || s < c.record.Stage || s == c.record.Stage && change == nil {
		return
	}
	c.record.Stage = s
	if change != nil {
		var lease leaseRecord
		if c.record.Lease != nil {
			lease = *c.record.Lease
		}
		change(&lease)
		c.record.Lease = &lease
	}
	data, err := json.Marshal(c.record)
	if err == nil {
		err = c.keeper.client.Update(c.name, data)
	}
	c.keeper.told(err)
}

// forget says that nothing is left of the container.
func (c *keptContainer) forget() {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.gone {
		c.gone = true
		c.keeper.forget(c.name)
	}
}

// restingRecord is what is kept of a resting port, beside its socket.
type restingRecord struct{ Until time.Time }

// rests keeps the socket of a resting port, so that it rests over the death of
// this process too.
func (k *keeper) rests(s Socket, until time.Time) {
	if k.client == nil {
		return
	}
	data, err := json.Marshal(restingRecord{until})
	if err == nil {
		var file syscall.Conn = s.File()
		err = k.client.Put(restingName(s.Addr()), 0, data, file)
	}
	k.told(err)
}

// rested says that a port rests no more.
func (k *keeper) rested(s Socket) { k.forget(restingName(s.Addr())) }

func restingName(addr netip.AddrPort) string { return fmt.Sprintf("%s%05d", keptPorts, addr.Port()) }

package nodeagent

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// This file is how pods go on that an earlier process of the agent was home to.

// wait keeps an active container of an earlier process for its pod, and reports
// whether it is the only one of that pod.
func (ps *pods) wait(o *outlived) bool {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	if ps.adopted[o.lease.PodUID] != nil {
		return false
	}
	ps.adopted[o.lease.PodUID] = o
	ps.agent.addresses.hold(o.lease.addresses()...)
	return true
}

// adoptedBy is the container of an earlier process that serves what the pod asks
// for; one that serves anything else ends. The caller holds mu.
func (ps *pods) adoptedBy(p *pod) *outlived {
	o := ps.adopted[p.spec.PodUID]
	if o == nil {
		return nil
	}
	delete(ps.adopted, p.spec.PodUID)
	if o.lease.Work != p.work {
		ps.agent.endOutlived(o)
		return nil
	}
	return o
}

// disown ends containers of an earlier process whose pods are not this agent's. The
// caller holds mu, and knows all pods.
func (ps *pods) disown() {
	for uid, o := range ps.adopted {
		delete(ps.adopted, uid)
		ps.agent.log.Info("a container of an earlier process has no pod any more", "pod", uid, "name", o.lease.PodName)
		ps.agent.endOutlived(o)
	}
}

// resume goes on with the life of a pod of an earlier process. o is its container,
// if there is one; before is what is known of it otherwise, if anything is.
func (p *pod) resume(o *outlived, before *kept) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if o == nil {
		// A pod that was never ready is tried from the beginning.
		if life := before.Life; life != nil && (before.Proved || life.Reason != "") {
			p.life = life.resume()
		}
		if p.life.state == Failed {
			p.scheduleRetry(now)
			return
		}
		p.try(!p.spec.StartParked, true)
		return
	}
	if o.lease.Life != nil {
		p.life = o.lease.Life.resume()
	}
	inst := o.instance
	if err := p.allotment.adopt(inst); err != nil {
		p.agent.log.Error("the memory of a container of an earlier process", "container", inst.warm.container.ID(), "err", err)
	}
	p.meter.begin(inst)
	inst.warm.output.begin(p.log)
	inst.warm.output.take()
	_ = inst.warm.conn.Ping() // an error ends the connection, which its supervisor sees
	p.current, p.stays = inst, inst.stays
	p.life.activated(now)
	p.supervise(inst) // the agent has just started: it takes new work
	// Its volumes are there, and mounted; this process is still to know them.
	p.running.Add(1)
	if !p.agent.tasks.start(func() {
		defer p.running.Done()
		if err := p.prepare(p.agent.ctx); err != nil {
			p.agent.log.Warn("the volumes of a pod of an earlier process are not renewed before its next container", "pod", p.spec.PodUID, "name", p.spec.PodName, "err", err)
		}
	}) {
		p.running.Done()
	}
	p.agent.log.Info("pod goes on", "pod", p.spec.PodUID, "namespace", p.spec.Namespace, "name", p.spec.PodName, "container", inst.warm.container.ID())
}

// folder is where the volumes of a new pod are: where they were, or in a folder of
// their own. The caller holds mu.
func (ps *pods) folder(p *pod, o *outlived, before *kept) string {
	name := ""
	switch {
	case o != nil:
		name = o.lease.Folder
	case ps.agent.resumes && before != nil:
		name = before.Folder
	}
	if name == "" {
		ps.made++
		name = fmt.Sprintf("%s-%d", p.spec.PodUID, ps.made)
	}
	ps.made = max(ps.made, numberOf(name))
	return ps.folderOf(name)
}

// numberOf is the number that ends a folder's name; 0: it has none.
func numberOf(name string) int {
	n, err := strconv.Atoi(name[strings.LastIndexByte(name, '-')+1:])
	if err != nil {
		return 0
	}
	return n
}

func (ps *pods) folderOf(name string) string {
	return filepath.Join(ps.agent.cfg.WorkDir, "pods", filepath.Base(name))
}

// countFolders makes new pods' folders differ from those of an earlier process.
func (ps *pods) countFolders() {
	entries, err := os.ReadDir(ps.folderOf("."))
	if err != nil {
		return // there is none, or it will be seen where it matters
	}
	ps.mu.Lock()
	defer ps.mu.Unlock()
	for _, e := range entries {
		ps.made = max(ps.made, numberOf(e.Name()))
	}
}

// removeFolders removes the folders of an earlier process's pods that nobody has
// or waits for.
func (ps *pods) removeFolders() {
	entries, err := os.ReadDir(ps.folderOf("."))
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	draining := map[string]bool{}
	for _, o := range ps.agent.outlived {
		draining[o.lease.Folder] = true
	}
	for _, e := range entries {
		if !draining[e.Name()] {
			err = errors.Join(err, ps.removeFolder(e.Name()))
		}
	}
	if err != nil {
		ps.agent.log.Error("folders of an earlier process's pods", "err", err)
	}
}

// removeFolder removes a folder of an earlier process's pod unless a pod has it.
func (ps *pods) removeFolder(name string) error {
	dir := ps.folderOf(name)
	for _, p := range ps.all() {
		if p.dir == dir {
			return nil
		}
	}
	// Deleting would go through what is mounted.
	err := unmountEmptyDirs(dir)
	if err == nil {
		err = os.RemoveAll(dir)
	}
	if err != nil {
		return fmt.Errorf("remove the folder of an earlier process's pod: %w", err)
	}
	return nil
}

// workOf is a digest of what an assignment asks for, see Assignment.sameWork.
func workOf(a *Assignment) string {
	data, err := json.Marshal(a.work())
	if err != nil {
		return "" // an assignment has nothing that JSON has no words for
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// leaseRecord is what a later process must know of the pod's lease.
func (p *pod) leaseRecord(i *instance) leaseRecord {
	return leaseRecord{
		PodUID: p.spec.PodUID, Namespace: p.spec.Namespace, PodName: p.spec.PodName,
		Address: p.spec.Address, Address6: p.spec.Address6, Work: p.work, Folder: filepath.Base(p.dir), Lease: i.lease, Nonce: i.nonce, LeasedAt: i.leasedAt,
	}
}

// keepActive says that the instance serves its pod, whose life is told.
func (i *instance) keepActive(life *keptLife) {
	i.warm.kept.reached(stageActive, func(r *leaseRecord) {
		r.Loaded, r.Stays, r.Server, r.Life, r.CompileCacheKey = i.loaded, i.stays, i.warm.conn.Server(), life, i.cached
	})
}

// keepDraining says that the instance goes, and by when what it has must finish.
func (i *instance) keepDraining(until time.Time) {
	i.warm.kept.reached(stageDraining, func(r *leaseRecord) { r.Until = until })
}

package nodeagent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"sanfran.dev/internal/supervisor"
	"sanfran.dev/nodeagent/container"
	"sanfran.dev/nodeagent/network"
	"sanfran.dev/nodeagent/socket"
	"sanfran.dev/nodeagent/workerconn"
)

// This file takes over what an earlier process of the agent has left when it died
// and its supervisor has kept. By where that death came, a container was
//
//	being started       not kept: its processes were killed with the agent's, and
//	                    what else there is of it is swept
//	warm                goes back into its pool
//	being leased        destroyed: the request that waited for it is lost, and
//	                    whether the function loads is not known
//	active              goes on serving its pod, if that is still here
//	draining            is drained for what is left of its time
//	being destroyed     destroyed
//
// A container that has died meanwhile is taken over all the same: its pod is to
// know how.

// outlived is a leased container that has outlived the process that leased it.
type outlived struct {
	instance *instance
	lease    leaseRecord
	stage    stage
}

// legacy is what was taken over.
type legacy struct {
	warm     []*warmContainer
	outlived []*outlived
	// forsaken are names of what was not taken over: to be forgotten when it is
	// swept.
	forsaken []string
}

func (l *legacy) containers() (all []*warmContainer) {
	return append(l.leased(), l.warm...)
}

func (l *legacy) leased() (all []*warmContainer) {
	for _, o := range l.outlived {
		all = append(all, o.instance.warm)
	}
	return all
}

// adopter takes over the parts of a container.
type adopter struct {
	containers interface {
		Adopt(id string, h container.Handle) (container.Container, error)
	}
	sockets *socket.Range
}

// adopt takes over what there is, before anything of an earlier process is swept.
// What cannot be taken over is left to be swept.
func (a *Agent) adopt(ctx context.Context, from adopter) (*legacy, error) {
	l := &legacy{}
	client := a.keep.client
	if client == nil {
		return l, nil
	}
	marker, stands, err := client.Get(keptNode)
	if err != nil {
		return nil, err
	}
	marker.Close()
	a.resumes = stands
	all, err := client.Kept(keptContainers)
	if err != nil {
		return nil, err
	}
	for _, k := range all {
		if err := a.adoptContainer(ctx, l, from, k); err != nil {
			a.log.Info("a container of an earlier process is not taken over", "container", k.Name, "why", err)
			l.forsaken = append(l.forsaken, k.Name)
		}
	}
	ports, err := client.Kept(keptPorts)
	if err != nil {
		return nil, err
	}
	a.adoptPorts(from.sockets, ports)
	if a.resumes {
		a.log.Info("goes on where an earlier process has died", "warm", len(l.warm), "leased", len(l.outlived), "notTakenOver", len(l.forsaken), "restingPorts", a.quarantine.count())
	}
	return l, nil
}

func (a *Agent) adoptPorts(sockets *socket.Range, ports []supervisor.Kept) {
	var resting []restingPort
	for _, k := range ports {
		var r restingRecord
		if len(k.Files) != 1 || json.Unmarshal(k.Data, &r) != nil {
			k.Close()
			a.keep.forget(k.Name)
			continue
		}
		s, err := sockets.Adopt(k.Files[0], true)
		if err != nil { // its container is there, and will put it again
			a.keep.forget(k.Name)
			continue
		}
		resting = append(resting, restingPort{s, r.Until})
	}
	a.quarantine.adopt(resting)
}

// adoptContainer takes over one container. After an error nothing of it is held.
func (a *Agent) adoptContainer(ctx context.Context, l *legacy, from adopter, k supervisor.Kept) (err error) {
	files := k.Files
	take := func() int {
		fd := files[0]
		files = files[1:]
		return fd
	}
	var undo []func() error
	defer func() {
		supervisor.Kept{Files: files}.Close()
		if err == nil {
			return
		}
		for i := len(undo) - 1; i >= 0; i-- {
			err = errors.Join(err, undo[i]())
		}
	}()
	var r containerRecord
	if err := json.Unmarshal(k.Data, &r); err != nil {
		return err
	}
	_, known := a.cfg.Runtimes[r.Runtime]
	switch {
	case len(k.Files) != containerFiles:
		return fmt.Errorf("it came with %d files, not %d", len(k.Files), containerFiles)
	case !a.resumes:
		return errors.New("the agent had not got as far as serving")
	case !known:
		return fmt.Errorf("there is no runtime %q any more", r.Runtime)
	case r.Stage == stageLeasing:
		return errors.New("it was being leased")
	case r.Stage != stageWarm && r.Lease == nil:
		return fmt.Errorf("it has come to stage %d without a lease", r.Stage)
	}
	id := strings.TrimPrefix(k.Name, keptContainers)
	w := &warmContainer{runtime: r.Runtime, booted: r.Booted, kept: &keptContainer{keeper: a.keep, name: k.Name, record: r}}
	process := os.NewFile(uintptr(take()), "pidfd of "+id)
	if w.container, err = from.containers.Adopt(id, container.Handle{PID: k.PID, HostID: r.HostID, Process: process}); err != nil {
		return errors.Join(err, process.Close())
	}
	undo = append(undo, func() error { return w.container.Destroy(context.WithoutCancel(ctx)) })
	if w.socket, err = from.sockets.Adopt(take(), false); err != nil {
		return err
	}
	undo = append(undo, w.socket.Release)
	control := os.NewFile(uintptr(take()), "worker control, agent's end")
	sock, err := net.FileConn(control)
	if err = errors.Join(err, control.Close()); err != nil {
		return fmt.Errorf("its control socket: %w", err)
	}
	said := workerconn.Adopted{CompileCache: r.CompileCache}
	if r.Lease != nil {
		said.Ready, said.Server = true, r.Lease.Server
	}
	w.conn = workerconn.Adopt(sock, said, w.activity)
	w.output = adoptOutput(id, a.log, take(), take(), take())
	if r.Stage == stageWarm {
		w.output.take()
		l.warm = append(l.warm, w)
		return nil
	}
	l.outlived = append(l.outlived, &outlived{
		instance: a.adoptInstance(w, r.Lease), lease: *r.Lease, stage: r.Stage,
	})
	return nil
}

// adoptInstance is the instance of a lease of an earlier process. What its worker
// is at is not known before it says so.
func (a *Agent) adoptInstance(w *warmContainer, r *leaseRecord) *instance {
	i := newInstance(w, r.LeasedAt, a.cfg.EventLoopLimit, a.metrics.loopDelayed)
	i.lease, i.nonce, i.loaded, i.stays, i.cached = r.Lease, r.Nonce, r.Loaded, r.Stays, r.CompileCacheKey
	i.usage.unknown()
	if i.cached != "" && a.compiled != nil {
		i.compiled.cache = a.compiled.Use(i.cached) // nil: its folder is gone, and that does no harm
	}
	return i
}

// connect gives the containers the network namespaces that were kept for them.
func (l *legacy) connect(namespaces []*network.Namespace, closer func(*network.Namespace) func() error, dial func(ctx context.Context, path string) (net.Conn, error)) {
	byID := map[string]*network.Namespace{}
	for _, ns := range namespaces {
		byID[ns.ID] = ns
	}
	for _, w := range l.containers() {
		ns := byID[w.container.ID()]
		if ns != nil {
			w.namespace, w.closeNamespace = ns.Path, closer(ns)
		}
		w.inspector = func(ctx context.Context) (net.Conn, error) {
			if ns == nil { // it was being destroyed
				return nil, errors.New("its network namespace is gone")
			}
			return dial(ctx, ns.Path)
		}
	}
}

// takeOverOutlived brings the leased containers of an earlier process to where
// their pods find them, and ends those that have been on their way out.
func (a *Agent) takeOverOutlived() {
	if a.resumes {
		a.pods.countFolders()
	}
	for _, o := range a.outlived {
		if o.stage == stageActive && a.pods.wait(o) {
			continue
		}
		a.endOutlived(o)
	}
}

// endOutlived brings an outlived container without a pod to its end.
func (a *Agent) endOutlived(o *outlived) {
	i, r := o.instance, o.lease
	if o.stage == stageActive {
		r.Until = time.Now().Add(a.cfg.DrainGrace)
		i.keepDraining(r.Until)
	}
	a.addresses.unhold(r.addresses()...)
	log := a.logs.Pod(r.Namespace, r.PodName, r.PodUID)
	i.warm.output.begin(log)
	i.warm.output.take()
	a.warmers.Drain(i.warm)
	finish := func() {
		if o.stage != stageEnding {
			a.drainOutlived(i, r)
		}
		a.dispose(i)
		endLog := log.Remove
		if a.pods.get(r.PodUID) != nil {
			endLog = func() error { log.Close(); return nil }
		}
		if err := errors.Join(endLog(), a.pods.removeFolder(r.Folder)); err != nil {
			a.log.Error("a container of an earlier process left something behind", "pod", r.PodUID, "err", err)
		}
	}
	if !a.tasks.start(finish) { // not before the last of these has been dealt with
		a.log.Error("a container of an earlier process is left to the next", "container", i.warm.container.ID())
	}
}

func (a *Agent) drainOutlived(i *instance, r leaseRecord) {
	if i.warm.conn.Server() {
		early := time.AfterFunc(a.cfg.RouteSettle, func() { _ = i.warm.conn.TerminateEarly() })
		defer early.Stop()
	}
	_, err := i.drain(a.ctx, max(0, time.Until(r.Until)), false)
	if err != nil && i.alive() { // that process may have told it to end
		a.log.Warn("a container of an earlier process did not drain", "pod", r.PodUID, "name", r.PodName, "err", err)
	}
	a.linger(i, a.cfg.RouteSettle)
	if err != nil {
		return
	}
	a.terminate(i, max(time.Until(r.Until), leastTermGrace))
}

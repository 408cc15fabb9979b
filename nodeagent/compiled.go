package nodeagent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"sanfran.dev/nodeagent/compilecache"
	"sanfran.dev/nodeagent/container"
)

// compileCacheBase is where what V8 has compiled lies in a container, in a folder
// of the very version of Node.js and V8.
const compileCacheBase = "/run/sanfran/compile-cache"

const (
	// compileQuiet is how long a container must have been without requests
	// before it is asked to write its cache: it answers with delays of 5 ms
	// meanwhile, and at the end nothing for 50 ms or so if the function has a
	// thousand modules. That happens once for each bundle, namespace and
	// node. Longer would be no better: what V8 has not used for a while it
	// forgets.
	compileQuiet = time.Second
	// compileTimeout bounds how long it may take.
	compileTimeout = 10 * time.Second
	// leastCode is how much source code is worth a cache.
	leastCode = 64 << 10
	// Between these is the room that a container gets to write in, a quarter
	// of the memory that it has left: what it writes counts as its memory.
	leastCompileRoom, mostCompileRoom = 2 << 20, 64 << 20
)

// compiled is an instance's part in the compile cache. It belongs to the
// goroutine that makes the instance, and then to its supervisor.
type compiled struct {
	dir   string              // in the container; empty: there is none
	cache *compilecache.Cache // what is mounted; nil: nothing
	claim *compilecache.Claim // the right to write it; nil: no such right
	room  int64               // the container's limit of memory
}

// findCompiled mounts what V8 has compiled of the pod's code before, or claims
// the right to keep it. Whatever goes wrong with that, the function loads. code
// is whether there is enough to be worth it: for a single file of code Node.js
// takes longer with a cache than without.
func (p *pod) findCompiled(ctx context.Context, inst *instance, code bool) {
	store, outcome := p.agent.compiled, "none"
	defer func() { p.agent.metrics.compileCacheAsked(outcome) }()
	if store == nil || !code {
		return
	}
	parts, ok := compiledOf(p.spec)
	if !ok {
		return
	}
	name := inst.warm.conn.CompileCache()
	if !validCompileCache(name) {
		p.agent.log.Error("a worker gives its compile cache no good name", "runtime", p.spec.Runtime, "name", fmt.Sprintf("%.200q", name))
		return
	}
	key, dir := compilecache.Key(append(parts, name)...), path.Join(compileCacheBase, name)
	c := compiled{dir: dir, cache: store.Use(key), room: p.agent.cfg.limits(p.spec.Resources).MemoryBytes}
	source, found := store.Empty(), "miss"
	if c.cache != nil {
		source, found = c.cache.Dir(), "hit"
	} else if c.claim = store.Claim(key); c.claim == nil {
		return
	}
	inst.compiled = c
	err := inst.warm.container.Mount(ctx, container.Mount{Source: source, Target: dir, ReadOnly: true, NoExec: true})
	if err != nil {
		inst.releaseCompiled()
		p.agent.log.Error("a compile cache is not mounted", "pod", p.spec.PodUID, "name", p.spec.PodName, "err", err)
		return
	}
	outcome = found
	if c.cache != nil {
		inst.cached = key
	}
}

// compiledOf is what containers must have in common to share a compile cache.
// Some pods have none: those that do not want it, and those in whose code
// something is mounted that may change, because what is found where is kept too.
func compiledOf(a *Assignment) (parts []string, ok bool) {
	if a.environment()["NODE_DISABLE_COMPILE_CACHE"] == "1" {
		return nil, false
	}
	var bundles []string
	for _, m := range a.Mounts {
		if within(compileCacheBase, m.Path) || within(m.Path, compileCacheBase) {
			return nil, false
		}
		if m.Bundle != "" {
			bundles = append(bundles, m.Path+" "+m.Bundle)
			for _, other := range a.Mounts {
				if other.Bundle == "" && within(other.Path, m.Path) {
					return nil, false
				}
			}
		}
	}
	slices.Sort(bundles)
	return append([]string{a.Namespace, a.Runtime, a.Entry, strings.Join(a.Command, "\x00")}, bundles...), len(bundles) > 0
}

// within reports whether a clean path is another or lies below it.
func within(name, dir string) bool { return name == dir || strings.HasPrefix(name, dir+"/") }

// writeCompiled has an instance that holds the claim write its cache, keeps it
// and ends the claim. It disturbs the function, see compileQuiet.
func (a *Agent) writeCompiled(ctx context.Context, i *instance) {
	claim := i.compiled.claim
	if claim == nil {
		return
	}
	i.compiled.claim = nil
	defer claim.GiveUp()
	ctx, cancel := context.WithTimeout(ctx, compileTimeout)
	defer cancel()
	began := time.Now()
	room, err := compileRoom(ctx, i)
	var result compilecache.Result
	if err == nil {
		if err = letWrite(ctx, i, claim, room); err == nil {
			result, err = claim.Keep()
		}
	}
	outcome := "kept"
	switch {
	case errors.Is(err, compilecache.ErrRefused):
		outcome = "refused"
	case err != nil:
		outcome = "failed"
	case !result.Useful:
		outcome = "small"
	}
	a.metrics.compileCacheWritten(outcome)
	log := a.log.With("container", i.warm.container.ID(), "files", result.Files, "bytes", result.Bytes, "took", time.Since(began))
	switch {
	case errors.Is(err, container.ErrGone): // it ended before anybody could ask
		log.Debug("a compile cache is not kept", "err", err)
	case err != nil:
		log.Warn("a compile cache is not kept", "err", err)
	default:
		log.Debug("a compile cache was written", "useful", result.Useful)
	}
}

func compileRoom(ctx context.Context, i *instance) (int64, error) {
	used, err := i.warm.container.MemoryInUse(ctx)
	if err != nil {
		return 0, err
	}
	room := min(mostCompileRoom, (i.compiled.room-used)/4)
	if room < leastCompileRoom {
		return 0, fmt.Errorf("the container has %d bytes of its memory left, too few to write what it has compiled; give the pod a larger resources.limits.memory", i.compiled.room-used)
	}
	return room, nil
}

// letWrite has an instance write its compile cache into a fresh folder, which it
// sees only as long as that takes.
func letWrite(ctx context.Context, i *instance, claim *compilecache.Claim, room int64) error {
	dir, err := claim.Scratch(room)
	if err != nil {
		return err
	}
	w, target := i.warm, i.compiled.dir
	if err := w.container.Mount(ctx, container.Mount{Source: dir, Target: target, NoExec: true}); err != nil {
		return err
	}
	err = w.conn.Compile(ctx)
	unmountErr := w.container.Unmount(context.WithoutCancel(ctx), target)
	if errors.Is(unmountErr, container.ErrGone) {
		unmountErr = nil
	}
	return errors.Join(err, unmountErr)
}

// releaseCompiled ends what an instance has of the compile cache. Its container
// is destroyed, or has nothing mounted.
func (i *instance) releaseCompiled() {
	if i.compiled.cache != nil {
		i.compiled.cache.Release()
	}
	if i.compiled.claim != nil {
		i.compiled.claim.GiveUp()
	}
	i.compiled = compiled{}
}

// validCompileCache reports whether what a worker says can be a folder's name.
func validCompileCache(name string) bool {
	return len(name) < 100 && strings.HasPrefix(name, "v") && strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789.-") == ""
}

// enoughCode reports whether a folder has so much source code that a compile
// cache is worth its mount. It looks no further than that.
func enoughCode(dir string) bool {
	var sum, entries int64
	err := filepath.WalkDir(dir, func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		switch path.Ext(name) {
		case ".js", ".cjs", ".mjs", ".ts", ".cts", ".mts":
			if info, err := entry.Info(); err == nil && info.Mode().IsRegular() {
				sum += info.Size()
			}
		}
		if entries++; sum >= leastCode || entries == 10_000 {
			return errEnough
		}
		return nil
	})
	return errors.Is(err, errEnough)
}

var errEnough = errors.New("enough")

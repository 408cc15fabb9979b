package container

import (
	"fmt"
	"os"
	"path/filepath"
)

// unifiedDir is where cgroup v2 is mounted beside v1, on a hybrid machine.
const unifiedDir = "/sys/fs/cgroup/unified"

// imitation is the folder that crun makes for container id in place of a
// control group on a hybrid machine whose v2 hierarchy is not mounted here, as
// in a pod: a plain one, with a plain file cgroup.procs in it. It is not to be
// read like a control group's: the pid in it may be somebody else's by now.
func (g *Cgroups) imitation(id string) (dir string, ok bool) {
	if g.v2 || g.mounts["unified"] != "" {
		return "", false
	}
	return filepath.Join(unifiedDir, g.parent, id), true
}

// removeImitation removes it. It returns nil if there is none.
func (g *Cgroups) removeImitation(id string) error {
	dir, ok := g.imitation(id)
	if !ok {
		return nil
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("remove what crun took for a control group: %w", err)
	}
	return nil
}

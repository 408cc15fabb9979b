//go:build integration

package container_test

import (
	"cmp"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sanfran.dev/nodeagent/container"
)

// Stand-ins for the OCI runtime that misbehave. Whatever they do, Start says
// why and leaves nothing.
func TestStartUndoesWhatABrokenRuntimeLeft(t *testing.T) {
	real, err := exec.LookPath(cmp.Or(os.Getenv("SANFRAN_RUNC"), "runc"))
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ script, want string }{
		"fails with a reason":      {`echo '{"level":"error","msg":"no such luck"}' > "$4"; exit 1`, "no such luck"},
		"fails after it succeeded": {fmt.Sprintf(`%s "$@"; exit 1`, real), "did not terminate successfully"},
		"hangs":                    {`exec sleep 1000`, "gave up after"},
		"hangs after it succeeded": {fmt.Sprintf(`%s "$@"; exec sleep 1000`, real), "gave up after"},
		"writes no pid":            {`exit 0`, "pid file"},
		"writes a wrong pid":       {`for last; do :; done; while [ $# -gt 0 ]; do if [ "$1" = --pid-file ]; then echo nonsense > "$2"; fi; shift; done`, "nonsense"},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			script := filepath.Join(t.TempDir(), "runc")
			if err := os.WriteFile(script, []byte("#!/bin/sh\n"+c.script+"\n"), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := h.runc.Close(); err != nil {
				t.Fatal(err)
			}
			if h.runc, err = container.NewRunc(container.RuncOptions{
				Binary: script, WorkDir: h.workDir, Cgroups: h.cgroups, StartTimeout: 2 * time.Second,
			}); err != nil {
				t.Fatal(err)
			}
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer ln.Close()
			file, err := ln.(*net.TCPListener).File()
			if err != nil {
				t.Fatal(err)
			}
			defer file.Close()
			_, err = h.runc.Start(t.Context(), container.Config{
				ID: "broken", RootFS: rootFS(t), Listener: file, Control: file, Args: node(`setInterval(() => {}, 1e9)`),
			})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("Start: %v; want %q in it", err, c.want)
			}
			if left := h.left(); len(left) > 0 {
				t.Errorf("left on the host: %q", left)
			}
		})
	}
}

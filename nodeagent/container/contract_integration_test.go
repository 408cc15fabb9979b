//go:build integration

package container_test

import (
	"testing"

	"sanfran.dev/nodeagent/container/containertest"
)

func TestOCIRuntimesKeepTheContract(t *testing.T) {
	for _, oci := range ociRuntimes {
		t.Run(oci.name, func(t *testing.T) { keepsTheContract(t, oci.binary) })
	}
}

func keepsTheContract(t *testing.T, binary string) {
	root := rootFS(t)
	containertest.Suite(t, func(t *testing.T) containertest.Subject {
		h := newHostOf(t, binary)
		return containertest.Subject{
			Runtime: h.runc,
			RootFS:  root,
			Left:    h.left,
			ExecEnv: []string{"PATH=/usr/local/bin:/usr/bin:/bin"},
			Args: func(program string) []string {
				switch program { // the container's own shell, by its name alone
				case containertest.ExecExit7:
					return []string{"sh", "-c", "echo out; echo err >&2; exit 7"}
				case containertest.ExecCopy:
					return []string{"cat"}
				case containertest.ExecSize:
					return []string{"sh", "-c", `while read line; do set -- $(stty size); echo "$2 x $1"; done`}
				}
				return node(map[string]string{
					containertest.Idle:       `setInterval(() => {}, 1e9)`,
					containertest.Exit3:      `process.exit(3)`,
					containertest.Speaks:     `new (require("net").Socket)({fd: 4}).write("x"); setInterval(() => {}, 1e9)`,
					containertest.Exit0OnEOF: `new (require("net").Socket)({fd: 4}).on("end", () => process.exit(0)).resume()`,
				}[program])
			},
		}
	})
}

//go:build integration

package container_test

import (
	"testing"

	"sanfran.dev/nodeagent/container/containertest"
)

func TestRuncKeepsTheContract(t *testing.T) {
	root := rootFS(t)
	containertest.Suite(t, func(t *testing.T) containertest.Subject {
		h := newHost(t)
		return containertest.Subject{
			Runtime: h.runc,
			RootFS:  root,
			Left:    h.left,
			Args: func(program string) []string {
				return node(map[string]string{
					containertest.Idle:       `setInterval(() => {}, 1e9)`,
					containertest.Exit3:      `process.exit(3)`,
					containertest.Exit0OnEOF: `new (require("net").Socket)({fd: 4}).on("end", () => process.exit(0)).resume()`,
				}[program])
			},
		}
	})
}

//go:build integration

package nodeagent

import (
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"sanfran.dev/nodeagent/logs"
	agentv1 "sanfran.dev/proto/sanfran/agent/v1"
	"sanfran.dev/router"
)

// loops are functions that get stuck when they are asked for /loop, or while they
// load, and what their logs then hold.
var loops = map[string]struct {
	files   map[string]string
	command []string
	log     string
}{
	"in a timer": {files: map[string]string{"index.js": `
		function loop() { for (;;) ; }
		class Ticker { tick() { setInterval(() => loop()); } }
		module.exports = (req, res) => { console.log('looping'); new Ticker().tick(); res.send('soon') }`},
		log: `^looping\nEventLoopBlocked: .* \(index\.js:2\)\n    at loop \(/function/index\.js:2:\d+\)\n    at /function/index\.js:3:\d+\n    at listOnTimeout \(node:internal/timers:\d+:\d+\)\n    at processTimers \(node:internal/timers:\d+:\d+\)\n$`},
	"while it loads": {files: map[string]string{"index.js": "console.log('loads')\nrequire('./lib/deep.js')", "lib/deep.js": "\n\nfor (;;);"},
		log: `^loads\nLoadTimeout: the function did not load within 5s \(lib/deep\.js:3\)\n    at /function/lib/deep\.js:3:\d+\n(    at .*node:.*\n)+    at /function/index\.js:2:1\n(    at .*node:.*\n)*$`},
	"while it loads, in a module of TypeScript": {files: map[string]string{"index.mts": "const n: number = 1\nawait null\nwhile (n > 0) ;\nexport default () => new Response()"},
		log: `^LoadTimeout: .* \(index\.mts:3\)\n    at /function/index\.mts:3:\d+\n(    at .*node:.*\n)*$`},
	"in a regular expression": {files: map[string]string{"index.mjs": `export default {
		async fetch(request) { await null; return Response.json(/^(a+)+$/.test('a'.repeat(60) + 'b')) } }`},
		log: `^EventLoopBlocked: .* \(index\.mjs:2\)\n    at fetch \(/function/index\.mjs:2:\d+\)\n(    at .*node:.*\n)*$`},
	"in Atomics.wait": {files: map[string]string{"index.js": `module.exports = () => Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0)`},
		log: `^EventLoopBlocked: .* \(index\.js:1\)\n    at module\.exports \(/function/index\.js:1:\d+\)\n`},
	"in a server": {files: map[string]string{"server.js": `require('http').createServer((req, res) => { while (req.url === '/loop') ; res.end() }).listen(80)`}, command: []string{"node", "server.js"},
		log: `^EventLoopBlocked: .* \(server\.js:1\)\n    at /function/server\.js:1:\d+\n    at .*emit.*\n`},
	"with much output of threads": {files: map[string]string{"index.js": `const { Worker } = require('worker_threads')
		module.exports = () => { new Worker("const fs = require('fs'); for (;;) fs.writeSync(2, 'x'.repeat(50) + '\\n')", { eval: true }).on('online', () => { for (;;) ; }) }`},
		log: `x\nEventLoopBlocked: .* \(index\.js:2\)\n    at .*/function/index\.js:2:\d+\)?\n(    at .*\n)+$`},
	// What is not known, and does no harm.
	"with a listener for SIGUSR1": {files: map[string]string{"index.js": `process.on('SIGUSR1', () => console.log('heard'))
		module.exports = () => { for (;;) ; }`}, log: `^$`},
	"with a server on the inspector's port": {files: map[string]string{"index.js": `const server = require('net').createServer((s) => s.end('hello'))
		module.exports = () => server.listen(9229, '127.0.0.1', () => { for (;;) ; })`}, log: `^$`},
	"in a program that it waits for": {files: map[string]string{"index.js": `module.exports = () => require('child_process').execSync('sleep 1000')`}, log: `^$`},
}

// TestTheLogOfALoopHasItsStack, on all versions of Node.js.
func TestTheLogOfALoopHasItsStack(t *testing.T) {
	newest := os.Getenv("SANFRAN_NODE26_ROOTFS")
	if newest == "" {
		t.Fatal("SANFRAN_NODE26_ROOTFS does not name a root filesystem of Node.js 26: make one with `go run ./deploy/images --rootfs --runtimes node26`")
	}
	a := startAgent(t, func(c *Config) {
		c.EventLoopLimit, c.LoadTimeout, c.PoolTarget = 2*time.Second, 5*time.Second, 3
		c.Runtimes["node26"] = newest
	})
	n := 0
	for _, runtime := range []string{"node24", "node26"} {
		for name, tc := range loops {
			n++
			pod := assignment("loops-"+strconv.Itoa(n), "10.245.6."+strconv.Itoa(n), a.cp.bundle(tc.files))
			pod.Runtime, pod.Command, pod.IdleTimeout = runtime, tc.command, durationpb.New(0)
			// The inspector must not wait for the loop to use up so little.
			pod.Resources = &agentv1.Resources{MilliCpu: 100, MemoryBytes: 128 << 20}
			t.Run(name+" of "+runtime, func(t *testing.T) {
				a.cp.assign(pod)
				if strings.HasPrefix(name, "while it loads") {
					a.cp.waitState(pod, agentv1.PodState_POD_STATE_FAILED)
				} else {
					a.cp.waitState(pod, agentv1.PodState_POD_STATE_ACTIVE)
					_ = get(t.Context(), "http://"+a.cfg.dataAddress()+"/loop", router.HeaderPod, pod.GetPodUid(), router.HeaderRevision, pod.GetRevision())
				}
				p := a.pods.get(pod.GetPodUid())
				var log string
				eventually(t, "the log of the container that ended", func() bool {
					log = readLog(t, p, logs.ReadOptions{Previous: true, Tail: new(int64(100))})
					return log != logs.ErrNoPrevious.Error()
				})
				if !regexp.MustCompile(tc.log).MatchString(log) || strings.Contains(log, "Debugger") || strings.Contains(log, "/opt/sanfran") {
					t.Errorf("the log is\n%s\nwant %s", log, tc.log)
				}
				a.cp.withdraw(pod, 0)
				a.cp.waitState(pod, agentv1.PodState_POD_STATE_GONE)
			})
		}
	}
}

package router

import (
	"bufio"
	"encoding/json"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	routesv1 "sanfran.dev/proto/sanfran/routes/v1"
)

const (
	workerLease = "0123456789abcdef0123456789abcdef"
	workerNonce = "fedcba9876543210fedcba9876543210"
)

// realWorker runs a function in the real worker, as an agent does but for the
// container, and returns the route to it.
func realWorker(t *testing.T, index string) *routesv1.Route {
	t.Helper()
	worker, err := filepath.Abs("../nodeagent/worker")
	if err != nil {
		t.Fatal(err)
	}
	node := filepath.Join(worker, "node_modules/node24/bin/node")
	if _, err := os.Stat(node); err != nil {
		t.Skip("the worker's packages are not installed (make deps): ", err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	socket, err := listener.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	listener.Close()
	control, err := net.Listen("unix", filepath.Join(t.TempDir(), "control"))
	if err != nil {
		t.Fatal(err)
	}
	defer control.Close()
	agents, err := net.Dial("unix", control.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	workers, err := control.Accept()
	if err != nil {
		t.Fatal(err)
	}
	workersFile, err := workers.(*net.UnixConn).File()
	if err != nil {
		t.Fatal(err)
	}
	workers.Close()
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	logged := make(chan struct{})
	go func() { defer close(logged); _, _ = io.Copy(io.Discard, read) }()
	bundle := t.TempDir()
	if err := os.WriteFile(filepath.Join(bundle, "index.js"), []byte(index), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(node, "--inspect-publish-uid=http", filepath.Join(worker, "main.js"))
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	cmd.ExtraFiles = []*os.File{socket, workersFile, write}
	var output strings.Builder
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for _, f := range cmd.ExtraFiles {
		f.Close()
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		agents.Close()
		<-logged
		read.Close()
	})
	messages := bufio.NewScanner(agents)
	await := func(kind string) {
		for messages.Scan() {
			var message struct{ Type string }
			if err := json.Unmarshal(messages.Bytes(), &message); err != nil {
				t.Fatal(err)
			}
			switch message.Type {
			case kind:
				return
			case "failed":
				t.Fatalf("the worker says %s", messages.Text())
			}
		}
		t.Fatalf("the worker ended before %q: %v %s", kind, messages.Err(), output.String())
	}
	await("warm")
	if err := json.NewEncoder(agents).Encode(map[string]any{
		"type": "activate", "lease": workerLease, "nonce": workerNonce, "namespace": "default", "function": "hello", "pod": "hello",
		"revision": "r", "entry": bundle, "podAddress": "127.0.0.7", "port": 8080, "hostname": "hello", "env": map[string]string{}, "loadTimeoutMs": 40000,
	}); err != nil {
		t.Fatal(err)
	}
	await("ready")
	r := route("a", "hello", "10.0.0.1", workerLease)
	r.Instances[0].Address, r.Instances[0].Nonce, r.HomeAddress, r.Revision = address, workerNonce, "127.0.0.1:1", "r"
	return r
}

//go:build e2e

package e2e

import (
	"bufio"
	"crypto/sha1"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

// runServer is kubectl run of an unmodified server: its file in a ConfigMap, and
// a command.
func runServer(t *testing.T, namespace, name string) {
	t.Helper()
	kubectl(t, "create", "configmap", name, "-n", namespace, "--from-file=../../demo/server/server.js")
	kubectl(t, "run", name, "-n", namespace, "--image=sanfran/node:24", "--port=3000",
		"--override-type=strategic", "--overrides="+fmt.Sprintf(`{"spec":{
		  "nodeSelector":{"kubernetes.io/hostname":"sanfran"},
		  "volumes":[{"name":"code","configMap":{"name":%q}}],
		  "containers":[{"name":%q,"volumeMounts":[{"name":"code","mountPath":"/function"}]}]}}`, name, name),
		"--command", "--", "node", "server.js")
}

// A server that knows nothing of SanFran answers at the gateway and at its
// Service, is never parked, and speaks WebSocket both ways.
func TestServerOfItsOwn(t *testing.T) {
	namespace := newNamespace(t)
	client(t, namespace)
	runServer(t, namespace, "server")
	// A handler that calls it by WebSocket, as functions call each other.
	configMap(t, namespace, "caller", `module.exports = (req, res) => {
	  const socket = new WebSocket('ws://' + req.query.host + '/')
	  socket.onopen = () => socket.send('hello')
	  socket.onmessage = ({ data }) => { res.send(data); socket.close() }
	  socket.onerror = () => res.headersSent || res.status(500).send('no WebSocket')
	}`)
	runFunction(t, namespace, "caller", "caller")
	waitReady(t, namespace, "server")
	waitReady(t, namespace, "caller")

	if status, body := fetch(t, gateway(namespace, "server", "/?name=gateway")); status != 200 || body != "Hello gateway" {
		t.Errorf("at the gateway: %d %q", status, body)
	}
	ip := expose(t, namespace, "server", 3000)
	if got := inCluster(t, namespace, "http://"+ip+"/?name=ClusterIP"); got != "Hello ClusterIP" {
		t.Errorf("at the ClusterIP: %q", got)
	}

	if got := webSocketEcho(t, gateway(namespace, "server", "/"), "hello"); got != "hello" {
		t.Errorf("by WebSocket through the gateway: %q", got)
	}
	if status, body := fetch(t, gateway(namespace, "caller", "/?host="+ip)); status != 200 || body != "hello" {
		t.Errorf("by WebSocket to the ClusterIP: %d %q", status, body)
	}

}

// A server keeps its container for as long as a handler beside it is parked.
func TestServerIsNotParked(t *testing.T) {
	namespace := newNamespace(t)
	const idle = "--annotations=sanfran.dev/idle-timeout=2s"
	configMap(t, namespace, "server", "let n = 0; require('node:http').createServer((req, res) => res.end(String(++n))).listen(process.env.PORT)")
	configMap(t, namespace, "handler", "let n = 0; module.exports = (req, res) => res.send(String(++n))")
	runFunction(t, namespace, "server", "server", idle)
	runFunction(t, namespace, "handler", "handler", idle)
	waitReady(t, namespace, "server")
	waitReady(t, namespace, "handler")
	var handler pod
	get(t, &handler, "pod", "handler", "-n", namespace)
	for _, want := range []string{"1", "2"} {
		if status, body := fetch(t, gateway(namespace, "server", "/")); status != 200 || body != want {
			t.Errorf("the server answers %d %q, want %q of one container", status, body, want)
		}
		if status, body := fetch(t, gateway(namespace, "handler", "/")); status != 200 || body != "1" {
			t.Errorf("the handler answers %d %q, want \"1\" of a fresh container", status, body)
		}
		untilLogged(t, "pod parked", handler.Metadata.UID)
	}
}

// A handler takes WebSocket connections too, also when it is parked.
func TestServerWebSocketWakesAHandler(t *testing.T) {
	namespace := newNamespace(t)
	kubectl(t, "create", "configmap", "echo", "-n", namespace, "--from-file=../../demo/server/server.js",
		"--from-literal=index.js="+`const http = require('node:http')
		// The demo's own "upgrade" listener, without its server.
		const { createServer } = http
		let upgrade
		http.createServer = (...args) => { const server = createServer(...args); server.listen = () => { upgrade = server.listeners('upgrade')[0] }; return server }
		require('./server.js')
		http.createServer = createServer
		module.exports = (req, res) => res.send('plain')
		module.exports.upgrade = upgrade`)
	runFunction(t, namespace, "echo", "echo", "--annotations=sanfran.dev/idle-timeout=2s")
	waitReady(t, namespace, "echo")
	var p pod
	get(t, &p, "pod", "echo", "-n", namespace)
	if status, body := fetch(t, gateway(namespace, "echo", "/")); status != 200 || body != "plain" {
		t.Errorf("got %d %q, want \"plain\"", status, body)
	}
	untilLogged(t, "pod parked", p.Metadata.UID)
	if got := webSocketEcho(t, gateway(namespace, "echo", "/"), "woken"); got != "woken" {
		t.Errorf("by WebSocket to a parked handler: %q", got)
	}
}

func TestServerCommandsThatCannotRunSayWhy(t *testing.T) {
	namespace := newNamespace(t)
	configMap(t, namespace, "code", "require('node:http')")
	for name, command := range map[string][]string{
		"shell": {"sh", "-c", "node server.js"},
		"ends":  {"node", "index.js"},
	} {
		kubectl(t, append([]string{"run", name, "-n", namespace, "--image=sanfran/node:24", "--override-type=strategic", "--overrides=" + fmt.Sprintf(`{"spec":{
		  "nodeSelector":{"kubernetes.io/hostname":"sanfran"},
		  "volumes":[{"name":"code","configMap":{"name":"code"}}],
		  "containers":[{"name":%q,"volumeMounts":[{"name":"code","mountPath":"/function"}]}]}}`, name), "--command", "--"}, command...)...)
	}
	for name, want := range map[string]string{
		"shell": `"sh" cannot be run`,
		"ends":  "had not listened on any TCP port",
	} {
		var described string
		eventually(t, namespace, name, func() bool {
			described = kubectl(t, "describe", "pod", name, "-n", namespace)
			return strings.Contains(described, want)
		}, func() string { return fmt.Sprintf("kubectl describe pod %s lacks %q:\n%s", name, want, described) })
	}
}

// webSocketEcho sends a short text by WebSocket and returns the one that comes
// back (RFC 6455; there is no client in the standard library).
func webSocketEcho(t *testing.T, address, text string) string {
	t.Helper()
	at, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.DialTimeout("tcp", at.Host, patience)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	const key = "dGhlIHNhbXBsZSBub25jZQ=="
	fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %s\r\n\r\n", at.RequestURI(), at.Host, key)
	in := bufio.NewReader(conn)
	res, err := http.ReadResponse(in, nil)
	if err != nil {
		t.Fatalf("%s: %v", address, err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusSwitchingProtocols {
		body, _ := io.ReadAll(io.LimitReader(res.Body, 1000))
		t.Fatalf("%s: %d %q, want 101", address, res.StatusCode, body)
	}
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	if want := base64.StdEncoding.EncodeToString(sum[:]); res.Header.Get("Sec-Websocket-Accept") != want {
		t.Fatalf("%s accepts with %q, want %q", address, res.Header.Get("Sec-Websocket-Accept"), want)
	}
	frame := []byte{0x81, 0x80 | byte(len(text)), 1, 2, 3, 4}
	for i := range len(text) {
		frame = append(frame, text[i]^byte(1+i%4))
	}
	if _, err := conn.Write(frame); err != nil {
		t.Fatal(err)
	}
	head := make([]byte, 2)
	if _, err := io.ReadFull(in, head); err != nil {
		t.Fatalf("%s: %v", address, err)
	}
	answer := make([]byte, head[1]&127)
	if _, err := io.ReadFull(in, answer); err != nil || head[0] != 0x81 {
		t.Fatalf("%s: a frame %x, %v", address, head, err)
	}
	return string(answer)
}

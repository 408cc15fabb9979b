//go:build integration

package nodeagent

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"sanfran.dev/nodeagent/podaddress"
	agentv1 "sanfran.dev/proto/sanfran/agent/v1"
)

// dualStack is a node of a dual-stack cluster.
func dualStack(way podaddress.Way) func(*Config) {
	return func(c *Config) {
		c.PodAddresses = way
		c.NodeIP6 = netip.MustParseAddr(nodeIP6)
		c.PodCIDR6 = netip.MustParsePrefix("fd10:245::/64")
		c.ContainerCIDR6 = netip.MustParsePrefix("fd10:246::/64")
	}
}

func askBeyond(t *testing.T, client *http.Client, url string) string {
	t.Helper()
	res, err := client.Get(url)
	if err != nil {
		return err.Error()
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != 200 {
		t.Errorf("%s: %d %q %v", url, res.StatusCode, body, err)
	}
	// A socket of both families shows IPv4 addresses in their mapped form.
	return strings.ReplaceAll(string(body), "::ffff:", "")
}

// TestAddressesOfBothFamilies calls a pod's addresses as another node does, the
// ways there are to lead connections: parked they reach the agent, active the
// container itself, unassigned nobody. The client's own address is kept.
func TestAddressesOfBothFamilies(t *testing.T) {
	for _, way := range []podaddress.Way{podaddress.SkLookup, podaddress.TProxy} {
		t.Run(string(way), func(t *testing.T) {
			a := startAgent(t, dualStack(way))
			for _, test := range []struct{ name, address, client, nobody string }{
				{"four", "10.245.4.1", "192.0.2.1", "10.245.4.99"},
				{"six", "fd10:245::4:2", "2001:db8::1", "fd10:245::4:99"},
			} {
				pod := assignment(test.name, "10.245.4.1", a.cp.bundle(map[string]string{
					"index.js": "module.exports = (req, res) => res.send(`${req.socket.localAddress} from ${req.socket.remoteAddress}`)"}))
				if pod.Address6 = "fd10:245::4:1"; test.name == "six" {
					pod.Address, pod.Address6 = "10.245.4.2", test.address
				}
				pod.StartParked = true
				pod.IdleTimeout = durationpb.New(0)
				a.cp.assign(pod)
				a.cp.waitState(pod, agentv1.PodState_POD_STATE_PARKED)
				at := func(address, port string) string { return "http://" + net.JoinHostPort(address, port) + "/" }
				if got := askBeyond(t, beyondClient, at(test.address, "8080")); got != nodeIP+" from "+test.client {
					t.Errorf("parked: %q, want the agent to have called the container for %s", got, test.client)
				}
				a.cp.waitState(pod, agentv1.PodState_POD_STATE_ACTIVE)
				for _, port := range []string{"8080", "80"} {
					if got, want := askBeyond(t, beyondClient, at(test.address, port)), test.address+" from "+test.client; got != want {
						t.Errorf("active, port %s: %q, want %q: the container to be called directly", port, got, want)
					}
				}
				if got := askBeyond(t, beyondClient, at(test.nobody, "8080")); !strings.Contains(got, "refused") {
					t.Errorf("an address of nobody: %q, want a refused connection", got)
				}
				a.cp.withdraw(pod, time.Second)
				a.cp.waitState(pod, agentv1.PodState_POD_STATE_GONE)
				if got := askBeyond(t, beyondClient, at(test.address, "8080")); !strings.Contains(got, "refused") {
					t.Errorf("after the pod: %q, want a refused connection", got)
				}
			}
		})
	}
}

// TestAnActivePodSpeaksWhatItsProgramSpeaks calls programs that listen by
// themselves, at their pods' addresses of both families.
func TestAnActivePodSpeaksWhatItsProgramSpeaks(t *testing.T) {
	for _, way := range []podaddress.Way{podaddress.SkLookup, podaddress.TProxy} {
		t.Run(string(way), func(t *testing.T) {
			a := startAgent(t, dualStack(way))
			start := func(number int, code string) (addresses []string) {
				pod := assignment(fmt.Sprintf("program-%d", number), fmt.Sprintf("10.245.5.%d", number), a.cp.bundle(map[string]string{"server.js": code}))
				pod.Address6 = fmt.Sprintf("fd10:245::5:%d", number)
				pod.Command = []string{"node", "server.js"}
				a.cp.assign(pod)
				a.cp.waitState(pod, agentv1.PodState_POD_STATE_ACTIVE)
				return []string{net.JoinHostPort(pod.GetAddress(), "8080"), net.JoinHostPort(pod.GetAddress6(), "8080")}
			}
			for _, at := range start(1, `require('net').createServer((c) => { c.write('HELLO\n'); c.pipe(c) }).listen(8080)`) {
				conn, err := dialWorld(t.Context(), "tcp", at)
				if err != nil {
					t.Fatal(err)
				}
				_ = conn.SetDeadline(time.Now().Add(patience))
				if _, err := io.WriteString(conn, "\x00\x01 no HTTP"); err != nil {
					t.Fatal(err)
				}
				_ = conn.(interface{ CloseWrite() error }).CloseWrite()
				if got, err := io.ReadAll(conn); err != nil || string(got) != "HELLO\n\x00\x01 no HTTP" {
					t.Errorf("%s: %q, %v", at, got, err)
				}
				conn.Close()
			}
			var protocols http.Protocols
			protocols.SetUnencryptedHTTP2(true)
			transport := &http.Transport{DialContext: dialWorld, Protocols: &protocols}
			defer transport.CloseIdleConnections()
			for _, at := range start(2, `require('http2').createServer((req, res) => res.end('HTTP/' + req.httpVersion)).listen(8080)`) {
				if got := askBeyond(t, &http.Client{Transport: transport, Timeout: patience}, "http://"+at+"/"); got != "HTTP/2.0" {
					t.Errorf("%s over h2c: %q", at, got)
				}
			}
			for _, at := range start(3, `require('http').createServer().on('upgrade', (req, socket, head) => {
				socket.write('HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n'); socket.pipe(socket) }).listen(8080)`) {
				conn, err := dialWorld(t.Context(), "tcp", at)
				if err != nil {
					t.Fatal(err)
				}
				_ = conn.SetDeadline(time.Now().Add(patience))
				if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"); err != nil {
					t.Fatal(err)
				}
				answer := make([]byte, len("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"))
				if _, err := io.ReadFull(conn, answer); err != nil || !strings.HasPrefix(string(answer), "HTTP/1.1 101") {
					t.Fatalf("%s: %q, %v", at, answer, err)
				}
				if _, err := io.WriteString(conn, "ping"); err != nil {
					t.Fatal(err)
				}
				if _, err := io.ReadFull(conn, answer[:4]); err != nil || string(answer[:4]) != "ping" {
					t.Errorf("%s: %q, %v", at, answer[:4], err)
				}
				conn.Close()
			}
		})
	}
}

// TestContainersReachTheWorldOverIPv6 has a function call out over both families.
func TestContainersReachTheWorldOverIPv6(t *testing.T) {
	a := startAgent(t, dualStack(podaddress.Auto))
	var listener net.Listener
	if err := inWorld(func() (err error) {
		listener, err = net.Listen("tcp", "[::]:80")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() { listener.Close(); <-done })
	go func() {
		defer close(done)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n%v", conn.RemoteAddr().(*net.TCPAddr).IP)
			conn.Close()
		}
	}()
	pod := assignment("caller", "10.245.4.7", a.cp.bundle(map[string]string{
		"index.js": "module.exports = async (req, res) => res.send(await (await fetch(req.query.url)).text())"}))
	a.cp.assign(pod)
	a.cp.waitState(pod, agentv1.PodState_POD_STATE_ACTIVE)
	for url, want := range map[string]string{"http://192.0.2.1/": nodeIP, "http://[2001:db8::1]/": nodeIP6} {
		if code, body, _ := a.viaData(t, pod, "/?url="+url); code != 200 || body != want {
			t.Errorf("%s: %d %q, want to be seen as %s", url, code, body, want)
		}
	}
}

// TestWhatIsFlushedComesBack has somebody flush the node's rules and routes.
func TestWhatIsFlushedComesBack(t *testing.T) {
	for _, way := range []podaddress.Way{podaddress.SkLookup, podaddress.TProxy} {
		t.Run(string(way), func(t *testing.T) {
			a := startAgent(t, dualStack(way))
			pod := assignment("hello", "10.245.6.1", a.cp.bundle(map[string]string{"index.js": "module.exports = (req, res) => res.send('hello')"}))
			pod.Address6 = "fd10:245::6:1"
			a.cp.assign(pod)
			a.cp.waitState(pod, agentv1.PodState_POD_STATE_ACTIVE)
			before := rules(t)
			for _, take := range []string{"nft flush ruleset", "ip route del local 10.245.0.0/16 dev lo table local; ip -6 route del local fd10:245::/64 dev lo table local"} {
				if out, err := exec.CommandContext(t.Context(), "sh", "-c", take).CombinedOutput(); err != nil {
					t.Fatalf("%s: %v\n%s", take, err, out)
				}
				eventually(t, "the rules after "+take, func() bool { return rules(t) == before })
				for _, at := range []string{"10.245.6.1:8080", "[fd10:245::6:1]:8080"} {
					eventually(t, at+" after "+take, func() bool {
						ctx, cancel := context.WithTimeout(t.Context(), time.Second)
						defer cancel()
						return getWith(ctx, beyondClient, "http://"+at+"/").body == "hello"
					})
				}
			}
		})
	}
}

// rules counts the lines of SanFran's own rules.
func rules(t *testing.T) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "sh", "-c", `for table in $(nft list tables | awk '{print $3}' | sort); do echo $table $(nft list table inet $table | wc -l); done`).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return string(out)
}

//go:build integration

package nodeagent

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"sanfran.dev/nodeagent/podaddress"
	agentv1 "sanfran.dev/proto/sanfran/agent/v1"
	"sanfran.dev/router"
)

// answerBeyond sends a request over a connection and returns the answer's body; of an
// upgrade all that comes after it.
func answerBeyond(t *testing.T, conn net.Conn, header string) string {
	t.Helper()
	_ = conn.SetDeadline(time.Now().Add(patience))
	if _, err := fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: a\r\n%s\r\n", header); err != nil {
		t.Fatal(err)
	}
	in := bufio.NewReader(conn)
	res, err := http.ReadResponse(in, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	from := io.Reader(res.Body)
	if res.StatusCode == http.StatusSwitchingProtocols {
		from = in
	}
	body, err := io.ReadAll(from)
	if err != nil || res.StatusCode >= 300 {
		t.Fatalf("%d %q, %v", res.StatusCode, body, err)
	}
	return string(body)
}

// TestAnAgentBetweenKeepsTheClient: what a container sees of a client is the same on
// a connection of its own and through the agent, in the first request of a parked pod,
// and in later ones, which come over one connection of the agent's, of functions and
// of programs; whatever the client says of itself.
func TestAnAgentBetweenKeepsTheClient(t *testing.T) {
	const look = `const see = (socket) => [socket.remoteAddress, socket.remoteFamily, socket.remotePort].join(' ')
		const upgrade = (req, socket) => { socket.write('HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: who\r\n\r\n'); socket.end(see(socket)) }
	`
	a := startAgent(t, dualStack(podaddress.Auto))
	for number, test := range []struct {
		name, file, code string
		command          []string
	}{
		{"function", "index.js", `module.exports = (req, res) => res.send(see(req.socket) + ' ' + req.ip); module.exports.upgrade = upgrade`, nil},
		{"program", "server.js", `require('http').createServer((req, res) => res.end(see(req.socket) + ' ' + req.socket.remoteAddress)).on('upgrade', upgrade).listen(8080)`, []string{"node", "server.js"}},
	} {
		pod := assignment(test.name, fmt.Sprintf("10.245.8.%d", number+1), a.cp.bundle(map[string]string{test.file: look + test.code}))
		pod.Address6 = fmt.Sprintf("fd10:245::8:%d", number+1)
		pod.Command, pod.ParkServer = test.command, true
		pod.StartParked, pod.IdleTimeout = true, durationpb.New(0)
		a.cp.assign(pod)
		a.cp.waitState(pod, agentv1.PodState_POD_STATE_PARKED)

		const lies = router.HeaderClient + ": 192.0.2.66:6666\r\nX-Forwarded-For: 192.0.2.66\r\n"
		check := func(when string, conn net.Conn, upgrade bool) {
			t.Helper()
			defer conn.Close()
			host, port, err := net.SplitHostPort(conn.LocalAddr().String())
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(host, ":") {
				host = "::ffff:" + host // as a socket of both families shows it
			}
			header, want := lies, fmt.Sprintf("%s IPv6 %s %s", host, port, host)
			if upgrade {
				header, want = lies+"Connection: Upgrade\r\nUpgrade: who\r\n", fmt.Sprintf("%s IPv6 %s", host, port)
			}
			if got := answerBeyond(t, conn, header); got != want {
				t.Errorf("%s, %s: the container sees %q, want %q", test.name, when, got, want)
			}
		}
		connect := func() (conns []net.Conn) {
			for _, address := range []string{pod.GetAddress(), pod.GetAddress6()} {
				conn, err := dialWorld(t.Context(), "tcp", net.JoinHostPort(address, "8080"))
				if err != nil {
					t.Fatal(err)
				}
				conns = append(conns, conn)
			}
			return conns
		}
		// The agent has them all before the container is there.
		first, later, upgrades := connect(), connect(), connect()
		for i, family := range []string{"IPv4", "IPv6"} {
			check("parked, over "+family, first[i], false)
			a.cp.waitState(pod, agentv1.PodState_POD_STATE_ACTIVE)
			check("later, by the agent still, over "+family, later[i], false)
			check("upgraded by the agent, over "+family, upgrades[i], true)
		}
		// Through the data listener the agent is whom the container sees.
		if _, body, _ := a.viaData(t, pod, "/"); !strings.HasPrefix(body, "::ffff:"+nodeIP+" IPv6 ") {
			t.Errorf("%s: by a gateway the container sees %q, want %s", test.name, body, nodeIP)
		}
		for i, conn := range connect() {
			check("direct", conn, i == 1)
		}
	}
}

package socket

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// Ports is a range of TCP ports, both ends included.
type Ports struct{ First, Last uint16 }

// DefaultPorts are the ports of containers' sockets unless configured
// otherwise: above most fixed services, below NodePorts and below the kernel's
// ephemeral ports.
var DefaultPorts = Ports{First: 20000, Last: 29999}

// DefaultNodePorts is kube-apiserver's default --service-node-port-range.
var DefaultNodePorts = Ports{First: 30000, Last: 32767}

// ephemeralFile is where the kernel says which ports it gives to outgoing
// connections, for the network namespace of the reader.
const ephemeralFile = "/proc/sys/net/ipv4/ip_local_port_range"

// ErrOverlap is in the chain of an error that says two port ranges share ports.
var ErrOverlap = errors.New("port ranges overlap")

func (p Ports) String() string { return fmt.Sprintf("%d-%d", p.First, p.Last) }

// Size is the number of ports in the range.
func (p Ports) Size() int { return int(p.Last) - int(p.First) + 1 }

// Contains says whether port is in the range.
func (p Ports) Contains(port uint16) bool { return port >= p.First && port <= p.Last }

func (p Ports) overlaps(q Ports) bool { return p.First <= q.Last && q.First <= p.Last }

func (p Ports) validate() error {
	if p.First == 0 || p.Last < p.First {
		return fmt.Errorf("port range %v: give it as first-last with 1 ≤ first ≤ last ≤ 65535", p)
	}
	return nil
}

// check refuses a range for containers' sockets that shares a port with the
// ports the kernel gives to outgoing connections, or with NodePorts: either
// would take connections away from the other, now and then, without a word.
func (p Ports) check(ephemeral, nodePorts Ports) error {
	if err := p.validate(); err != nil {
		return err
	}
	if p.overlaps(ephemeral) {
		return fmt.Errorf("containers' ports %v and the kernel's ephemeral ports %v (%s): %w; choose another range, or move the kernel's with sysctl net.ipv4.ip_local_port_range", p, ephemeral, ephemeralFile, ErrOverlap)
	}
	if p.overlaps(nodePorts) {
		return fmt.Errorf("containers' ports %v and the cluster's NodePorts %v: %w; choose another range", p, nodePorts, ErrOverlap)
	}
	return nil
}

func readEphemeral() (Ports, error) {
	text, err := os.ReadFile(ephemeralFile)
	if err != nil {
		return Ports{}, fmt.Errorf("kernel's ephemeral ports: %w", err)
	}
	return parseEphemeral(string(text))
}

func parseEphemeral(text string) (Ports, error) {
	fields := strings.Fields(text)
	if len(fields) != 2 {
		return Ports{}, fmt.Errorf("%s holds %q, not two numbers", ephemeralFile, text)
	}
	var ends [2]uint16
	for i, field := range fields {
		n, err := strconv.ParseUint(field, 10, 16)
		if err != nil {
			return Ports{}, fmt.Errorf("%s holds %q: %w", ephemeralFile, text, err)
		}
		ends[i] = uint16(n)
	}
	return Ports{First: ends[0], Last: ends[1]}, nil
}

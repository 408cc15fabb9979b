package main

import (
	"context"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// upstreams are the machine's resolvers that answer, and can be reached from a
// node: one on the machine's loopback cannot.
func upstreams(ctx context.Context) []string {
	var candidates []string
	for _, file := range []string{"/run/systemd/resolve/resolv.conf", "/etc/resolv.conf"} {
		raw, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		if candidates = nameservers(string(raw)); len(candidates) > 0 {
			break
		}
	}
	answers := make([]bool, len(candidates))
	var group sync.WaitGroup
	for i, server := range candidates {
		group.Go(func() { answers[i] = answersDNS(ctx, server) })
	}
	group.Wait()
	var good []string
	for i, server := range candidates {
		if answers[i] {
			good = append(good, server)
		}
	}
	return good
}

// nameservers reads the text of a resolv.conf, without loopback addresses.
func nameservers(text string) []string {
	var servers []string
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 2 || fields[0] != "nameserver" {
			continue
		}
		if address, err := netip.ParseAddr(fields[1]); err == nil && !address.IsLoopback() && address.Zone() == "" {
			servers = append(servers, address.String())
		}
	}
	return servers
}

// answersDNS tells whether a server answers a question, whatever the answer.
func answersDNS(ctx context.Context, server string) bool {
	ctx, cancel := context.WithTimeout(ctx, 700*time.Millisecond)
	defer cancel()
	question := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: 1, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName("."), Type: dnsmessage.TypeNS, Class: dnsmessage.ClassINET}},
	}
	packed, err := question.Pack()
	if err != nil {
		return false
	}
	var dialer net.Dialer
	connection, err := dialer.DialContext(ctx, "udp", net.JoinHostPort(server, "53"))
	if err != nil {
		return false
	}
	defer connection.Close()
	deadline, _ := ctx.Deadline()
	_ = connection.SetDeadline(deadline)
	if _, err := connection.Write(packed); err != nil {
		return false
	}
	answer := make([]byte, 4096)
	size, err := connection.Read(answer)
	return err == nil && size >= 12
}

// resolvConf is the resolv.conf of nodes, and of pods that want the node's.
// It is never empty: some programs then ask the loopback address.
func resolvConf(servers []string) string {
	if len(servers) == 0 {
		servers = []string{dnsService4}
	}
	var text strings.Builder
	for _, server := range servers {
		text.WriteString("nameserver " + server + "\n")
	}
	return text.String()
}

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// makeBridge makes sure that the cluster has its bridge, with the machine's
// address on it, and its way out.
func (c *cluster) makeBridge(ctx context.Context) error {
	link, err := netlink.LinkByName(c.bridge())
	var absent netlink.LinkNotFoundError
	if errors.As(err, &absent) {
		attributes := netlink.NewLinkAttrs()
		attributes.Name = c.bridge()
		if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attributes}); err != nil {
			return fmt.Errorf("bridge %s: %w (\"not supported\" means that this kernel has no module bridge)", c.bridge(), err)
		}
		link, err = netlink.LinkByName(c.bridge())
	}
	if err != nil {
		return fmt.Errorf("bridge %s: %w", c.bridge(), err)
	}
	if err := ensureAddress(nil, link, netip.PrefixFrom(c.gateway4(), c.Subnet4.Bits())); err != nil {
		return err
	}
	if c.DualStack {
		if err := ensureAddress(nil, link, netip.PrefixFrom(c.gateway6(), c.Subnet6.Bits())); err != nil {
			return err
		}
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("bridge %s: %w", c.bridge(), err)
	}
	return nft(ctx, nil, c.machineRules())
}

// table is the name of the cluster's nftables table.
func (c *cluster) table() string { return "sanfran-local-" + c.Name }

// machineRules hide the nodes behind the machine's address when they talk to
// the world.
func (c *cluster) machineRules() string {
	rules := fmt.Sprintf("ip saddr %s ip daddr != %s masquerade\n", c.Subnet4, c.Subnet4)
	if c.DualStack {
		rules += fmt.Sprintf("ip6 saddr %s ip6 daddr != %s masquerade\n", c.Subnet6, c.Subnet6)
	}
	return masqueradeTable(c.table(), rules)
}

// nodeRules hide pods behind their node's address when they talk to what is
// not of the cluster, the machine included: only nodes have routes to pods.
func (c *cluster) nodeRules() string {
	rules := fmt.Sprintf("ip saddr %[1]s ip daddr %[2]s masquerade\nip saddr %[1]s ip daddr != { %[1]s, %[3]s, %[4]s, %[5]s } masquerade\n",
		podCIDR4, c.gateway4(), functionCIDR4, serviceCIDR4, c.Subnet4)
	if c.DualStack {
		rules += fmt.Sprintf("ip6 saddr %[1]s ip6 daddr %[2]s masquerade\nip6 saddr %[1]s ip6 daddr != { %[1]s, %[3]s, %[4]s } masquerade\n",
			podCIDR6, c.gateway6(), serviceCIDR6, c.Subnet6)
	}
	return masqueradeTable("sanfran-local", rules)
}

// masqueradeTable replaces a table in one step.
func masqueradeTable(name, rules string) string {
	return fmt.Sprintf("table inet %[1]s {}\ndelete table inet %[1]s\ntable inet %[1]s {\nchain postrouting {\ntype nat hook postrouting priority srcnat; policy accept;\n%[2]s}\n}\n", name, rules)
}

// nft runs a script of nftables rules, in the network of a node or of the
// machine.
func nft(ctx context.Context, where *process, script string) error {
	if where != nil {
		_, err := where.run(ctx, true, strings.NewReader(script), "nft", "-f", "-")
		return err
	}
	command := exec.CommandContext(ctx, "nft", "-f", "-")
	command.Stdin = strings.NewReader(script)
	if output, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("nft: %w: %s", err, strings.TrimSpace(string(output)))
	}
	return nil
}

// connect makes sure that the node's network is joined to the bridge and can
// forward for its pods.
func (n node) connect(ctx context.Context, p process) error {
	handle, err := handleAt(p)
	if err != nil {
		return fmt.Errorf("network of node %s: %w", n.name(), err)
	}
	defer handle.Close()
	bridge, err := netlink.LinkByName(n.cluster.bridge())
	if err != nil {
		return fmt.Errorf("bridge %s: %w", n.cluster.bridge(), err)
	}
	inside, err := handle.LinkByName("eth0")
	if err != nil {
		// An end without the other one is of a node that died.
		if stale, err := netlink.LinkByName(n.veth()); err == nil {
			if err := netlink.LinkDel(stale); err != nil {
				return fmt.Errorf("device %s: %w", n.veth(), err)
			}
		}
		attributes := netlink.NewLinkAttrs()
		attributes.Name = n.veth()
		attributes.MasterIndex = bridge.Attrs().Index
		pair := &netlink.Veth{LinkAttrs: attributes, PeerName: "eth0", PeerNamespace: netlink.NsPid(p.PID)}
		if err := netlink.LinkAdd(pair); err != nil {
			return fmt.Errorf("device %s: %w", n.veth(), err)
		}
		if inside, err = handle.LinkByName("eth0"); err != nil {
			return fmt.Errorf("network of node %s: eth0: %w", n.name(), err)
		}
	}
	outside, err := netlink.LinkByName(n.veth())
	if err != nil {
		return fmt.Errorf("device %s: %w", n.veth(), err)
	}
	if err := errors.Join(netlink.LinkSetMaster(outside, bridge), netlink.LinkSetUp(outside)); err != nil {
		return fmt.Errorf("device %s: %w", n.veth(), err)
	}
	if err := n.forward(ctx, p); err != nil {
		return err
	}
	addresses := []netip.Prefix{netip.PrefixFrom(n.address4(), n.cluster.Subnet4.Bits())}
	gateways := []netip.Addr{n.cluster.gateway4()}
	if n.cluster.DualStack {
		addresses = append(addresses, netip.PrefixFrom(n.address6(), n.cluster.Subnet6.Bits()))
		gateways = append(gateways, n.cluster.gateway6())
	}
	for _, address := range addresses {
		if err := ensureAddress(handle, inside, address); err != nil {
			return err
		}
	}
	if err := handle.LinkSetUp(inside); err != nil {
		return fmt.Errorf("node %s: eth0: %w", n.name(), err)
	}
	for i, gateway := range gateways {
		everywhere := netip.PrefixFrom(addresses[i].Addr(), 0).Masked()
		if err := n.route(handle, everywhere, gateway); err != nil {
			return err
		}
	}
	return nil
}

// forward lets the node's kernel forward packets, and hides its pods.
func (n node) forward(ctx context.Context, p process) error {
	script := "echo 1 > /proc/sys/net/ipv4/ip_forward"
	if n.cluster.DualStack {
		script += " && echo 1 > /proc/sys/net/ipv6/conf/all/forwarding"
	}
	if _, err := p.run(ctx, false, nil, "sh", "-c", script); err != nil {
		return fmt.Errorf("node %s: %w", n.name(), err)
	}
	if err := nft(ctx, &p, n.cluster.nodeRules()); err != nil {
		return fmt.Errorf("node %s: %w", n.name(), err)
	}
	return nil
}

// route makes sure that the node sends what is for destination to gateway.
func (n node) route(handle *netlink.Handle, destination netip.Prefix, gateway netip.Addr) error {
	link, err := handle.LinkByName("eth0")
	if err != nil {
		return fmt.Errorf("node %s: eth0: %w", n.name(), err)
	}
	err = handle.RouteReplace(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: ipNet(destination), Gw: net.IP(gateway.AsSlice())})
	if err != nil {
		return fmt.Errorf("node %s: route to %s by %s: %w", n.name(), destination, gateway, err)
	}
	return nil
}

// handleAt talks to the kernel about the network of a node.
func handleAt(p process) (*netlink.Handle, error) {
	namespace, err := netns.GetFromPid(p.PID)
	if err != nil {
		return nil, err
	}
	defer namespace.Close()
	return netlink.NewHandleAt(namespace)
}

// ensureAddress gives a device an address, at once usable (nodad), unless it
// has it; handle is nil for the machine's own network.
func ensureAddress(handle *netlink.Handle, link netlink.Link, address netip.Prefix) error {
	replace := netlink.AddrReplace
	if handle != nil {
		replace = handle.AddrReplace
	}
	const noDuplicateDetection = 0x02 // IFA_F_NODAD
	value := &netlink.Addr{IPNet: ipNet(address)}
	value.IP = net.IP(address.Addr().AsSlice())
	if address.Addr().Is6() {
		value.Flags = noDuplicateDetection
	}
	if err := replace(link, value); err != nil {
		return fmt.Errorf("address %s on %s: %w", address, link.Attrs().Name, err)
	}
	return nil
}

func ipNet(prefix netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: net.IP(prefix.Addr().AsSlice()), Mask: net.CIDRMask(prefix.Bits(), prefix.Addr().BitLen())}
}

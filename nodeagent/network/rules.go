package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"sanfran.dev/nodeagent/network/ranges"
)

// TableName is the nftables table (family inet) that belongs to this package
// alone.
const TableName = "sanfran_network"

// Bits and values of the kernel that package expr does not name.
const (
	statusDNAT = 1 << 5 // IPS_DST_NAT
	portDNS    = 53
)

// installRules replaces our table in one transaction.
func installRules(config Config) error {
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	table := &nftables.Table{Name: TableName, Family: nftables.TableFamilyINet}
	// Add makes the deletion valid on a node that has no such table yet.
	conn.AddTable(table)
	conn.DelTable(table)
	conn.AddTable(table)
	bridge := config.Bridge
	add := func(chain *nftables.Chain, parts ...[]expr.Any) {
		conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: join(parts...)})
	}
	// fromOthers drops what does not come from containers' addresses. IPv4 has the
	// reverse path filter for that.
	fromOthers := func(chain *nftables.Chain) {
		if config.CIDR6.IsValid() {
			add(chain, ipv6(), notFrom(config.containers6()), drop())
		}
	}

	bounds, err := addBounds(conn, table, config)
	if err != nil {
		return err
	}

	// Into the node.
	toNode := conn.AddChain(&nftables.Chain{Name: "container_to_node", Table: table})
	if config.CIDR6.IsValid() {
		// Who has the bridge's address, and the answer to the same question.
		add(toNode, icmpv6(neighborSolicitation), accept())
		add(toNode, icmpv6(neighborAdvertisement), accept())
	}
	fromOthers(toNode)
	add(toNode, established(), accept())
	add(toNode, jump(bounds))
	for _, server := range config.DNS {
		add(toNode, destination(netip.PrefixFrom(server, server.BitLen())), port(unix.IPPROTO_UDP, portDNS), accept())
		add(toNode, destination(netip.PrefixFrom(server, server.BitLen())), port(unix.IPPROTO_TCP, portDNS), accept())
	}
	for _, cidr := range config.denied() {
		add(toNode, destination(cidr), drop())
	}
	for _, cidr := range config.FunctionCIDRs {
		add(toNode, destination(cidr), accept())
	}
	for _, denied := range config.DeniedPorts {
		add(toNode, port(unix.IPPROTO_TCP, denied), drop())
	}
	// A Service whose backend runs in this node's own network.
	add(toNode, translated(), accept())
	add(toNode, drop())

	input := conn.AddChain(&nftables.Chain{Name: "input", Table: table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookInput, Priority: nftables.ChainPriorityFilter})
	add(input, from(bridge), jump(toNode))

	// Through the node.
	outward := conn.AddChain(&nftables.Chain{Name: "container_outward", Table: table})
	fromOthers(outward)
	add(outward, established(), accept())
	add(outward, to(bridge), drop())
	add(outward, jump(bounds))
	for _, server := range config.DNS {
		add(outward, destination(netip.PrefixFrom(server, server.BitLen())), port(unix.IPPROTO_UDP, portDNS), accept())
		add(outward, destination(netip.PrefixFrom(server, server.BitLen())), port(unix.IPPROTO_TCP, portDNS), accept())
	}
	for _, cidr := range config.denied() {
		add(outward, destination(cidr), drop())
	}
	for _, denied := range config.DeniedPorts {
		add(outward, port(unix.IPPROTO_TCP, denied), drop())
	}
	add(outward, ipv4(), accept())
	if config.CIDR6.IsValid() {
		add(outward, ipv6(), accept())
	}
	add(outward, drop())
	inward := conn.AddChain(&nftables.Chain{Name: "container_inward", Table: table})
	add(inward, established(), accept())
	add(inward, drop())
	forward := conn.AddChain(&nftables.Chain{Name: "forward", Table: table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter})
	add(forward, from(bridge), jump(outward))
	add(forward, to(bridge), jump(inward))

	postrouting := conn.AddChain(&nftables.Chain{Name: "postrouting", Table: table, Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource})
	for _, cidr := range config.cidrs() {
		add(postrouting, source(cidr), notTo(bridge), []expr.Any{&expr.Masq{}})
	}

	if err := conn.Flush(); err != nil {
		return fmt.Errorf("install nftables table inet %s (needs CAP_NET_ADMIN and nf_tables, nft_masq, nft_limit, nft_connlimit in the kernel): %w", TableName, err)
	}
	return nil
}

// chains are those of the table.
var chains = []string{"container_to_node", "input", "container_outward", "container_inward", "forward", "postrouting", "container_bounds"}

func removeRules() error {
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	conn.DelTable(&nftables.Table{Name: TableName, Family: nftables.TableFamilyINet})
	if err := conn.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove nftables table inet %s: %w", TableName, err)
	}
	return nil
}

// forwardDrops names chains of others that drop forwarded packets by default (as
// Docker's do). What it cannot read it does not report.
func forwardDrops() []string {
	conn, err := nftables.New()
	if err != nil {
		return nil
	}
	chains, err := conn.ListChains()
	if err != nil {
		return nil
	}
	var names []string
	for _, chain := range chains {
		if chain.Hooknum == nil || *chain.Hooknum != *nftables.ChainHookForward || chain.Table.Name == TableName {
			continue
		}
		family := chain.Table.Family
		if family != nftables.TableFamilyIPv4 && family != nftables.TableFamilyINet {
			continue
		}
		if chain.Policy != nil && *chain.Policy == nftables.ChainPolicyDrop {
			names = append(names, chain.Table.Name+" "+chain.Name)
		}
	}
	return names
}

// preflight refuses a range that the node already uses for something else.
func preflight(config Config) error {
	index := -1
	if bridge, err := netlink.LinkByName(config.Bridge); err == nil {
		index = bridge.Attrs().Index
	} else if !isGone(err) {
		return fmt.Errorf("bridge %s: %w", config.Bridge, err)
	}
	for _, cidr := range config.cidrs() {
		if err := ranges.Check("containers' range", cidr, func(route netlink.Route) bool { return route.LinkIndex == index }); err != nil {
			return err
		}
	}
	return nil
}

// The rest are parts of rules.

func join(parts ...[]expr.Any) []expr.Any {
	var all []expr.Any
	for _, part := range parts {
		all = append(all, part...)
	}
	return all
}

func accept() []expr.Any { return []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}} }

func drop() []expr.Any { return []expr.Any{&expr.Counter{}, &expr.Verdict{Kind: expr.VerdictDrop}} }

func jump(chain *nftables.Chain) []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: chain.Name}}
}

func from(name string) []expr.Any  { return ifname(expr.MetaKeyIIFNAME, expr.CmpOpEq, name) }
func to(name string) []expr.Any    { return ifname(expr.MetaKeyOIFNAME, expr.CmpOpEq, name) }
func notTo(name string) []expr.Any { return ifname(expr.MetaKeyOIFNAME, expr.CmpOpNeq, name) }

func ifname(meta expr.MetaKey, op expr.CmpOp, name string) []expr.Any {
	padded := make([]byte, unix.IFNAMSIZ)
	copy(padded, name)
	return []expr.Any{&expr.Meta{Key: meta, Register: 1}, &expr.Cmp{Op: op, Register: 1, Data: padded}}
}

func ipv4() []expr.Any { return protocol(unix.NFPROTO_IPV4) }
func ipv6() []expr.Any { return protocol(unix.NFPROTO_IPV6) }

func protocol(family byte) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{family}},
	}
}

// ICMPv6 types of neighbour discovery (RFC 4861).
const (
	neighborSolicitation  = 135
	neighborAdvertisement = 136
)

func icmpv6(kind byte) []expr.Any {
	return join(ipv6(), []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_ICMPV6}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{kind}},
	})
}

// Where addresses lie in the headers of IPv4 and IPv6.
const (
	sourceOffset4, destinationOffset4 = 12, 16
	sourceOffset6, destinationOffset6 = 8, 24
)

func source(prefix netip.Prefix) []expr.Any {
	return address(sourceOffset4, sourceOffset6, prefix, expr.CmpOpEq)
}
func notFrom(prefix netip.Prefix) []expr.Any {
	return address(sourceOffset4, sourceOffset6, prefix, expr.CmpOpNeq)
}
func destination(prefix netip.Prefix) []expr.Any {
	return address(destinationOffset4, destinationOffset6, prefix, expr.CmpOpEq)
}

// address matches packets of the prefix's family.
func address(offset4, offset6 uint32, prefix netip.Prefix, op expr.CmpOp) []expr.Any {
	prefix = prefix.Masked()
	family, offset := ipv4(), offset4
	if prefix.Addr().Is6() {
		family, offset = ipv6(), offset6
	}
	length := uint32(prefix.Addr().BitLen() / 8)
	return join(family, []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: length},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: length, Mask: net.CIDRMask(prefix.Bits(), prefix.Addr().BitLen()), Xor: make([]byte, length)},
		&expr.Cmp{Op: op, Register: 1, Data: prefix.Addr().AsSlice()},
	})
}

// port matches a destination port.
func port(protocol byte, number uint16) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{protocol}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.BigEndian.PutUint16(number)},
	}
}

// established matches packets of connections that were let through, and errors
// about them.
func established() []expr.Any {
	return tracked(expr.CtKeySTATE, expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED)
}

// translated matches connections whose destination was rewritten.
func translated() []expr.Any { return tracked(expr.CtKeySTATUS, statusDNAT) }

func tracked(what expr.CtKey, bits uint32) []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: what, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4,
			Mask: binaryutil.NativeEndian.PutUint32(bits), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
	}
}

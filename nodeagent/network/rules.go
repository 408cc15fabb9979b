package network

import (
	"errors"
	"fmt"
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

	bounds, err := addBounds(conn, table, config)
	if err != nil {
		return err
	}

	// Into the node.
	toNode := conn.AddChain(&nftables.Chain{Name: "container_to_node", Table: table})
	add(toNode, established(), accept())
	add(toNode, jump(bounds))
	for _, server := range config.DNS {
		add(toNode, destination(netip.PrefixFrom(server, 32)), port(unix.IPPROTO_UDP, portDNS), accept())
		add(toNode, destination(netip.PrefixFrom(server, 32)), port(unix.IPPROTO_TCP, portDNS), accept())
	}
	for _, cidr := range config.Denied {
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
	add(outward, established(), accept())
	add(outward, to(bridge), drop())
	add(outward, jump(bounds))
	for _, server := range config.DNS {
		add(outward, destination(netip.PrefixFrom(server, 32)), port(unix.IPPROTO_UDP, portDNS), accept())
		add(outward, destination(netip.PrefixFrom(server, 32)), port(unix.IPPROTO_TCP, portDNS), accept())
	}
	for _, cidr := range config.Denied {
		add(outward, destination(cidr), drop())
	}
	for _, denied := range config.DeniedPorts {
		add(outward, port(unix.IPPROTO_TCP, denied), drop())
	}
	add(outward, ipv4(), accept())
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
	add(postrouting, source(config.CIDR), notTo(bridge), []expr.Any{&expr.Masq{}})

	if err := conn.Flush(); err != nil {
		return fmt.Errorf("install nftables table inet %s (needs CAP_NET_ADMIN and nf_tables, nft_masq, nft_limit, nft_connlimit in the kernel): %w", TableName, err)
	}
	return nil
}

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
	return ranges.Check("containers' range", config.CIDR, func(route netlink.Route) bool { return route.LinkIndex == index })
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

func ipv4() []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.NFPROTO_IPV4}},
	}
}

const (
	sourceOffset      = 12
	destinationOffset = 16
)

func source(prefix netip.Prefix) []expr.Any      { return address(sourceOffset, prefix) }
func destination(prefix netip.Prefix) []expr.Any { return address(destinationOffset, prefix) }

func address(offset uint32, prefix netip.Prefix) []expr.Any {
	prefix = prefix.Masked()
	mask := binaryutil.BigEndian.PutUint32(uint32(uint64(0xffffffff) << (32 - prefix.Bits())))
	return join(ipv4(), []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 4},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: mask, Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: prefix.Addr().AsSlice()},
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

package podaddress

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"sanfran.dev/nodeagent/nftable"
)

// The table, for IPv4 (IPv6 has sets and chains of its own):
//
//	set assigned_ip  { type ipv4_addr }
//	map sockets_ip   { type ipv4_addr . integer : ipv4_addr . inet_service }
//	chain prerouting { type filter hook prerouting priority -90
//	    ip daddr RANGE jump lead_ip
//	}
//	chain lead_ip {
//	    meta l4proto tcp ip daddr @assigned_ip goto socket_ip
//	    tcp flags syn / syn,ack  meta priority set REFUSED
//	    meta l4proto udp         meta priority set REFUSED
//	}
//	chain socket_ip {
//	    tproxy to ip daddr . jhash tcp sport mod 8 map @sockets_ip  accept
//	    tproxy to AGENT                                             accept
//	    tcp flags syn / syn,ack                                     drop
//	}
//	chain input { type filter hook input priority -1
//	    meta priority REFUSED ip daddr RANGE meta l4proto tcp reject with tcp reset
//	    meta priority REFUSED ip daddr RANGE reject
//	}
//
// At -90 a Service's address has been translated already (-100). A tproxy whose
// socket does not listen any more breaks off its rule, so the next one takes over.
// It looks for an established connection first: those stay with whom they are
// with. Dropped and refused is only what begins a connection, so that established
// ones outlive the address, and those that the node makes with such an address as
// its own get their answers. The kernels that need this way cannot refuse in
// prerouting; the packet's priority, which nothing else looks at on the way in,
// says to input what was decided there.
const refusedPriority = 0x5af0

// priority is behind the translation of Services' addresses, -100.
const priority = -90

// Registers of four bytes each: where an address and a port lie behind each other,
// as in an element of the map, and where the key lies.
const (
	registerSocket = unix.NFT_REG32_00
	registerKey    = unix.NFT_REG_3
	registerKey32  = unix.NFT_REG32_00 + 8 // the same, by the numbers of registers of four bytes
)

// family is what differs between IPv4 and IPv6.
type family struct {
	name     string
	protocol byte
	offset   uint32 // of the destination address in the header
	length   uint32 // of an address
	addrType nftables.SetDatatype
}

var (
	ipv4         = family{"ip", unix.NFPROTO_IPV4, 16, 4, nftables.TypeIPAddr}
	ipv6         = family{"ip6", unix.NFPROTO_IPV6, 24, 16, nftables.TypeIP6Addr}
	bothFamilies = []family{ipv4, ipv6}
)

func familyOfAddr(addr netip.Addr) family {
	if addr.Is6() {
		return ipv6
	}
	return ipv4
}

func (t *tproxy) assignedSet(f family) *nftables.Set {
	return &nftables.Set{Table: t.table, Name: "assigned_" + f.name, KeyType: f.addrType}
}

func (t *tproxy) socketsMap(f family) *nftables.Set {
	return &nftables.Set{
		Table: t.table, Name: "sockets_" + f.name, KeyType: nftables.MustConcatSetType(f.addrType, nftables.TypeInteger), Concatenation: true,
		IsMap: true, DataType: nftables.MustConcatSetType(f.addrType, nftables.TypeInetService),
	}
}

// socketElements are the map's elements of an address, one for each bucket: the
// listening socket's address, an IPv4 one of an IPv6 socket in its mapped form, and
// its port.
func socketElements(addr netip.Addr, to sockets) (elements []nftables.SetElement) {
	for bucket, socket := range to {
		value := socket.Addr().AsSlice()
		if addr.Is6() {
			mapped := socket.Addr().As16()
			value = mapped[:]
		}
		value = binary.BigEndian.AppendUint16(value, socket.Port())
		elements = append(elements, nftables.SetElement{
			Key: binary.NativeEndian.AppendUint32(addr.AsSlice(), uint32(bucket)), Val: append(value, 0, 0),
		})
	}
	return elements
}

func parseSocketElement(element nftables.SetElement) (addr netip.Addr, bucket int, to netip.AddrPort, ok bool) {
	length := len(element.Key) - 4
	if length < 0 || len(element.Val) != length+4 {
		return netip.Addr{}, 0, netip.AddrPort{}, false
	}
	number := binary.NativeEndian.Uint32(element.Key[length:])
	addr, isAddr := netip.AddrFromSlice(element.Key[:length])
	socket, isSocket := netip.AddrFromSlice(element.Val[:length])
	to = netip.AddrPortFrom(socket.Unmap(), binary.BigEndian.Uint16(element.Val[length:]))
	return addr, int(number), to, isAddr && isSocket && number < MaxListeners
}

// elementsAtOnce keeps a message below the 64 KiB that a netlink attribute holds.
const elementsAtOnce = 400

// install puts the rules in place in one transaction: with the sets that are there,
// whose elements are those of led, or all anew. In the first case a packet on its way
// through the rules finds every element all the time.
func (t *tproxy) install(anew bool) error {
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	conn.AddTable(t.table)
	if anew {
		// The first Add makes this valid on a node that has no such table.
		conn.DelTable(t.table)
		conn.AddTable(t.table)
	} else {
		conn.FlushTable(t.table)
	}
	prerouting := conn.AddChain(&nftables.Chain{Name: "prerouting", Table: t.table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityRef(priority)})
	input := conn.AddChain(&nftables.Chain{Name: "input", Table: t.table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookInput, Priority: nftables.ChainPriorityRef(-1)})
	chains := []string{"prerouting", "input"}
	for _, f := range bothFamilies {
		if err := t.addSets(conn, f, anew); err != nil {
			return fmt.Errorf("nftables table inet %s: %w", TableName, err)
		}
		lead := conn.AddChain(&nftables.Chain{Name: "lead_" + f.name, Table: t.table})
		socket := conn.AddChain(&nftables.Chain{Name: "socket_" + f.name, Table: t.table})
		chains = append(chains, lead.Name, socket.Name)
		add := func(chain *nftables.Chain, parts ...[]expr.Any) {
			conn.AddRule(&nftables.Rule{Table: t.table, Chain: chain, Exprs: slices.Concat(parts...)})
		}
		for _, cidr := range t.config.CIDRs {
			if familyOfAddr(cidr.Addr()) != f {
				continue
			}
			add(prerouting, toRange(cidr), verdict(expr.VerdictJump, lead.Name))
			add(input, priorityIs(refusedPriority), toRange(cidr), protocol(unix.IPPROTO_TCP), []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_TCP_RST}})
			add(input, priorityIs(refusedPriority), toRange(cidr), []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_PORT_UNREACH}})
		}
		add(lead, protocol(unix.IPPROTO_TCP), loadKey(f), []expr.Any{&expr.Lookup{SourceRegister: registerKey, SetName: t.assignedSet(f).Name}}, verdict(expr.VerdictGoto, socket.Name))
		add(lead, protocol(unix.IPPROTO_TCP), beginsConnection(), setPriority(refusedPriority))
		add(lead, protocol(unix.IPPROTO_UDP), setPriority(refusedPriority))

		add(socket, loadKey(f), loadBucket(f), []expr.Any{
			&expr.Lookup{SourceRegister: registerKey, DestRegister: registerSocket, IsDestRegSet: true, SetName: t.socketsMap(f).Name},
			toSocket(f),
		}, verdict(expr.VerdictAccept, ""))
		if f == ipv6 || t.agent.Addr().Is4() {
			add(socket, t.loadAgent(f), []expr.Any{toSocket(f)}, verdict(expr.VerdictAccept, ""))
		}
		add(socket, protocol(unix.IPPROTO_TCP), beginsConnection(), verdict(expr.VerdictDrop, ""))
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("install nftables table inet %s (needs CAP_NET_ADMIN and nf_tables, nft_tproxy, nft_reject in the kernel): %w", TableName, err)
	}
	t.rules, err = nftable.Watch(TableName, chains...)
	return err
}

// addSets makes the sets of a family, with what is to be in them.
func (t *tproxy) addSets(conn *nftables.Conn, f family, fill bool) error {
	if err := errors.Join(conn.AddSet(t.assignedSet(f), nil), conn.AddSet(t.socketsMap(f), nil)); err != nil || !fill {
		return err
	}
	var assigned, directed []nftables.SetElement
	for addr, to := range t.led {
		if familyOfAddr(addr) != f {
			continue
		}
		assigned = append(assigned, nftables.SetElement{Key: addr.AsSlice()})
		if to != (sockets{}) {
			directed = append(directed, socketElements(addr, to)...)
		}
	}
	for _, in := range []struct {
		set      *nftables.Set
		elements []nftables.SetElement
	}{{t.assignedSet(f), assigned}, {t.socketsMap(f), directed}} {
		for some := range slices.Chunk(in.elements, elementsAtOnce) {
			if err := conn.SetAddElements(in.set, some); err != nil {
				return err
			}
		}
	}
	return nil
}

// The rest are parts of rules.

func verdict(kind expr.VerdictKind, chain string) []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: kind, Chain: chain}}
}

// toRange matches packets to an address of the range.
func toRange(cidr netip.Prefix) []expr.Any {
	f := familyOfAddr(cidr.Addr())
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{f.protocol}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: f.offset, Len: f.length},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: f.length,
			Mask: net.CIDRMask(cidr.Bits(), cidr.Addr().BitLen()), Xor: make([]byte, f.length)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: cidr.Addr().AsSlice()},
	}
}

func loadKey(f family) []expr.Any {
	return []expr.Any{&expr.Payload{DestRegister: registerKey, Base: expr.PayloadBaseNetworkHeader, Offset: f.offset, Len: f.length}}
}

// loadBucket puts the bucket behind the key's address.
func loadBucket(f family) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 2},
		&expr.Hash{SourceRegister: 1, DestRegister: registerKey32 + f.length/4, Length: 2, Modulus: MaxListeners, Type: expr.HashTypeJenkins},
	}
}

// loadAgent puts the agent's listener where the map would put a container's.
func (t *tproxy) loadAgent(f family) []expr.Any {
	addr := t.agent.Addr().AsSlice()
	if f == ipv6 {
		mapped := t.agent.Addr().As16()
		addr = mapped[:]
	}
	return []expr.Any{
		&expr.Immediate{Register: registerSocket, Data: addr},
		&expr.Immediate{Register: registerSocket + f.length/4, Data: binaryutil.BigEndian.PutUint16(t.agent.Port())},
	}
}

func toSocket(f family) expr.Any {
	return &expr.TProxy{Family: f.protocol, TableFamily: byte(nftables.TableFamilyINet), RegAddr: registerSocket, RegPort: registerSocket + f.length/4}
}

func protocol(number byte) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{number}},
	}
}

// beginsConnection matches SYN without ACK.
func beginsConnection() []expr.Any {
	const flagsOffset, syn, ack = 13, 0x02, 0x10
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: flagsOffset, Len: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 1, Mask: []byte{syn | ack}, Xor: []byte{0}},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{syn}},
	}
}

func priorityIs(value uint32) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyPRIORITY, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(value)},
	}
}

func setPriority(value uint32) []expr.Any {
	return []expr.Any{
		&expr.Immediate{Register: 1, Data: binaryutil.NativeEndian.PutUint32(value)},
		&expr.Meta{Key: expr.MetaKeyPRIORITY, SourceRegister: true, Register: 1},
	}
}

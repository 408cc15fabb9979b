package socket

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// TableName is the nftables table (family inet) that belongs to this package
// alone.
const TableName = "sanfran_socket"

// Rules confine sockets that carry a mark. They look at single segments, not at
// the connection tracker's state, so that flushing the tracker, or a plugin that
// bypasses it, neither opens a way out nor cuts a live connection.
//
// What a marked socket sends is dropped when it is
//   - the first segment of a connection it makes (SYN without ACK);
//   - the answer to a new connection (SYN with ACK) from anywhere but NodeIP with
//     a port of Ports, or an address of FunctionCIDRs: an accepted socket can be
//     disconnected and made to listen elsewhere.
//
// Everything else, that is all traffic of accepted connections, passes.
type Rules struct {
	Mark          uint32
	NodeIP        netip.Addr
	Ports         Ports
	FunctionCIDRs []netip.Prefix
}

const (
	tcpFlagsOffset = 13
	flagSYN        = 0x02
	flagACK        = 0x10
)

// Install puts the rules in place, replacing those of an earlier run in one
// transaction: at no moment is there less protection than before. It works on
// the network namespace of the calling thread and is idempotent.
func (r Rules) Install(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("nftables table %s: %w", TableName, err)
	}
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	table := &nftables.Table{Name: TableName, Family: nftables.TableFamilyINet}
	// Add makes the deletion valid on a node that has no such table yet.
	conn.AddTable(table)
	conn.DelTable(table)
	conn.AddTable(table)

	answers := conn.AddChain(&nftables.Chain{Name: "answers", Table: table})
	conn.AddRule(&nftables.Rule{Table: table, Chain: answers, Exprs: r.fromPorts()})
	for _, cidr := range r.FunctionCIDRs {
		conn.AddRule(&nftables.Rule{Table: table, Chain: answers, Exprs: fromPrefix(cidr)})
	}
	conn.AddRule(&nftables.Rule{Table: table, Chain: answers, Exprs: dropAndCount()})

	// The earliest hook of the output path: others have not rewritten the mark
	// yet, so it is the socket's own.
	output := conn.AddChain(&nftables.Chain{
		Name: "output", Table: table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityRaw,
	})
	connects := append(r.markedTCP(), tcpFlags(flagSYN|flagACK, flagSYN)...)
	conn.AddRule(&nftables.Rule{Table: table, Chain: output, Exprs: append(connects, dropAndCount()...)})
	accepts := append(r.markedTCP(), tcpFlags(flagSYN|flagACK, flagSYN|flagACK)...)
	accepts = append(accepts, &expr.Verdict{Kind: expr.VerdictJump, Chain: answers.Name})
	conn.AddRule(&nftables.Rule{Table: table, Chain: output, Exprs: accepts})

	if err := conn.Flush(); err != nil {
		return fmt.Errorf("install nftables table inet %s (needs CAP_NET_ADMIN and nf_tables in the kernel): %w", TableName, err)
	}
	return nil
}

// chains are those of the table.
var chains = []string{"answers", "output"}

// Remove takes the rules away. Call it only when no marked socket is left. That
// there are none is not an error.
func Remove(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("nftables table %s: %w", TableName, err)
	}
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

// markedTCP matches TCP segments of marked sockets.
func (r Rules) markedTCP() []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyMARK, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4,
			Mask: binaryutil.NativeEndian.PutUint32(r.Mark), Xor: binaryutil.NativeEndian.PutUint32(0)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(0)},
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_TCP}},
	}
}

// tcpFlags compares the TCP flags in mask with want.
func tcpFlags(mask, want byte) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: tcpFlagsOffset, Len: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 1, Mask: []byte{mask}, Xor: []byte{0}},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{want}},
	}
}

// fromPorts returns from the chain for segments sent from NodeIP and one of Ports.
func (r Rules) fromPorts() []expr.Any {
	exprs := append(source(netip.PrefixFrom(r.NodeIP, r.NodeIP.BitLen())),
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 2},
		&expr.Cmp{Op: expr.CmpOpGte, Register: 1, Data: binaryutil.BigEndian.PutUint16(r.Ports.First)},
		&expr.Cmp{Op: expr.CmpOpLte, Register: 1, Data: binaryutil.BigEndian.PutUint16(r.Ports.Last)},
		&expr.Verdict{Kind: expr.VerdictReturn})
	return exprs
}

func fromPrefix(prefix netip.Prefix) []expr.Any {
	return append(source(prefix), &expr.Verdict{Kind: expr.VerdictReturn})
}

// source matches packets with a source address in prefix.
func source(prefix netip.Prefix) []expr.Any {
	prefix = prefix.Masked()
	family, offset := byte(unix.NFPROTO_IPV4), uint32(12)
	if prefix.Addr().Is6() {
		family, offset = unix.NFPROTO_IPV6, 8
	}
	length := uint32(prefix.Addr().BitLen() / 8)
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{family}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: length},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: length,
			Mask: net.CIDRMask(prefix.Bits(), prefix.Addr().BitLen()), Xor: make([]byte, length)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: prefix.Addr().AsSlice()},
	}
}

func dropAndCount() []expr.Any {
	return []expr.Any{&expr.Counter{}, &expr.Verdict{Kind: expr.VerdictDrop}}
}

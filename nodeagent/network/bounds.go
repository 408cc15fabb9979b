package network

import (
	"fmt"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// The node's connection tracker has one table for all who live on the node, and
// where it is full new connections are dropped, whoever's they are. So each
// container has a share: of connections at a time, and, as the tracker keeps a
// connection for some time after its end, of new ones in a second.

// burst is how many seconds' worth of new connections may begin at once.
const burst = 4

// idleRate is how long an address that begins no connection is remembered.
const idleRate = time.Minute

// addBounds adds the chain that drops what of a container's new connections is
// beyond Config's bounds. What is established does not come here.
func addBounds(conn *nftables.Conn, table *nftables.Table, config Config) (*nftables.Chain, error) {
	chain := conn.AddChain(&nftables.Chain{Name: "container_bounds", Table: table})
	for _, cidr := range config.cidrs() {
		// An element for each of the containers' addresses, which are the only sources
		// there are: others are dropped (by rp_filter, for IPv6 by fromOthers). Of
		// both families there are as many.
		size := uint32(1) << (32 - config.CIDR.Bits())
		suffix, key, family := "", nftables.TypeIPAddr, ipv4()
		if cidr.Addr().Is6() {
			suffix, key, family = "6", nftables.TypeIP6Addr, ipv6()
		}
		rates := &nftables.Set{Table: table, Name: "container_rates" + suffix, KeyType: key, Dynamic: true, HasTimeout: true, Timeout: idleRate, Size: size}
		counts := &nftables.Set{Table: table, Name: "container_connections" + suffix, KeyType: key, Dynamic: true, Size: size}
		for _, set := range []*nftables.Set{rates, counts} {
			if err := conn.AddSet(set, nil); err != nil {
				return nil, fmt.Errorf("nftables set %s: %w", set.Name, err)
			}
		}
		for _, rule := range [][]expr.Any{
			perSource(rates, unix.NFT_DYNSET_OP_UPDATE, &expr.Limit{
				Type: expr.LimitTypePkts, Rate: uint64(config.NewConnections), Unit: expr.LimitTimeSecond, Burst: burst * config.NewConnections, Over: true,
			}),
			perSource(counts, unix.NFT_DYNSET_OP_ADD, &expr.Connlimit{Count: config.Connections, Flags: expr.NFT_CONNLIMIT_F_INV}),
		} {
			conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: join(family, first(), rule, drop())})
		}
	}
	return chain, nil
}

// first matches the packet that begins a connection: the tracker takes it into its
// table (IPS_CONFIRMED) when it leaves the node's rules. One that is dropped does not
// begin any, and those that follow one way, without an answer, are not new.
func first() []expr.Any {
	const confirmed = 1 << 3
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATUS, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(confirmed), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: make([]byte, 4)},
	}
}

// perSource goes on with its rule if the packet's source is over its limit, which
// the set keeps for each.
func perSource(set *nftables.Set, operation uint32, limit expr.Any) []expr.Any {
	offset := uint32(sourceOffset4)
	if set.KeyType.Bytes == 16 {
		offset = sourceOffset6
	}
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: set.KeyType.Bytes},
		&expr.Dynset{SrcRegKey: 1, SetName: set.Name, SetID: set.ID, Operation: operation, Exprs: []expr.Any{limit}},
	}
}

package podaddress

import (
	"encoding/binary"
	"net"
	"net/netip"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"
)

// key is how the program asks the maps: an address and a bucket of its
// connections. The zero key is the agent's listener.
type key struct {
	Addr   [16]byte
	Bucket uint32
}

var agentKey = key{}

func keyOf(addr netip.Addr) key { return key{Addr: addr.As16()} }

// in is the key of another bucket of the address.
func (k key) in(bucket uint32) key {
	k.Bucket = bucket
	return k
}

func (k key) addr() netip.Addr { return netip.AddrFrom16(k.Addr).Unmap() }

// assignedSpec's value is how many buckets an address has, one or more.
func assignedSpec() *ebpf.MapSpec {
	return &ebpf.MapSpec{
		Name: "sanfran_assigned", Type: ebpf.Hash,
		KeySize: uint32(binary.Size(key{})), ValueSize: 4, MaxEntries: MaxAddresses,
		Flags: unix.BPF_F_NO_PREALLOC,
	}
}

func socketsSpec() *ebpf.MapSpec {
	return &ebpf.MapSpec{
		Name: "sanfran_sockets", Type: ebpf.SockHash,
		// One of them is the agent's. The value is a descriptor going in.
		KeySize: uint32(binary.Size(key{})), ValueSize: 8, MaxEntries: MaxAddresses,
	}
}

// Offsets into struct bpf_sk_lookup, and the kernel's constants (linux/bpf.h).
const (
	offFamily     = 8
	offProtocol   = 12
	offRemotePort = 36
	offLocalIP4   = 40
	offLocalIP6   = 44
	verdictDrop   = 0
	verdictPass   = 1
	flagReplace   = 1 // BPF_SK_LOOKUP_F_REPLACE
)

// Where the key lies on the program's stack.
const (
	stackKey    = -24
	stackAddr   = stackKey
	stackBucket = stackKey + 16
)

// lookupProgram is the decision described in the package comment. Lookups
// outside the ranges pass untouched. In them our choice replaces that of a
// program attached before ours.
func lookupProgram(cidrs []netip.Prefix, assigned, sockets *ebpf.Map) *ebpf.ProgramSpec {
	lookup := func(m *ebpf.Map) asm.Instructions {
		return asm.Instructions{
			asm.LoadMapPtr(asm.R1, m.FD()),
			asm.Mov.Reg(asm.R2, asm.RFP),
			asm.Add.Imm(asm.R2, stackKey),
			asm.FnMapLookupElem.Call(),
		}
	}
	var program asm.Instructions
	add := func(instructions ...asm.Instruction) { program = append(program, instructions...) }

	add(asm.Mov.Reg(asm.R6, asm.R1),
		asm.LoadMem(asm.R7, asm.R6, offFamily, asm.Word))
	for _, cidr := range cidrs {
		add(matchAddress(cidr)...)
	}
	add(asm.Ja.Label("pass"),
		// Ours from here on: it ends in a socket of the map or in a drop.
		asm.LoadMem(asm.R1, asm.R6, offProtocol, asm.Word).WithSymbol("ours"),
		asm.JNE.Imm(asm.R1, unix.IPPROTO_TCP, "drop"),
		// The rest of the key: bucket 0.
		asm.StoreImm(asm.RFP, stackBucket, 0, asm.Word),
	)
	add(lookup(assigned)...)
	// Clients' ports are often all even, or all odd: their product with 2³²/φ has
	// bits that are neither (Knuth, TAOCP 6.4).
	const golden = 0x9e3779b1 - 1<<32
	add(asm.JEq.Imm(asm.R0, 0, "drop"),
		asm.LoadMem(asm.R8, asm.R0, 0, asm.Word),
		asm.JLT.Imm(asm.R8, 2, "bucket"),
		asm.LoadMem(asm.R1, asm.R6, offRemotePort, asm.Half),
		asm.Mul.Imm32(asm.R1, golden),
		asm.RSh.Imm32(asm.R1, 16),
		asm.Mod.Reg32(asm.R1, asm.R8),
		asm.StoreMem(asm.RFP, stackBucket, asm.R1, asm.Word),
		asm.Mov.Imm(asm.R1, 0).WithSymbol("bucket"))
	add(lookup(sockets)...)
	add(asm.JNE.Imm(asm.R0, 0, "assign"),
		// No container here: the agent's listener, under the zero key.
		asm.StoreImm(asm.RFP, stackAddr, 0, asm.Word),
		asm.StoreImm(asm.RFP, stackAddr+4, 0, asm.Word),
		asm.StoreImm(asm.RFP, stackAddr+8, 0, asm.Word),
		asm.StoreImm(asm.RFP, stackAddr+12, 0, asm.Word),
		asm.StoreImm(asm.RFP, stackBucket, 0, asm.Word))
	add(lookup(sockets)...)
	add(asm.JEq.Imm(asm.R0, 0, "drop"))

	add(asm.Mov.Reg(asm.R7, asm.R0).WithSymbol("assign"),
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.Mov.Reg(asm.R2, asm.R7),
		asm.Mov.Imm(asm.R3, flagReplace),
		asm.FnSkAssign.Call(),
		asm.Mov.Reg(asm.R8, asm.R0),
		asm.Mov.Reg(asm.R1, asm.R7),
		asm.FnSkRelease.Call(),
		asm.JNE.Imm(asm.R8, 0, "drop"),
		asm.Mov.Imm(asm.R0, verdictPass).WithSymbol("pass"),
		asm.Return(),
		asm.Mov.Imm(asm.R0, verdictDrop).WithSymbol("drop"),
		asm.Return(),
	)
	return &ebpf.ProgramSpec{
		Name: "sanfran_lookup", Type: ebpf.SkLookup, AttachType: ebpf.AttachSkLookup,
		Instructions: program, License: "Apache-2.0",
	}
}

// matchAddress goes on at "ours", with the key's address written, if the lookup is
// for an address of the range, else at what follows. The family is in R7, the
// context in R6.
func matchAddress(cidr netip.Prefix) asm.Instructions {
	family, offset, next := int32(unix.AF_INET), int16(offLocalIP4), "no-ipv4"
	if cidr.Addr().Is6() {
		family, offset, next = unix.AF_INET6, offLocalIP6, "no-ipv6"
	}
	program := asm.Instructions{asm.JNE.Imm(asm.R7, family, next)}
	// Addresses are in network order: they are compared with constants whose bytes
	// lie in memory in that order too.
	network := cidr.Masked().Addr().AsSlice()
	mask := net.CIDRMask(cidr.Bits(), cidr.Addr().BitLen())
	key := int16(stackAddr)
	if cidr.Addr().Is4() { // in its IPv6-mapped form, ::ffff:address
		mapped := binary.NativeEndian.Uint32([]byte{0, 0, 0xff, 0xff})
		program = append(program,
			asm.StoreImm(asm.RFP, stackAddr, 0, asm.Word),
			asm.StoreImm(asm.RFP, stackAddr+4, 0, asm.Word),
			asm.StoreImm(asm.RFP, stackAddr+8, int64(int32(mapped)), asm.Word))
		key += 12
	}
	for i := 0; i < len(network); i += 4 {
		program = append(program,
			asm.LoadMem(asm.R1, asm.R6, offset+int16(i), asm.Word),
			asm.StoreMem(asm.RFP, key+int16(i), asm.R1, asm.Word),
			asm.And.Imm32(asm.R1, int32(binary.NativeEndian.Uint32(mask[i:]))),
			asm.JNE.Imm32(asm.R1, int32(binary.NativeEndian.Uint32(network[i:])), next))
	}
	return append(program, asm.Ja.Label("ours"), asm.Mov.Imm(asm.R1, 0).WithSymbol(next))
}

package podaddress

import (
	"encoding/binary"
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

// oneBucket is the value of an assigned address: how many buckets it has.
const oneBucket uint32 = 1

var agentKey = key{}

func keyOf(addr netip.Addr) key { return key{Addr: addr.As16()} }

func (k key) addr() netip.Addr { return netip.AddrFrom16(k.Addr).Unmap() }

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
	offFamily   = 8
	offProtocol = 12
	offLocalIP4 = 40

	verdictDrop = 0
	verdictPass = 1

	flagReplace = 1 // BPF_SK_LOOKUP_F_REPLACE
)

// Where the key lies on the program's stack.
const (
	stackKey    = -24
	stackAddr   = stackKey
	stackBucket = stackKey + 16
)

// lookupProgram is the decision described in the package comment. Lookups
// outside the CIDR pass untouched. In the CIDR our choice replaces that of a
// program attached before ours.
func lookupProgram(cidr netip.Prefix, assigned, sockets *ebpf.Map) *ebpf.ProgramSpec {
	// local_ip4 is in network order: compare it with constants whose bytes lie
	// in memory in that order too.
	network := binary.NativeEndian.Uint32(cidr.Masked().Addr().AsSlice())
	var maskBytes [4]byte
	binary.BigEndian.PutUint32(maskBytes[:], uint32(uint64(0xffffffff)<<(32-cidr.Bits())))
	mask := binary.NativeEndian.Uint32(maskBytes[:])
	mapped := binary.NativeEndian.Uint32([]byte{0, 0, 0xff, 0xff})

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
		asm.LoadMem(asm.R1, asm.R6, offFamily, asm.Word),
		asm.JNE.Imm(asm.R1, unix.AF_INET, "pass"),
		asm.LoadMem(asm.R7, asm.R6, offLocalIP4, asm.Word),
		asm.Mov.Reg(asm.R1, asm.R7),
		asm.And.Imm32(asm.R1, int32(mask)),
		asm.JNE.Imm32(asm.R1, int32(network), "pass"),
		// Ours from here on: it ends in a socket of the map or in a drop.
		asm.LoadMem(asm.R1, asm.R6, offProtocol, asm.Word),
		asm.JNE.Imm(asm.R1, unix.IPPROTO_TCP, "drop"),
		// The key: ::ffff:address, bucket 0.
		asm.StoreImm(asm.RFP, stackAddr, 0, asm.Word),
		asm.StoreImm(asm.RFP, stackAddr+4, 0, asm.Word),
		asm.StoreImm(asm.RFP, stackAddr+8, int64(int32(mapped)), asm.Word),
		asm.StoreMem(asm.RFP, stackAddr+12, asm.R7, asm.Word),
		asm.StoreImm(asm.RFP, stackBucket, 0, asm.Word),
	)
	add(lookup(assigned)...)
	add(asm.JEq.Imm(asm.R0, 0, "drop"))
	add(lookup(sockets)...)
	add(asm.JNE.Imm(asm.R0, 0, "assign"),
		// No container here: the agent's listener, under the zero key.
		asm.StoreImm(asm.RFP, stackAddr+8, 0, asm.Word),
		asm.StoreImm(asm.RFP, stackAddr+12, 0, asm.Word))
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

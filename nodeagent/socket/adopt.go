package socket

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// Adopt takes over a socket that an earlier Range opened, which another process
// has kept open. resting says that its Close was called. The descriptor is the
// Listening's, or closed if there is an error.
func (r *Range) Adopt(fd int, resting bool) (_ *Listening, err error) {
	addr, err := localAddr(fd)
	if err == nil && (addr.Addr() != r.config.NodeIP || !r.claim(addr.Port())) {
		err = fmt.Errorf("its address is not a free one of %v ports %v", r.config.NodeIP, r.config.Ports)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("adopt a container's socket at %v: %w", addr, err), unix.Close(fd))
	}
	file, err := unpolled(fd, "tcp "+addr.String())
	if err != nil {
		r.put(addr.Port())
		return nil, fmt.Errorf("adopt a container's socket at %v: %w", addr, err)
	}
	return &Listening{file: file, addr: addr, owner: r, closed: resting}, nil
}

// claim takes a certain port, if it is free.
func (r *Range) claim(port uint16) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	i := slices.Index(r.free, port)
	if i < 0 {
		return false
	}
	r.free = slices.Delete(r.free, i, i+1)
	return true
}

func localAddr(fd int) (netip.AddrPort, error) {
	name, err := unix.Getsockname(fd)
	if err != nil {
		return netip.AddrPort{}, err
	}
	switch at := name.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(at.Addr), uint16(at.Port)), nil
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(at.Addr).Unmap(), uint16(at.Port)), nil
	}
	return netip.AddrPort{}, fmt.Errorf("it is of another family: %T", name)
}

// unpolled makes a file of a descriptor that does not block, so that neither the
// poller knows it nor Fd changes its mode (see Listening.File). os.NewFile looks
// at the mode: so it is shown another file, which then becomes this one.
func unpolled(fd int, name string) (_ *os.File, err error) {
	defer func() { err = errors.Join(err, unix.Close(fd)) }()
	null, err := unix.Open(os.DevNull, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(null), name)
	if err := unix.Dup3(fd, null, unix.O_CLOEXEC); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

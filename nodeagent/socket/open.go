package socket

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

// Listen opens a plain TCP listener on an address of the node. With bothFamilies
// function pods' addresses of either family can be led to it, although it is
// bound to an address of one.
func Listen(addr netip.AddrPort, bothFamilies bool) (net.Listener, error) {
	fd, err := openSocket(addr, bothFamilies, DefaultBacklog, func(int) error { return nil })
	if err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(fd), "tcp "+addr.String())
	l, err := net.FileListener(file)
	if err := errors.Join(err, file.Close()); err != nil {
		return nil, fmt.Errorf("listen on %v: %w", addr, err)
	}
	return l, nil
}

// openSocket opens a listening TCP socket in blocking mode; prepare is told of it before
// anything else happens to it.
//
// One of both families is an IPv6 socket bound to an IPv4 address in its mapped
// form: by itself it is reached at that address alone, and when the kernel is told
// to lead an IPv6 connection to it, it takes that too (an IPv4 socket would not).
func openSocket(addr netip.AddrPort, bothFamilies bool, backlog int, prepare func(fd int) error) (fd int, err error) {
	family, name := unix.AF_INET, unix.Sockaddr(nil)
	if bothFamilies || addr.Addr().Is6() {
		family, name = unix.AF_INET6, &unix.SockaddrInet6{Port: int(addr.Port()), Addr: addr.Addr().As16()}
	} else {
		name = &unix.SockaddrInet4{Port: int(addr.Port()), Addr: addr.Addr().As4()}
	}
	// IPPROTO_TCP is plain TCP; the kernel's socket maps refuse multipath TCP.
	if fd, err = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP); err != nil {
		return 0, fmt.Errorf("socket for %v: %w", addr, err)
	}
	defer func() {
		if err != nil {
			unix.Close(fd)
		}
	}()
	if err := prepare(fd); err != nil {
		return 0, err
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return 0, fmt.Errorf("SO_REUSEADDR for %v: %w", addr, err)
	}
	if family == unix.AF_INET6 {
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 0); err != nil {
			return 0, fmt.Errorf("both families for %v: %w", addr, err)
		}
	}
	if err := unix.Bind(fd, name); err != nil {
		return 0, fmt.Errorf("bind to %v: %w", addr, err)
	}
	if err := unix.Listen(fd, backlog); err != nil {
		return 0, fmt.Errorf("listen on %v: %w", addr, err)
	}
	return fd, nil
}

package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// connectTimeout bounds one connect: whoever listens may have filled its queue,
// and nothing else can delay a connection within a namespace.
const connectTimeout = 200 * time.Millisecond

// DialLoopback is Dial to a port of the loopback device: at 127.0.0.1, and where
// nobody listens there at ::1. The error wraps ECONNREFUSED where nobody listens at
// all.
func DialLoopback(ctx context.Context, path string, port uint16) (net.Conn, error) {
	conn, err := Dial(ctx, path, netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port))
	if !errors.Is(err, unix.ECONNREFUSED) {
		return conn, err
	}
	if conn, err6 := Dial(ctx, path, netip.AddrPortFrom(netip.IPv6Loopback(), port)); err6 == nil {
		return conn, nil
	}
	return nil, err
}

// Dial connects to an address by TCP, as a process would that is in the
// network namespace of that file (see Namespace.Path). ctx is looked at before,
// not meanwhile: a call takes at most some 200 ms.
func Dial(ctx context.Context, path string, to netip.AddrPort) (conn net.Conn, err error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("connect to %v in %s: %w", to, path, err)
	}
	if err := onThreadOfItsOwn(func() (err error) { conn, err = dialWithin(path, to); return err }); err != nil {
		return nil, fmt.Errorf("connect to %v in %s: %w", to, path, err)
	}
	return conn, nil
}

// dialWithin takes its thread into the namespace for good.
func dialWithin(path string, to netip.AddrPort) (_ net.Conn, err error) {
	namespace, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer namespace.Close()
	if err := unix.Setns(int(namespace.Fd()), unix.CLONE_NEWNET); err != nil {
		return nil, fmt.Errorf("enter it (needs CAP_SYS_ADMIN): %w", err)
	}
	// By hand: package net may make a socket on another thread.
	family, address := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Addr: to.Addr().As16(), Port: int(to.Port())})
	if to.Addr().Is4() {
		family, address = unix.AF_INET, &unix.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())}
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	socket := os.NewFile(uintptr(fd), to.String())
	defer socket.Close() // the connection is a duplicate
	timeout := unix.NsecToTimeval(connectTimeout.Nanoseconds())
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &timeout); err != nil {
		return nil, err
	}
	err = unix.Connect(fd, address)
	if errors.Is(err, unix.EINPROGRESS) {
		err = os.ErrDeadlineExceeded
	}
	if err != nil {
		return nil, err
	}
	return net.FileConn(socket)
}

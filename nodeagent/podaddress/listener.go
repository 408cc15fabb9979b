package podaddress

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// withListener gives use the descriptor of a listening socket, if the kernel can
// lead connections to it; with ipv6 those of IPv6 too.
func withListener(listener syscall.Conn, ipv6 bool, use func(fd int) error) error {
	raw, err := listener.SyscallConn()
	if err != nil {
		return fmt.Errorf("listener: %w", err)
	}
	var useErr error
	// Control rather than Fd, which may switch a file to blocking mode.
	err = raw.Control(func(fd uintptr) {
		if useErr = checkListener(int(fd), ipv6); useErr == nil {
			useErr = use(int(fd))
		}
	})
	return errors.Join(err, useErr)
}

// withListeners is withListener of several.
func withListeners(listeners []syscall.Conn, ipv6 bool, use func(fds []int) error) error {
	var fds []int
	var next func(rest []syscall.Conn) error
	next = func(rest []syscall.Conn) error {
		if len(rest) == 0 {
			return use(fds)
		}
		return withListener(rest[0], ipv6, func(fd int) error {
			fds = append(fds, fd)
			return next(rest[1:])
		})
	}
	return next(listeners)
}

// checkListener says what is wrong with a socket that the kernel would refuse,
// or take and never use.
func checkListener(fd int, ipv6 bool) error {
	options := struct{ protocol, listening, family, v6only int }{}
	for _, option := range []struct {
		level, name int
		value       *int
	}{
		{unix.SOL_SOCKET, unix.SO_PROTOCOL, &options.protocol},
		{unix.SOL_SOCKET, unix.SO_ACCEPTCONN, &options.listening},
		{unix.SOL_SOCKET, unix.SO_DOMAIN, &options.family},
	} {
		value, err := unix.GetsockoptInt(fd, option.level, option.name)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrNotListener, os.NewSyscallError("getsockopt", err))
		}
		*option.value = value
	}
	if options.family == unix.AF_INET6 {
		value, err := unix.GetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrNotListener, os.NewSyscallError("getsockopt", err))
		}
		options.v6only = value
	}
	switch {
	case options.protocol != unix.IPPROTO_TCP:
		return fmt.Errorf("%w: its protocol is %d; open it with ListenConfig.SetMultipathTCP(false)", ErrNotListener, options.protocol)
	case options.listening == 0:
		return fmt.Errorf("%w: it does not listen", ErrNotListener)
	case ipv6 && options.family != unix.AF_INET6:
		return fmt.Errorf("%w: it is IPv4 alone, which cannot take IPv6 connections", ErrNotListener)
	case !ipv6 && options.v6only != 0:
		return fmt.Errorf("%w: it is IPv6 alone, which cannot take IPv4 connections", ErrNotListener)
	}
	return nil
}

package socket

import (
	"net"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

// listenOnLoopback opens a socket without the mark, which takes privileges.
func listenOnLoopback(t *testing.T) (fd int, addr netip.AddrPort) {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	raw, err := l.(*net.TCPListener).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var dupErr error
	if err := raw.Control(func(own uintptr) { fd, dupErr = unix.FcntlInt(own, unix.F_DUPFD_CLOEXEC, 0) }); err != nil || dupErr != nil {
		t.Fatal(err, dupErr)
	}
	return fd, l.Addr().(*net.TCPAddr).AddrPort()
}

func TestAnAdoptedSocketIsAsItWas(t *testing.T) {
	fd, addr := listenOnLoopback(t)
	r := newRange(Config{NodeIP: addr.Addr(), Ports: Ports{First: addr.Port(), Last: addr.Port()}}.withDefaults())
	l, err := r.Adopt(fd, false)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := r.take(); ok {
		t.Error("the port is given to another container")
	}
	flags, err := unix.FcntlInt(l.File().Fd(), unix.F_GETFL, 0)
	if err != nil || flags&unix.O_NONBLOCK == 0 || l.Addr() != addr {
		t.Errorf("flags %#x, address %v: %v", flags, l.Addr(), err)
	}
	client, err := net.Dial("tcp4", addr.String())
	if err != nil {
		t.Fatal(err)
	}
	client.Close()
	if err := l.Release(); err != nil {
		t.Error(err)
	}
	if port, ok := r.take(); !ok || port != addr.Port() {
		t.Errorf("after its release: %d %v", port, ok)
	}
}

func TestAStrangersSocketIsNotAdopted(t *testing.T) {
	fd, addr := listenOnLoopback(t)
	for name, config := range map[string]Config{
		"address": {NodeIP: netip.MustParseAddr("127.0.0.2"), Ports: Ports{First: addr.Port(), Last: addr.Port()}},
		"port":    {NodeIP: addr.Addr(), Ports: Ports{First: addr.Port() + 1, Last: addr.Port() + 1}},
	} {
		another, err := unix.Dup(fd)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := newRange(config.withDefaults()).Adopt(another, false); err == nil {
			t.Errorf("%s: adopted", name)
		}
		if _, err := unix.FcntlInt(uintptr(another), unix.F_GETFD, 0); err == nil {
			t.Errorf("%s: a refused socket stays open", name)
		}
	}
	unix.Close(fd)
	if _, err := newRange(Config{NodeIP: addr.Addr()}.withDefaults()).Adopt(fd, false); err == nil {
		t.Error("a closed descriptor is adopted")
	}
}

//go:build integration

package socket

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// soon bounds how long a connection may take that must not come about.
const soon = 300 * time.Millisecond

var loopback = netip.MustParseAddr("127.0.0.1")

func newTestRange(t *testing.T) *Range {
	t.Helper()
	r, err := NewRange(t.Context(), Config{NodeIP: loopback, FunctionCIDRs: []netip.Prefix{netip.MustParsePrefix("127.9.0.0/16")}})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func open(t *testing.T, r *Range) *Listening {
	t.Helper()
	l, err := r.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Release(); err != nil {
			t.Error(err)
		}
	})
	return l
}

// echo serves what connects to the socket until the test ends.
func echo(t *testing.T, file *os.File) {
	t.Helper()
	listener, err := net.FileListener(file)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() { listener.Close(); <-done })
	go func() {
		defer close(done)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			io.Copy(conn, conn)
			conn.Close()
		}
	}()
}

func ask(t *testing.T, addr string) {
	t.Helper()
	conn, err := net.DialTimeout("tcp", addr, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	question := strings.Repeat("x", 100_000)
	go io.WriteString(conn, question)
	answer := make([]byte, len(question))
	conn.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := io.ReadFull(conn, answer); err != nil {
		t.Fatal(err)
	}
}

func getInt(t *testing.T, fd, option int) int {
	t.Helper()
	v, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, option)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestSocketServesAndCarriesTheMark(t *testing.T) {
	l := open(t, newTestRange(t))
	fd := int(l.File().Fd())
	if got := getInt(t, fd, unix.SO_MARK); got != int(DefaultMark) {
		t.Errorf("mark %#x, want %#x", got, DefaultMark)
	}
	if got := getInt(t, fd, unix.SO_PROTOCOL); got != unix.IPPROTO_TCP {
		t.Errorf("protocol %d, want plain TCP", got)
	}
	echo(t, l.File())
	ask(t, l.Addr().String())
}

// A child that inherits the socket shares its mode: neither Fd, nor starting the
// child, may make it blocking.
func TestSocketStaysNonBlockingWhenInherited(t *testing.T) {
	l := open(t, newTestRange(t))
	child := exec.Command("true")
	child.ExtraFiles = []*os.File{l.File()}
	if err := child.Run(); err != nil {
		t.Fatal(err)
	}
	flags, err := unix.FcntlInt(l.File().Fd(), unix.F_GETFL, 0)
	if err != nil {
		t.Fatal(err)
	}
	if flags&unix.O_NONBLOCK == 0 {
		t.Error("the socket blocks after a child inherited it")
	}
}

// What native code in a container would do with the socket it inherited.
func TestListeningSocketCannotConnectOut(t *testing.T) {
	target := listenPlain(t, "127.0.0.1:0")
	l := open(t, newTestRange(t))
	fd := dup(t, l.File())
	if err := unix.Shutdown(fd, unix.SHUT_RDWR); err != nil {
		t.Fatal(err)
	}
	mustNotConnect(t, fd, target)
}

func TestAcceptedSocketCannotConnectOut(t *testing.T) {
	target := listenPlain(t, "127.0.0.1:0")
	fd := accepted(t, open(t, newTestRange(t)))
	disconnect(t, fd)
	mustNotConnect(t, fd, target)
}

// An accepted socket that is disconnected may bind anew; nobody must reach it.
func TestAcceptedSocketCannotListenElsewhere(t *testing.T) {
	fd := accepted(t, open(t, newTestRange(t)))
	disconnect(t, fd)
	if err := unix.Bind(fd, &unix.SockaddrInet4{Port: 31111, Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(fd, 8); err != nil {
		t.Fatal(err)
	}
	conn, err := net.DialTimeout("tcp4", "127.0.0.1:31111", soon)
	if err == nil {
		conn.Close()
		t.Fatal("a container's socket serves on a port that is not its own")
	}
	if !isTimeout(err) {
		t.Errorf("got %v, want a time-out", err)
	}
}

// At function pods' addresses marked sockets do answer.
func TestMarkedSocketAnswersInFunctionRange(t *testing.T) {
	newTestRange(t)
	file, err := listen(netip.MustParseAddrPort("127.9.3.7:80"), false, DefaultMark, 8)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	echo(t, file)
	ask(t, "127.9.3.7:80")
}

// A socket of both families is one of the range, and answers where it may over
// IPv6 too, and nowhere else.
func TestMarkedSocketOfBothFamilies(t *testing.T) {
	r, err := NewRange(t.Context(), Config{NodeIP: loopback, FunctionCIDRs: []netip.Prefix{netip.MustParsePrefix("::1/128")}})
	if err != nil {
		t.Fatal(err)
	}
	l := open(t, r)
	echo(t, l.File())
	ask(t, l.Addr().String())
	if at, err := localAddr(int(l.File().Fd())); err != nil || at != l.Addr() {
		t.Errorf("its address is %v, %v, want %v", at, err, l.Addr())
	}
	file, err := listen(netip.MustParseAddrPort("[::1]:80"), true, DefaultMark, 8)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	echo(t, file)
	ask(t, "[::1]:80")

	// The same without that range.
	newTestRange(t)
	conn, err := net.DialTimeout("tcp", "[::1]:80", soon)
	if err == nil {
		conn.Close()
		t.Fatal("a container's socket answers at an IPv6 address that is not a function pod's")
	}
	if !isTimeout(err) {
		t.Errorf("got %v, want a time-out", err)
	}
}

func TestRulesThatAreTakenAwayComeBack(t *testing.T) {
	r := newTestRange(t)
	if mended, err := r.Reconcile(t.Context()); err != nil || len(mended) != 0 {
		t.Fatalf("with nothing missing: %v, %v", mended, err)
	}
	for _, take := range [][]string{{"flush", "ruleset"}, {"delete", "table", "inet", TableName}, {"flush", "chain", "inet", TableName, "output"}} {
		if out, err := exec.CommandContext(t.Context(), "nft", take...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", take, err, out)
		}
		if mended, err := r.Reconcile(t.Context()); err != nil || len(mended) == 0 {
			t.Fatalf("%v: %v, %v", take, mended, err)
		}
		file, err := listen(netip.MustParseAddrPort("127.0.0.3:81"), false, DefaultMark, 8)
		if err != nil {
			t.Fatal(err)
		}
		conn, err := net.DialTimeout("tcp", "127.0.0.3:81", soon)
		if err == nil {
			conn.Close()
			t.Fatalf("%v: a container's socket serves where it must not", take)
		}
		file.Close()
	}
}

func TestUnmarkedSocketsAreUntouched(t *testing.T) {
	newTestRange(t)
	conn, err := net.DialTimeout("tcp4", listenPlain(t, "127.0.0.1:0").String(), 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
}

func TestPortOfAStrangerIsPassedOver(t *testing.T) {
	r := newTestRange(t)
	listenPlain(t, "127.0.0.1:20000")
	if got := open(t, r).Addr().Port(); got != 20001 {
		t.Errorf("got port %d, want 20001: 20000 is taken", got)
	}
}

func TestNobodyTakesAPortThatRests(t *testing.T) {
	r := newTestRange(t)
	rests := open(t, r)
	fd := accepted(t, open(t, r)) // what another container has
	disconnect(t, fd)
	if err := rests.Close(); err != nil {
		t.Fatal(err)
	}
	if conn, err := net.DialTimeout("tcp4", rests.Addr().String(), 5*time.Second); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("a connection to a port that rests: %v, %v, want it refused", conn, err)
	}
	addr := &unix.SockaddrInet4{Port: int(rests.Addr().Port()), Addr: rests.Addr().Addr().As4()}
	for _, to := range []*unix.SockaddrInet4{addr, {Port: addr.Port}} {
		if err := unix.Bind(fd, to); err != unix.EADDRINUSE {
			t.Errorf("bind to %v:%d: %v, want %v", to.Addr, to.Port, err, unix.EADDRINUSE)
		}
	}
	if err := rests.Release(); err != nil {
		t.Fatal(err)
	}
	again, err := listen(rests.Addr(), false, DefaultMark, 1)
	if err != nil {
		t.Fatalf("after its rest: %v", err)
	}
	again.Close()
}

func TestPortIsWithheldUntilRelease(t *testing.T) {
	r, err := NewRange(t.Context(), Config{NodeIP: loopback, Ports: Ports{20100, 20100}})
	if err != nil {
		t.Fatal(err)
	}
	l := open(t, r)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Open(t.Context()); !errors.Is(err, ErrNoPort) {
		t.Fatalf("after Close: %v, want %v", err, ErrNoPort)
	}
	if err := l.Release(); err != nil {
		t.Fatal(err)
	}
	if err := l.Release(); err != nil {
		t.Fatal(err)
	}
	open(t, r)
	if _, err := r.Open(t.Context()); !errors.Is(err, ErrNoPort) {
		t.Fatalf("a port released twice was given twice: %v", err)
	}
}

func TestOverlapWithThisKernelsPortsIsRefused(t *testing.T) {
	_, err := NewRange(t.Context(), Config{NodeIP: loopback, Ports: Ports{40000, 40010}})
	if !errors.Is(err, ErrOverlap) {
		t.Errorf("got %v, want %v", err, ErrOverlap)
	}
}

func TestRulesCanBeInstalledAndRemovedAgain(t *testing.T) {
	target := listenPlain(t, "127.0.0.1:0")
	for range 3 {
		newTestRange(t)
		fd := markedSocket(t)
		mustNotConnect(t, fd, target)
		if err := Remove(t.Context()); err != nil {
			t.Fatal(err)
		}
		// Nothing but our rules stood in the way.
		fd = markedSocket(t)
		if err := connect(t, fd, target); err != nil {
			t.Fatalf("without rules: %v", err)
		}
	}
	if err := Remove(t.Context()); err != nil {
		t.Errorf("removing what is not there: %v", err)
	}
}

func listenPlain(t *testing.T, addr string) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp4", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l.Addr().(*net.TCPAddr).AddrPort()
}

func markedSocket(t *testing.T) int {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, int(DefaultMark)|0x4); err != nil {
		t.Fatal(err)
	}
	return fd
}

func dup(t *testing.T, file *os.File) int {
	t.Helper()
	fd, err := unix.FcntlInt(file.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

// accepted is a socket accepted from l, non-blocking mode off.
func accepted(t *testing.T, l *Listening) int {
	t.Helper()
	client, err := net.DialTimeout("tcp4", l.Addr().String(), 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ready := []unix.PollFd{{Fd: int32(l.File().Fd()), Events: unix.POLLIN}}
	if n, err := unix.Poll(ready, 5000); err != nil || n != 1 {
		t.Fatalf("no connection to accept: %d, %v", n, err)
	}
	fd, _, err := unix.Accept4(int(l.File().Fd()), unix.SOCK_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if got := getInt(t, fd, unix.SO_MARK); got != int(DefaultMark) {
		t.Fatalf("accepted socket has mark %#x, want %#x", got, DefaultMark)
	}
	return fd
}

func disconnect(t *testing.T, fd int) {
	t.Helper()
	if _, _, errno := unix.Syscall(unix.SYS_CONNECT, uintptr(fd), unspecifiedAddress(), 16); errno != 0 {
		t.Fatalf("disconnect: %v", errno)
	}
}

func mustNotConnect(t *testing.T, fd int, target netip.AddrPort) {
	t.Helper()
	if err := connect(t, fd, target); !errors.Is(err, unix.EINPROGRESS) {
		t.Fatalf("connect from a marked socket: %v, want no answer", err)
	}
}

// connect connects within the time soon; EINPROGRESS if nothing came back.
func connect(t *testing.T, fd int, target netip.AddrPort) error {
	t.Helper()
	timeout := unix.NsecToTimeval(soon.Nanoseconds())
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &timeout); err != nil {
		t.Fatal(err)
	}
	if err := unix.SetNonblock(fd, false); err != nil {
		t.Fatal(err)
	}
	return unix.Connect(fd, &unix.SockaddrInet4{Port: int(target.Port()), Addr: target.Addr().As4()})
}

func isTimeout(err error) bool {
	var netErr net.Error
	return errors.As(err, &netErr) && netErr.Timeout()
}

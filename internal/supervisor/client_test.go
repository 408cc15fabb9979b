package supervisor

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// converse returns a client whose supervisor has no charge: it is in this process
// and only listens.
func converse(t *testing.T) *Client {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	s := &supervisor{log: slog.New(slog.NewTextHandler(t.Output(), nil)), store: newStore()}
	said := make(chan heardMessage)
	var work sync.WaitGroup
	work.Go(func() {
		defer close(said)
		listen(fds[0], said)
	})
	work.Go(func() {
		for m := range said {
			s.hear(fds[0], m)
		}
	})
	c, err := Open(fds[1])
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Close()
		work.Wait()
		closeFiles(fds[:1])
		s.store.clear()
	})
	return c
}

func TestListenersGoOnQueueing(t *testing.T) {
	c := converse(t)
	opens := 0
	open := func() (net.Listener, error) {
		opens++
		return net.Listen("tcp4", "127.0.0.1:0")
	}
	l, err := c.Listener("data", open)
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close() // as the kernel does with a dead charge's
	client, err := net.Dial("tcp4", address)
	if err != nil {
		t.Fatalf("nobody listens between two charges: %v", err)
	}
	defer client.Close()
	again, err := c.Listener("data", open)
	if err != nil || opens != 1 || again.Addr().String() != address {
		t.Fatalf("%v, opened %d times, %v", again, opens, err)
	}
	defer again.Close()
	conn, err := again.Accept()
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if _, found, err := c.Get("dat"); found || err != nil {
		t.Errorf("found under the beginning of a name: %v %v", found, err)
	}
}

func TestKeptByPrefix(t *testing.T) {
	c := converse(t)
	for _, name := range []string{"a", "b/1", "b/2", "bb", "c"} {
		file := memory(name)
		if err := c.Put(name, 0, nil, file); err != nil {
			t.Fatal(err)
		}
		file.Close()
	}
	for prefix, want := range map[string]string{"b/": "b/1 b/2 ", "c": "", "d": "", "": "a b/1 b/2 bb c "} {
		kept, err := c.Kept(prefix)
		got := ""
		for _, k := range kept {
			got += k.Name + " "
			k.Close()
		}
		if err != nil || got != want {
			t.Errorf("%q: %q %v, want %q", prefix, got, err, want)
		}
	}
}

func TestManyEntriesComeBackWithTheirOwnFiles(t *testing.T) {
	c := converse(t)
	const n = 200
	for i := range n {
		name := strings.Repeat("y", i%50) + string(rune('a'+i%26)) + strings.Repeat("z", i/26)
		file := memory(name)
		twin := memory("+")
		if err := c.Put(name, 0, []byte("d"), file, twin); err != nil {
			t.Fatal(err)
		}
		file.Close()
		twin.Close()
	}
	kept, err := c.Kept("")
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range kept {
		text := make([]byte, 200)
		var all string
		for _, fd := range k.Files {
			m, _ := unix.Pread(fd, text, 0)
			all += string(text[:m])
			if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
				t.Fatalf("a descriptor that a started program would inherit: %v", err)
			}
		}
		if all != k.Name+"+" || string(k.Data) != "d" {
			t.Errorf("%s came with %q %q", k.Name, all, k.Data)
		}
		k.Close()
	}
	if len(kept) != n {
		t.Errorf("%d entries of %d", len(kept), n)
	}
}

func TestReplacedAndRemovedFilesAreClosed(t *testing.T) {
	c := converse(t)
	for _, end := range []func() error{
		func() error { return c.Remove("pipe") },
		func() error { return c.Put("pipe", 0, nil) },
	} {
		read, write, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Put("pipe", 0, nil, write); err != nil {
			t.Fatal(err)
		}
		write.Close()
		if err := end(); err != nil {
			t.Fatal(err)
		}
		// The end of the pipe is the event to wait for.
		if rest, err := io.ReadAll(read); err != nil || len(rest) > 0 {
			t.Errorf("%q %v", rest, err)
		}
		read.Close()
	}
}

func TestWhatIsTooMuchIsRefusedBeforeItIsSent(t *testing.T) {
	c := converse(t)
	null, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	for name, err := range map[string]error{
		"name":  c.Put(strings.Repeat("n", MaxName+1), 0, nil),
		"none":  c.Put("", 0, nil),
		"data":  c.Put("a", 0, make([]byte, MaxData+1)),
		"files": c.Put("a", 0, nil, null, null, null, null, null, null, null, null, null),
		"pid":   c.Put("a", -1, nil),
	} {
		if !errors.Is(err, errMessage) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if kept, err := c.Kept(""); err != nil || len(kept) != 0 {
		t.Errorf("kept all the same: %v %v", kept, err)
	}
}

func TestAClosedFileIsNotPut(t *testing.T) {
	c := converse(t)
	file := memory("x")
	file.Close()
	if err := c.Put("x", 0, nil, file); err == nil {
		t.Error("a closed file was put")
	}
}

func TestNoSupervisor(t *testing.T) {
	null, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	if _, err := Open(int(null.Fd())); err == nil {
		t.Error("/dev/null is taken for a supervisor")
	}
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	c, err := Open(fds[0])
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	closeFiles(fds[1:])
	if _, err := c.Kept(""); err == nil {
		t.Error("a supervisor that is gone keeps something")
	}
	if err := c.Put("a", 0, nil); err == nil {
		t.Error("a supervisor that is gone is told something")
	}
}

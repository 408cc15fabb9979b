package supervisor

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

// Set for copies of the test binary: what the copy is, and where a charge finds
// its test.
const (
	roleVariable = "SANFRAN_TEST_ROLE"
	testVariable = "SANFRAN_TEST_SOCKET"
)

// atOnce has copies that look for races not wait a second before they exit.
const atOnce = "GORACE=atexit_sleep_ms=0"

func TestMain(m *testing.M) {
	switch role := os.Getenv(roleVariable); role {
	case "supervisor":
		code, err := Run(Config{
			Path: "/proc/self/exe", Args: []string{"charge"}, Env: []string{roleVariable + "=charge", testVariable + "=" + os.Getenv(testVariable), atOnce},
			Soon: 300 * time.Millisecond,
		})
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		os.Exit(code)
	case "charge":
		os.Exit(beCharge())
	case "parent": // starts a process, says which, and leaves it
		child := exec.Command("/proc/self/exe")
		child.Env = []string{roleVariable + "=orphan", atOnce}
		child.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		if err := child.Start(); err != nil {
			os.Exit(1)
		}
		fmt.Println(child.Process.Pid)
		os.Exit(0)
	case "orphan":
		time.Sleep(time.Minute)
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

// order is what a test has a charge do; report what it says: first, and after
// each order.
type order struct {
	Do, Name string
	N        int
}

type report struct {
	PID   int
	Kept  map[string]string // the text in the file of each name
	PIDs  map[string]int
	Value int
	Err   string
}

// beCharge does what a test says.
func beCharge() int {
	client, err := Open(FD)
	if err != nil {
		return 11
	}
	conn, err := net.Dial("unix", os.Getenv(testVariable))
	if err != nil {
		return 12
	}
	in, out := json.NewDecoder(conn), json.NewEncoder(conn)
	first := report{PID: os.Getpid(), Kept: map[string]string{}, PIDs: map[string]int{}}
	kept, err := client.Kept("")
	if err != nil {
		first.Err = err.Error()
	}
	for _, k := range kept {
		first.PIDs[k.Name] = k.PID
		text := make([]byte, 100)
		for _, fd := range k.Files {
			n, _ := unix.Pread(fd, text, 0)
			first.Kept[k.Name] += string(text[:n])
		}
		first.Kept[k.Name] += string(k.Data)
		k.Close()
	}
	for next := first; ; {
		if err := out.Encode(next); err != nil {
			return 13
		}
		var o order
		if err := in.Decode(&o); err != nil {
			return 14
		}
		next = report{PID: os.Getpid()}
		switch o.Do {
		case "exit":
			return o.N
		case "crash":
			panic("as told")
		case "put": // and die before anybody could have answered
			file := memory(o.Name)
			err = client.Put(o.Name, o.N, []byte("!"), file)
			file.Close()
		case "update":
			err = client.Update(o.Name, []byte("?"))
		case "remove":
			err = client.Remove(o.Name)
		case "orphan":
			next.Value, err = orphan()
		case "status":
			var status unix.WaitStatus
			status, err = client.ExitStatus(o.N)
			next.Value = int(status)
		case "put and die":
			file := memory(o.Name)
			if err := client.Put(o.Name, 0, nil, file); err != nil {
				return 15
			}
			_ = unix.Kill(os.Getpid(), unix.SIGKILL)
		}
		if err != nil {
			next.Err = err.Error()
		}
	}
}

// memory is a file that holds its own name.
func memory(name string) *os.File {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		panic(err)
	}
	file := os.NewFile(uintptr(fd), name)
	if _, err := io.WriteString(file, name); err != nil {
		panic(err)
	}
	return file
}

// orphan starts a process whose parent ends at once.
func orphan() (pid int, err error) {
	parent := exec.Command("/proc/self/exe")
	parent.Env = []string{roleVariable + "=parent", atOnce}
	said, err := parent.Output()
	if err != nil {
		return 0, err
	}
	_, err = fmt.Sscan(string(said), &pid)
	return pid, err
}

package container

import (
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// terminalWithin is how long a program that has been executed may take to hand its
// terminal over; it has done so before.
const terminalWithin = 5 * time.Second

// maxSocketPath is the kernel's limit on the path of a unix socket.
const maxSocketPath = len(unix.RawSockaddrUnix{}.Path) - 1

// terminalSocket is where the OCI runtime hands over the other side of a program's
// terminal, which it makes inside the container.
type terminalSocket struct{ listener *net.UnixListener }

func listenForTerminal(name string) (*terminalSocket, error) {
	if len(name) > maxSocketPath {
		return nil, fmt.Errorf("a socket for the program's terminal: %s has %d bytes, a socket's path at most %d: give the agent a shorter work directory", name, len(name), maxSocketPath)
	}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: name, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("a socket for the program's terminal: %w", err)
	}
	return &terminalSocket{listener}, nil
}

func (s *terminalSocket) close() { _ = s.listener.Close() }

// receive takes the terminal. The caller owns it.
func (s *terminalSocket) receive() (*os.File, error) {
	until := time.Now().Add(terminalWithin)
	if err := s.listener.SetDeadline(until); err != nil {
		return nil, err
	}
	conn, err := s.listener.AcceptUnix()
	if err != nil {
		return nil, fmt.Errorf("the OCI runtime does not hand over the program's terminal: %w", err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(until); err != nil {
		return nil, err
	}
	name, rights := make([]byte, 4096), make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := conn.ReadMsgUnix(name, rights)
	if err != nil {
		return nil, fmt.Errorf("the OCI runtime does not hand over the program's terminal: %w", err)
	}
	messages, err := unix.ParseSocketControlMessage(rights[:n])
	if err != nil || len(messages) != 1 {
		return nil, fmt.Errorf("the OCI runtime hands over %d messages instead of the program's terminal: %w", len(messages), errors.Join(err, ErrInvalid))
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return nil, fmt.Errorf("the OCI runtime hands over %d descriptors instead of the program's terminal: %w", len(fds), errors.Join(err, ErrInvalid))
	}
	unix.CloseOnExec(fds[0])
	// Before NewFile, which looks whether it may wait for the file.
	if err := unix.SetNonblock(fds[0], true); err != nil {
		return nil, errors.Join(fmt.Errorf("the program's terminal: %w", err), unix.Close(fds[0]))
	}
	return os.NewFile(uintptr(fds[0]), "terminal"), nil
}

package supervisor

import (
	"errors"
	"fmt"
	"io"

	"golang.org/x/sys/unix"
)

// send sends one message, whole, with duplicates of files.
func send(fd int, message []byte, files []int) error {
	var rights []byte
	if len(files) > 0 {
		rights = unix.UnixRights(files...)
	}
	for {
		_, err := unix.SendmsgN(fd, message, rights, nil, unix.MSG_NOSIGNAL)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// receive reads one message into buffer. The files that come with it are the
// caller's. io.EOF: the other end is closed. A message that is too long, or that
// came with more files than there was room for, is an error that wraps errMessage.
func receive(fd int, buffer []byte) (n int, files []int, err error) {
	rights := make([]byte, unix.CmsgSpace(4*(batchFiles+MaxFiles)))
	var length, flags int
	for {
		n, length, flags, _, err = unix.Recvmsg(fd, buffer, rights, unix.MSG_CMSG_CLOEXEC)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		return 0, nil, err
	}
	controls, err := unix.ParseSocketControlMessage(rights[:length])
	if err != nil {
		return 0, nil, fmt.Errorf("%w: %w", errMessage, err)
	}
	for i := range controls {
		fds, err := unix.ParseUnixRights(&controls[i])
		if err != nil {
			closeFiles(files)
			return 0, nil, fmt.Errorf("%w: %w", errMessage, err)
		}
		files = append(files, fds...)
	}
	if flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		closeFiles(files)
		return 0, nil, fmt.Errorf("%w: one of more than %d bytes or %d files", errMessage, len(buffer), len(files))
	}
	if n == 0 { // no message is empty
		closeFiles(files)
		return 0, nil, io.EOF
	}
	return n, files, nil
}

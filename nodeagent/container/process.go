package container

import (
	"fmt"
	"os"
	"path"
	"strings"
)

// Program is what Exec runs.
type Program struct {
	// Args is the program and its arguments. A name without a slash is looked up
	// in the PATH of Env, inside the container.
	Args []string
	// Env is its whole environment.
	Env []string
	// Dir is the absolute path of its working folder, inside the container; empty
	// for the root.
	Dir string

	// Stdin, Stdout and Stderr (use pipes; nil is /dev/null) become 0, 1 and 2.
	// Exec duplicates them: the caller still owns and closes its own, any time
	// after Exec has returned. A pipe is given to the container's user, so that
	// the program may open /dev/stdout as well.
	Stdin, Stdout, Stderr *os.File
	// Terminal gives the program a terminal of its own for all three instead,
	// which controls it: Ctrl-C written there interrupts.
	Terminal bool
}

// Process is a program that Exec has started. All methods are safe for concurrent
// use. It never outlives its container.
type Process interface {
	// Terminal is the other side of the program's terminal, nil if it has none.
	// The caller owns it; to close it hangs up. It can be read until EIO, which
	// says that the program and all it has started have let go of it.
	Terminal() *os.File

	// Resize tells the terminal its size in characters.
	Resize(columns, rows uint16) error

	// Exited is closed once the program has ended.
	Exited() <-chan struct{}

	// ExitStatus says how the program ended. It is the zero value until Exited is
	// closed.
	ExitStatus() ExitStatus

	// Kill kills the program, and the processes of its group: what it has
	// started, unless that has left on purpose, as daemons and the jobs of an
	// interactive shell do. It is no error if the program has ended.
	Kill() error
}

// Validate returns an error that wraps ErrInvalid unless p can be run. It looks at
// p alone, not at the container.
func (p Program) Validate() error {
	if len(p.Args) == 0 || p.Args[0] == "" {
		return fmt.Errorf("program: %w: need its name", ErrInvalid)
	}
	if p.Dir != "" && !path.IsAbs(p.Dir) {
		return fmt.Errorf("program %.100q: working folder %.100q: %w: need an absolute path", p.Args[0], p.Dir, ErrInvalid)
	}
	if p.Terminal && (p.Stdin != nil || p.Stdout != nil || p.Stderr != nil) {
		return fmt.Errorf("program %.100q: %w: it has either a terminal or files", p.Args[0], ErrInvalid)
	}
	for _, words := range [][]string{p.Args, p.Env, {p.Dir}} {
		for _, word := range words {
			if strings.ContainsRune(word, 0) {
				return fmt.Errorf("program %.100q: %w: %.100q holds a NUL", p.Args[0], ErrInvalid, word)
			}
		}
	}
	return nil
}

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// stickyTmp is the mode of a folder everybody may write to.
const stickyTmp = fs.ModeSticky | 0o777

// What to do when a program is missing.
const (
	needNpm = "install Node.js with npm (Debian: apt-get install nodejs npm)"
	needApt = "apt-get and dpkg-deb are needed to fetch Debian's libraries: build on Debian or a derivative of it"
	needGo  = "install Go (see go.mod for the version)"
)

// builder is one run of the program: where things are kept and who is told.
type builder struct {
	cache    string    // $SANFRAN_CACHE/images
	repo     string    // the checkout
	progress io.Writer // steps, one a line
	aptState string    // apt's lists, once they were needed; gone with close
	onClose  []func()
}

// close removes what was kept for the length of the run.
func (b *builder) close() {
	for _, remove := range b.onClose {
		remove()
	}
	b.onClose, b.aptState = nil, ""
}

func (b *builder) downloads() string { return filepath.Join(b.cache, "downloads") }

func (b *builder) step(format string, args ...any) { fmt.Fprintf(b.progress, format+"\n", args...) }

// tempDir makes a folder in the cache, so that renames from it are atomic.
// The caller calls remove when done.
func (b *builder) tempDir() (dir string, remove func(), err error) {
	parent := filepath.Join(b.cache, "tmp")
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return "", nil, err
	}
	if dir, err = os.MkdirTemp(parent, "build-"); err != nil {
		return "", nil, err
	}
	return dir, func() { os.RemoveAll(dir) }, nil
}

// run runs a program in dir and returns its standard output. If it is missing
// the error says need; if it fails, the error ends with what it last said.
func (b *builder) run(ctx context.Context, dir, need, program string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	return output(cmd, need)
}

func output(cmd *exec.Cmd, need string) ([]byte, error) {
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.WaitDelay = 5 * time.Second // a grandchild may hold the pipes after a cancelled child is gone
	err := cmd.Run()
	if errors.Is(err, exec.ErrNotFound) {
		return nil, fmt.Errorf("%s not found: %s", cmd.Args[0], need)
	}
	if err != nil {
		said := strings.TrimSpace(stderr.String())
		if said == "" {
			said = strings.TrimSpace(stdout.String())
		}
		const most = 4000
		if len(said) > most {
			said = "… " + said[len(said)-most:]
		}
		return nil, fmt.Errorf("%s (in %s): %w: %s", strings.Join(cmd.Args, " "), cmd.Dir, err, said)
	}
	return stdout.Bytes(), nil
}

// readOnly reads the one file of dir that matches pattern.
func readOnly(dir, pattern, command string) ([]byte, error) {
	found, err := filepath.Glob(filepath.Join(dir, pattern))
	if err != nil {
		return nil, err
	}
	if len(found) != 1 {
		return nil, fmt.Errorf("%s left %d files %s, expected 1", command, len(found), pattern)
	}
	return os.ReadFile(found[0])
}

// writeFileAtomic writes a file and its folder so that the name holds either
// the whole content or what it held before.
func writeFileAtomic(file string, data []byte) error {
	return writeAtomic(file, func(w io.Writer) error {
		_, err := w.Write(data)
		return err
	})
}

func writeAtomic(file string, write func(io.Writer) error) (err error) {
	dir := filepath.Dir(file)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(dir, "."+filepath.Base(file)+"-")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			tmp.Close()
			os.Remove(tmp.Name())
		}
	}()
	if err := write(tmp); err != nil {
		return err
	}
	if err := tmp.Chmod(0o644); err != nil {
		return err
	}
	if err := tmp.Close(); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), file)
}

package compilecache

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// What a function wrote is refused as a whole when anything in it is not what
// Node.js writes, and the key is not tried again.
func TestHostileCachesAreRefused(t *testing.T) {
	limits := Limits{Least: 1, Files: 4, FileBytes: 100, Bytes: 250}
	for name, plant := range map[string]func(dir string) error{
		"symbolic link":        func(dir string) error { return os.Symlink("/etc/passwd", filepath.Join(dir, "00000000")) },
		"symbolic link inside": func(dir string) error { return os.Symlink("0123abcd", filepath.Join(dir, "00000000")) },
		"dangling link":        func(dir string) error { return os.Symlink("nowhere", filepath.Join(dir, "00000000")) },
		"hard link":            func(dir string) error { return os.Link(filepath.Join(dir, "0123abcd"), filepath.Join(dir, "00000000")) },
		"pipe":                 func(dir string) error { return unix.Mkfifo(filepath.Join(dir, "00000000"), 0o666) },
		"socket": func(dir string) error {
			fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			return unix.Bind(fd, &unix.SockaddrUnix{Name: filepath.Join(dir, "00000000")})
		},
		"folder":           func(dir string) error { return os.Mkdir(filepath.Join(dir, "00000000"), 0o755) },
		"deep folders":     func(dir string) error { return os.MkdirAll(filepath.Join(dir, strings.Repeat("d/", 500)), 0o755) },
		"huge file":        func(dir string) error { return os.WriteFile(filepath.Join(dir, "00000000"), make([]byte, 101), 0o644) },
		"huge sparse file": func(dir string) error { return sparse(filepath.Join(dir, "00000000")) },
		"too much": func(dir string) error {
			return errors.Join(os.WriteFile(filepath.Join(dir, "00000000"), make([]byte, 100), 0o644),
				os.WriteFile(filepath.Join(dir, "00000001"), make([]byte, 100), 0o644),
				os.WriteFile(filepath.Join(dir, "00000002"), make([]byte, 100), 0o644))
		},
		"too many files":     func(dir string) error { return many(dir, "0000000%d") },
		"too many leftovers": func(dir string) error { return many(dir, "00000000.abcde%d") },
		"short name":         func(dir string) error { return touch(dir, "0123") },
		"long name":          func(dir string) error { return touch(dir, "0123abcde") },
		"upper case":         func(dir string) error { return touch(dir, "0123ABCD") },
		"hidden":             func(dir string) error { return touch(dir, ".0123abc") },
		"line feed":          func(dir string) error { return touch(dir, "0123abc\n") },
		"not UTF-8":          func(dir string) error { return touch(dir, "0123abc\xff") },
		"suffix with a dash": func(dir string) error { return touch(dir, "0123abcd.abc-ef") },
		"another json":       func(dir string) error { return touch(dir, "package.json") },
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t, t.TempDir(), limits)
			key := Key(name)
			c := s.Claim(key)
			write(t, c, map[string]string{"0123abcd": "honest"})
			if err := plant(filepath.Join(c.partial, scratchName)); err != nil {
				t.Fatal(err)
			}
			if _, err := c.Keep(); !errors.Is(err, ErrRefused) {
				t.Errorf("Keep: %v; want ErrRefused", err)
			}
			if s.Use(key) != nil || s.Claim(key) != nil {
				t.Error("it is used, or tried again")
			}
			if names := left(t, s); names != nil {
				t.Errorf("left: %q", names)
			}
		})
	}
}

func touch(dir, name string) error { return os.WriteFile(filepath.Join(dir, name), nil, 0o644) }

func many(dir, format string) error {
	for i := range 6 {
		if err := touch(dir, fmt.Sprintf(format, i)); err != nil {
			return err
		}
	}
	return nil
}

func sparse(name string) error {
	f, err := os.Create(name)
	return errors.Join(err, f.Truncate(1<<40), f.Close())
}

func TestNames(t *testing.T) {
	for name, want := range map[string]nameKind{
		"0123abcd": known, "ffffffff": known, PathsFile: known, "0123abcd.aB3dE6": leftover,
		"": unknown, ".": unknown, "..": unknown, "0123abc": unknown, "0123abcg": unknown, "0123abcd.": unknown, "0123abcd.aB3dE": unknown,
		"0123abcd/aB3dE6": unknown, "0123abcd.aB3/E6": unknown, "../../ab": unknown, "0123abcd.aB3dE67": unknown, "Paths.json": unknown,
	} {
		if got := kindOf(name); got != want {
			t.Errorf("kindOf(%q) = %d, want %d", name, got, want)
		}
	}
}

// A refused cache never has its other files read by anybody.
func TestTheScratchFolderItselfMayNotBeALink(t *testing.T) {
	s := open(t, t.TempDir(), Limits{})
	c := s.Claim(Key("a"))
	write(t, c, nil)
	scratch := filepath.Join(c.partial, scratchName)
	if err := errors.Join(os.Remove(scratch), os.Symlink("/etc", scratch)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Keep(); err == nil {
		t.Error("followed")
	}
}

package main

import (
	"debug/elf"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
)

func TestLocksFitTheTable(t *testing.T) {
	if _, err := readLock(lockFiles, crun); err != nil {
		t.Error(err)
	}
	for _, rt := range runtimes {
		l, err := readLock(lockFiles, rt)
		if err != nil {
			t.Error(err)
			continue
		}
		if !strings.HasPrefix(l.Npm.Integrity, "sha512-") {
			t.Errorf("%s: integrity %q is no sha512", rt.Name, l.Npm.Integrity)
		}
	}
}

func TestLockThatDoesNotFitSaysHowToRenewIt(t *testing.T) {
	for name, data := range map[string]string{
		"another version": `{"npm":{"name":"tiny-node","version":"0.9.0"},"debian":[{"name":"ca-certificates"}]}`,
		"a package less":  `{"npm":{"name":"tiny-node","version":"1.0.0"},"debian":[]}`,
		"a package more":  `{"npm":{"name":"tiny-node","version":"1.0.0"},"debian":[{"name":"ca-certificates"},{"name":"x"}]}`,
		"no lock":         "",
	} {
		files := fstest.MapFS{}
		if data != "" {
			files["locks/tiny.json"] = &fstest.MapFile{Data: []byte(data)}
		}
		if _, err := readLock(files, tiny); err == nil || !strings.Contains(err.Error(), "--update-lock") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestNpmPackageThatIsNotThePinnedOneIsRefused(t *testing.T) {
	onPath(t, "npm", "echo something else > tiny-node-1.0.0.tgz\n")
	b := newBuilder(t)
	pin := withTiny(t, b).Npm
	cached := filepath.Join(b.downloads(), "tiny-node-1.0.0.tgz")
	write(t, cached, "damaged")
	_, err := b.npmTarball(t.Context(), pin)
	got := npmIntegrity([]byte("something else\n"))
	var mismatch *integrityError
	if !errors.As(err, &mismatch) || mismatch.expected != pin.Integrity || mismatch.got != got {
		t.Fatalf("got %v, want an integrityError of %s and %s", err, pin.Integrity, got)
	}
	if !strings.Contains(err.Error(), "tiny-node@1.0.0") {
		t.Errorf("%v does not name the package", err)
	}
	if left, _ := os.ReadFile(cached); string(left) != "damaged" {
		t.Errorf("what was refused is now in the cache: %q", left)
	}
}

func TestDebianPackageThatIsNotThePinnedOneIsRefused(t *testing.T) {
	onPath(t, "apt-get", "for last; do :; done; [ \"$last\" = update ] || echo something else > x_1_all.deb\n")
	b := newBuilder(t)
	pin := debianPin{Name: "x", Version: "1", Architecture: "all", SHA256: strings.Repeat("0", 64)}
	_, err := b.deb(t.Context(), pin)
	var mismatch *integrityError
	if !errors.As(err, &mismatch) {
		t.Fatalf("got %v, want an integrityError", err)
	}
	for _, part := range []string{"Debian package x 1", pin.SHA256, sha256Hex([]byte("something else\n")), "--update-lock"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%v does not say %q", err, part)
		}
	}
}

func TestDebianPackageThatIsGoneSaysHowToRenewTheLock(t *testing.T) {
	onPath(t, "apt-get", "for last; do :; done; [ \"$last\" = update ] || { echo \"E: Version not found\" >&2; exit 100; }\n")
	_, err := newBuilder(t).deb(t.Context(), debianPin{Name: "libc6", Version: "2.0-1", Architecture: "amd64"})
	if err == nil {
		t.Fatal("no error")
	}
	for _, part := range []string{"libc6 2.0-1", "E: Version not found", "--update-lock"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%v does not say %q", err, part)
		}
	}
}

func TestMissingProgramSaysWhatToInstall(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	b := newBuilder(t)
	if _, err := b.npmPack(t.Context(), "x", "1"); err == nil || !strings.Contains(err.Error(), "npm not found: install Node.js") {
		t.Error(err)
	}
	if _, err := b.aptDownload(t.Context(), "x"); err == nil || !strings.Contains(err.Error(), "apt-get not found: ") {
		t.Error(err)
	}
	if _, _, err := b.sanfrand(t.Context(), "", "dev"); err == nil || !strings.Contains(err.Error(), "go not found: ") {
		t.Error(err)
	}
}

func TestPackageWithoutWhatIsWantedIsRefused(t *testing.T) {
	p := debianPackage{Name: "x", Keep: []string{"usr/lib64/"}}
	err := newBuilder(t).addDeb(t.Context(), newTree(), p, debOf(t, map[string]string{"./opt/x": "x"}))
	if err == nil || !strings.Contains(err.Error(), "usr/lib64/") {
		t.Error(err)
	}
}

func TestDebianPathsAreMergedAndChosen(t *testing.T) {
	p := debianPackage{Name: "libx", Keep: []string{libDir}, Drop: []string{libDir + "gconv/", libDir + "libdebug.so"}}
	for name, want := range map[string]string{
		"lib/x86_64-linux-gnu/libx.so":        libDir + "libx.so",
		"usr/lib/x86_64-linux-gnu/libx.so":    libDir + "libx.so",
		"lib/x86_64-linux-gnu/libdebug.so":    "",
		"lib/x86_64-linux-gnu/gconv":          "",
		"lib/x86_64-linux-gnu/gconv/UTF-7.so": "",
		"usr/share/doc/libx/copyright":        "usr/share/doc/libx/copyright",
		"usr/share/doc/libx/changelog.gz":     "",
		"usr/share/man/man1/x.1.gz":           "",
	} {
		if got := p.rename(name); got != want {
			t.Errorf("%s becomes %q, want %q", name, got, want)
		}
	}
}

func TestWorkerWithoutEntryPointIsRefused(t *testing.T) {
	if _, err := newBuilder(t).workerTree(t.Context(), t.TempDir()); err == nil || !strings.Contains(err.Error(), "--worker") {
		t.Error(err)
	}
}

func TestProgramMustBeStatic(t *testing.T) {
	program := func(machine elf.Machine, prog elf.ProgType) string {
		file := filepath.Join(t.TempDir(), "program")
		f, err := os.Create(file)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		h := elf.Header64{Type: uint16(elf.ET_EXEC), Machine: uint16(machine), Version: 1, Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: 1}
		copy(h.Ident[:], []byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), 1})
		for _, part := range []any{h, elf.Prog64{Type: uint32(prog)}} {
			if err := binary.Write(f, binary.LittleEndian, part); err != nil {
				t.Fatal(err)
			}
		}
		return file
	}
	if err := checkStatic(program(elf.EM_X86_64, elf.PT_LOAD)); err != nil {
		t.Error(err)
	}
	if err := checkStatic(program(elf.EM_X86_64, elf.PT_INTERP)); err == nil || !strings.Contains(err.Error(), "statically") {
		t.Error(err)
	}
	if err := checkStatic(program(elf.EM_AARCH64, elf.PT_LOAD)); err == nil || !strings.Contains(err.Error(), "amd64 only") {
		t.Error(err)
	}
	text := filepath.Join(t.TempDir(), "text")
	write(t, text, "#!/bin/sh\n")
	if err := checkStatic(text); err == nil || !strings.Contains(err.Error(), text) {
		t.Error(err)
	}
}

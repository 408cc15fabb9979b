package main

import (
	"context"
	"debug/elf"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// sanfrand returns the path of a static sanfrand: the given file, or else one
// built from the checkout. The caller calls remove when done with it.
func (b *builder) sanfrand(ctx context.Context, given, version string) (file string, remove func(), err error) {
	if given != "" {
		return given, func() {}, checkStatic(given)
	}
	dir, remove, err := b.tempDir()
	if err != nil {
		return "", nil, err
	}
	b.step("building sanfrand")
	file = filepath.Join(dir, "sanfrand")
	// Neither the build's id nor the state of the checkout goes in: the same
	// sources give the same bytes.
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false",
		"-ldflags", "-s -w -buildid= -X main.version="+version, "-o", file, "./cmd/sanfrand")
	cmd.Dir = b.repo
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64", "GOFLAGS=")
	if _, err := output(cmd, needGo); err != nil {
		remove()
		return "", nil, err
	}
	return file, remove, nil
}

// runc returns the path of a static runc: the given file, or else the one that
// the local driver (deploy/local) builds and keeps.
func (b *builder) runc(ctx context.Context, given string) (string, error) {
	if given != "" {
		return given, checkStatic(given)
	}
	driver := filepath.Join(b.repo, "deploy", "local")
	b.step("asking deploy/local for runc")
	if _, err := b.run(ctx, driver, needGo, "go", "run", ".", "build", "runc"); err != nil {
		return "", fmt.Errorf("runc (name one with --runc): %w", err)
	}
	out, err := b.run(ctx, driver, needGo, "go", "run", ".", "bin-dir")
	if err != nil {
		return "", fmt.Errorf("runc (name one with --runc): %w", err)
	}
	file := filepath.Join(strings.TrimSpace(string(out)), "runc")
	return file, checkStatic(file)
}

// checkStatic makes sure that a program runs in an image without libraries.
func checkStatic(file string) error {
	f, err := elf.Open(file)
	if err != nil {
		return fmt.Errorf("%s is no Linux program: %w", file, err)
	}
	defer f.Close()
	if f.Machine != elf.EM_X86_64 {
		return fmt.Errorf("%s is for %s; images are built for amd64 only", file, f.Machine)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return fmt.Errorf("%s is linked dynamically, but the image has no libraries: link it statically", file)
		}
	}
	return nil
}

// programTree is a tree with one program in it.
func programTree(name, file string) (*tree, error) {
	content, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	t := newTree()
	return t, t.addFile(name, content, true)
}

package main

import (
	"context"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// workerDir is where the worker lies inside a root filesystem.
const workerDir = "opt/sanfran/worker"

// workerTree reads the worker's folder: its sources, and the dependencies that
// its package-lock.json pins, installed in the cache, not in the folder. An
// empty dir gives an empty tree.
func (b *builder) workerTree(ctx context.Context, dir string) (*tree, error) {
	t := newTree()
	if dir == "" {
		return t, nil
	}
	if _, err := os.Stat(filepath.Join(dir, workerEntry)); err != nil {
		return nil, fmt.Errorf("the worker's entry point is missing (name another folder with --worker, or none with --worker \"\"): %w", err)
	}
	if err := t.addDirFrom(dir, workerDir, notForWorker); err != nil {
		return nil, fmt.Errorf("worker %s: %w", dir, err)
	}
	modules, err := b.workerModules(ctx, dir)
	if err != nil {
		return nil, err
	}
	if err := t.addDirFrom(modules, workerDir+"/node_modules", notForModules); err != nil {
		return nil, fmt.Errorf("dependencies of worker %s: %w", dir, err)
	}
	return t, nil
}

// notForWorker leaves out tests, hidden files and whatever a developer has
// installed in the folder.
func notForWorker(name string, isDir bool) bool {
	base := path.Base(name)
	if strings.HasPrefix(base, ".") {
		return true
	}
	if isDir {
		return base == "node_modules" || base == "test" || base == "tests"
	}
	return strings.HasSuffix(strings.TrimSuffix(base, path.Ext(base)), ".test") || path.Ext(base) == ".md"
}

// notForModules leaves out npm's own records and the links to commands.
func notForModules(name string, _ bool) bool { return strings.HasPrefix(path.Base(name), ".") }

// workerModules returns a folder of the cache with the dependencies of the
// worker in dir. Their install scripts do not run.
func (b *builder) workerModules(ctx context.Context, dir string) (string, error) {
	var inputs []byte
	files := map[string][]byte{}
	for _, name := range []string{"package.json", "package-lock.json"} {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return "", fmt.Errorf("the worker's dependencies are not known: %w", err)
		}
		files[name] = data
		inputs = fmt.Appendf(inputs, "%s %d\n%s", name, len(data), data)
	}
	done := filepath.Join(b.cache, "worker-modules", sha256Hex(inputs)[:keyLength])
	if _, err := os.Stat(done); err == nil {
		return done, nil
	}
	b.step("installing the worker's dependencies with npm ci")
	tmp, remove, err := b.tempDir()
	if err != nil {
		return "", err
	}
	defer remove()
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(tmp, name), data, 0o644); err != nil {
			return "", err
		}
	}
	if _, err := b.run(ctx, tmp, needNpm, "npm", "ci", "--omit=dev", "--ignore-scripts", "--no-audit", "--no-fund", "--silent"); err != nil {
		return "", err
	}
	modules := filepath.Join(tmp, "node_modules")
	if err := os.MkdirAll(modules, 0o755); err != nil { // npm makes none for no dependencies
		return "", err
	}
	return done, renameInto(modules, done)
}

// renameInto moves the finished folder tmp to its name, which holds the same
// content if another build was faster.
func renameInto(tmp, name string) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	err := os.Rename(tmp, name)
	if err != nil {
		if _, statErr := os.Stat(name); statErr == nil {
			return nil
		}
	}
	return err
}

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/evanw/esbuild/pkg/api"
)

// The worker in the image is one file beside its sources, and what V8 compiles of
// that file: nodeagent/worker/bundled.js says why, and reads both.
const (
	workerEntry  = "worker.js"
	workerBundle = "worker.bundle.js"
)

// bundleWorker adds the bundle to the worker's tree, and for each runtime what its
// V8 compiles of it. The tree must be whole, dependencies included.
func (b *builder) bundleWorker(ctx context.Context, t *tree, runtimes []nodeRuntime, locks []lock) error {
	tmp, remove, err := b.tempDir()
	if err != nil {
		return err
	}
	defer remove()
	if err := t.unpack(tmp); err != nil {
		return err
	}
	dir := filepath.Join(tmp, workerDir)
	bundle, err := bundleOf(dir)
	if err != nil {
		return err
	}
	if err := t.addFile(workerDir+"/"+workerBundle, bundle, false); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, workerBundle), bundle, 0o644); err != nil {
		return err
	}
	for i, rt := range runtimes {
		name := fmt.Sprintf("worker.bundle.v%s.compiled", rt.NpmVersion)
		compiled, err := b.compiled(ctx, rt, locks[i], dir, name, bundle)
		if err != nil {
			return fmt.Errorf("what Node.js %s compiles of the worker: %w", rt.NpmVersion, err)
		}
		if err := t.addFile(workerDir+"/"+name, compiled, false); err != nil {
			return err
		}
	}
	return nil
}

// bundleOf joins the modules of the worker in dir into a script that is one
// function, as Node.js makes one of every CommonJS module.
func bundleOf(dir string) ([]byte, error) {
	result := api.Build(api.BuildOptions{
		AbsWorkingDir: dir, EntryPoints: []string{workerEntry}, Outfile: workerBundle, Write: false,
		Bundle: true, Platform: api.PlatformNode, Format: api.FormatCommonJS, Target: api.ES2024,
		// Only ASCII, which bundled.js reads as Latin-1; and names as they are.
		Charset: api.CharsetASCII, MinifyWhitespace: true, LegalComments: api.LegalCommentsNone,
		External: []string{"./import.js"},
		Banner:   map[string]string{"js": "(function (exports, require, module, __filename, __dirname) {"},
		Footer:   map[string]string{"js": "})"},
	})
	var errs []error
	for _, m := range append(result.Errors, result.Warnings...) {
		text := m.Text
		if m.Location != nil {
			text = fmt.Sprintf("%s:%d: %s", m.Location.File, m.Location.Line, m.Text)
		}
		errs = append(errs, errors.New(text))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("bundle the worker: %w", err)
	}
	return result.OutputFiles[0].Contents, nil
}

// compiled runs the worker's compile.js by the runtime's own Node.js, in a folder
// that has the bundle. What it makes is kept in the cache.
func (b *builder) compiled(ctx context.Context, rt nodeRuntime, l lock, dir, name string, bundle []byte) ([]byte, error) {
	// What V8 makes depends on how it is asked to, too.
	key := fmt.Appendf(nil, "%s %s", l.Npm.Integrity, bundle)
	for _, file := range []string{"bundled.js", "compile.js"} {
		text, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			return nil, err
		}
		key = append(key, text...)
	}
	kept := filepath.Join(b.cache, "worker-compiled", sha256Hex(key)[:keyLength])
	if data, err := os.ReadFile(kept); err == nil {
		return data, nil
	}
	b.step("compiling the worker for Node.js %s", rt.NpmVersion)
	node, err := b.nodeProgram(ctx, l)
	if err != nil {
		return nil, err
	}
	// V8's hashes are seeded at random, which would make other bytes each time.
	if _, err := b.run(ctx, dir, "the runtime's own Node.js must run here: build on linux/amd64", node, "--random-seed=1", filepath.Join(dir, "compile.js")); err != nil {
		return nil, err
	}
	data, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		return nil, err
	}
	return data, writeFileAtomic(kept, data)
}

// nodeProgram returns the Node.js of a lock as a program of this machine, unpacked
// into the cache.
func (b *builder) nodeProgram(ctx context.Context, l lock) (string, error) {
	program := filepath.Join(b.cache, "node", sha256Hex([]byte(l.Npm.Integrity))[:keyLength], "node")
	if _, err := os.Stat(program); err == nil {
		return program, nil
	}
	tarball, err := b.npmTarball(ctx, l.Npm)
	if err != nil {
		return "", err
	}
	t := newTree()
	if err := t.addNpmTarball(tarball, func(name string) string {
		if name == "bin/node" {
			return "node"
		}
		return ""
	}); err != nil {
		return "", err
	}
	return program, makeDir(filepath.Dir(program), func(tmp string) error {
		if err := t.unpack(tmp); err != nil {
			return err
		}
		return os.Chmod(filepath.Join(tmp, "node"), 0o755)
	})
}

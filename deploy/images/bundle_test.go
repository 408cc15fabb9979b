package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A worker of several files, one of which is not for the bundle, becomes one
// function, compiled by the runtime's own Node.js, once.
func TestWorkerIsBundledAndCompiled(t *testing.T) {
	b := newBuilder(t)
	dir := t.TempDir()
	workerIn(t, dir, "const word = require('./word.js'); const load = require('./import.js'); module.exports = { boot: () => load(word) }")
	write(t, filepath.Join(dir, "word.js"), "// h\u00e9\nmodule.exports = 'h\u00e9llo'")
	write(t, filepath.Join(dir, "import.js"), "module.exports = (url) => import(url)")
	write(t, filepath.Join(dir, "bundled.js"), "// reads both")
	write(t, filepath.Join(dir, "compile.js"), "// writes one")
	onPath(t, "npm", "exit 0")
	worker, err := b.workerTree(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	// A Node.js that says what it was asked for.
	node := tarGz(t, map[string]string{"package/bin/node": "#!/bin/sh\necho run >>" + filepath.Join(b.cache, "runs") + "\necho \"$@\" >worker.bundle.v1.0.0.compiled\n"})
	write(t, filepath.Join(b.downloads(), "tiny-node-1.0.0.tgz"), string(node))
	pin := lock{Npm: npmPin{Name: tiny.NpmPackage, Version: tiny.NpmVersion, Integrity: npmIntegrity(node)}}
	for range 2 {
		if err := b.bundleWorker(t.Context(), worker, []nodeRuntime{tiny}, []lock{pin}); err != nil {
			t.Fatal(err)
		}
	}
	bundle := string(worker.entries[workerDir+"/"+workerBundle].content)
	if !strings.HasPrefix(bundle, "(function (exports, require, module, __filename, __dirname) {") || !strings.HasSuffix(strings.TrimSpace(bundle), "})") {
		t.Errorf("the bundle is no function: %.200s", bundle)
	}
	if !strings.Contains(bundle, `h\xE9llo`) || !strings.Contains(bundle, `require("./import.js")`) || strings.Contains(bundle, "import(url)") {
		t.Errorf("the bundle is not as bundled.js reads it: %s", bundle)
	}
	if compiled := string(worker.entries[workerDir+"/worker.bundle.v1.0.0.compiled"].content); !strings.HasPrefix(compiled, "--random-seed=1 ") || !strings.HasSuffix(compiled, "/compile.js\n") {
		t.Errorf("Node.js was called with %q", compiled)
	}
	if runs, err := os.ReadFile(filepath.Join(b.cache, "runs")); err != nil || strings.Count(string(runs), "run") != 1 {
		t.Errorf("compiled %q (%v), want once", runs, err)
	}

	write(t, filepath.Join(dir, "bundled.js"), "// reads both in another way")
	if worker, err = b.workerTree(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	if err := b.bundleWorker(t.Context(), worker, []nodeRuntime{tiny}, []lock{pin}); err != nil {
		t.Fatal(err)
	}
	if runs, err := os.ReadFile(filepath.Join(b.cache, "runs")); err != nil || strings.Count(string(runs), "run") != 2 {
		t.Errorf("compiled %q (%v), want again when the programs that do it have changed", runs, err)
	}
}

func TestWorkerThatCannotBeBundledSaysWhere(t *testing.T) {
	b := newBuilder(t)
	dir := t.TempDir()
	workerIn(t, dir, "require('./missing.js')")
	onPath(t, "npm", "exit 0")
	worker, err := b.workerTree(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.bundleWorker(t.Context(), worker, nil, nil); err == nil || !strings.Contains(err.Error(), "worker.js:1: Could not resolve") {
		t.Errorf("error is %v", err)
	}
}

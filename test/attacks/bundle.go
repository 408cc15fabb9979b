package attacks

import (
	"bytes"
	"compress/gzip"
	"context"
	"embed"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

//go:embed functions
var functions embed.FS

// Bundle is the function that attacks, by file name. Part of it is native code,
// built here for this machine's architecture, which must be that of the nodes.
func Bundle(ctx context.Context) (map[string][]byte, error) {
	files := map[string][]byte{}
	entries, err := fs.ReadDir(functions, "functions")
	if err != nil {
		return nil, err
	}
	for _, entry := range entries {
		if !strings.HasSuffix(entry.Name(), ".js") {
			continue
		}
		if files[entry.Name()], err = fs.ReadFile(functions, "functions/"+entry.Name()); err != nil {
			return nil, err
		}
	}
	dir, err := os.MkdirTemp("", "sanfran-attacks-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	program, err := Native(ctx, dir)
	if err != nil {
		return nil, err
	}
	content, err := os.ReadFile(program)
	if err != nil {
		return nil, err
	}
	// A ConfigMap holds 1 MiB.
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	if _, err := w.Write(content); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	files["native.gz"] = packed.Bytes()
	// So much code that the node keeps what V8 compiles of it.
	files["ballast.js"] = []byte("module.exports = [\n" + strings.Repeat("  (a, b) => a * b + Math.max(a, b) - 'a string that makes it longer'.length,\n", 1000) + "]\n")
	return files, nil
}

// Native builds the native part into a folder and returns the program.
func Native(ctx context.Context, dir string) (string, error) {
	source, err := fs.ReadFile(functions, "functions/native.c")
	if err != nil {
		return "", err
	}
	program := filepath.Join(dir, "native")
	cc := exec.CommandContext(ctx, "gcc", "-static", "-Os", "-s", "-Wall", "-Wextra", "-Werror", "-x", "c", "-o", program, "-")
	cc.Stdin = bytes.NewReader(source)
	if out, err := cc.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the native attacks (gcc and libc6-dev are needed): %w\n%s", err, out)
	}
	return program, nil
}

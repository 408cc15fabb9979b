package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// cacheDir is where built binaries and images are kept between clusters:
// $SANFRAN_CACHE, else sanfran/ in the user's cache folder.
func cacheDir() (string, error) {
	if dir := os.Getenv("SANFRAN_CACHE"); dir != "" {
		return filepath.Abs(dir)
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("no cache folder: %w; set SANFRAN_CACHE to a folder", err)
	}
	return filepath.Join(dir, "sanfran"), nil
}

// binDir is the folder whose symbolic links lead to the newest build of every
// program; it is meant for PATH and its name never changes.
func binDir() (string, error) {
	cache, err := cacheDir()
	if err != nil {
		return "", err
	}
	return filepath.Join(cache, "bin", "current"), nil
}

// sourceDir is the folder of this program's source, which holds the modules
// that pin the programs of a cluster.
func sourceDir() (string, error) {
	candidates := []string{os.Getenv("SANFRAN_LOCAL_SOURCE")}
	if _, file, _, ok := runtime.Caller(0); ok {
		candidates = append(candidates, filepath.Dir(file))
	}
	if dir, err := os.Getwd(); err == nil {
		candidates = append(candidates, dir, filepath.Join(dir, "deploy", "local"))
	}
	for _, dir := range candidates {
		if dir == "" {
			continue
		}
		if _, err := os.Stat(filepath.Join(dir, "kubernetes", "go.mod")); err == nil {
			return dir, nil
		}
	}
	return "", fmt.Errorf("the source of this program was not found; run it in the repository, or set SANFRAN_LOCAL_SOURCE to its folder deploy/local")
}

// cacheKey is the name of one build of p: it changes with anything that could
// change the binaries. source is the module's folder.
func cacheKey(p program, source, goVersion, arch string) (string, error) {
	hash := sha256.New()
	fmt.Fprintln(hash, p.name, goVersion, arch, p.arguments(), p.environment)
	files := []string{"go.mod", "go.sum"}
	if p.ownSource {
		matches, err := filepath.Glob(filepath.Join(source, "*.go"))
		if err != nil {
			return "", err
		}
		for _, match := range matches {
			if !strings.HasSuffix(match, "_test.go") {
				files = append(files, filepath.Base(match))
			}
		}
	}
	slices.Sort(files)
	for _, name := range files {
		file, err := os.Open(filepath.Join(source, name))
		if err != nil {
			return "", fmt.Errorf("%s: %w", p.name, err)
		}
		fmt.Fprintln(hash, name)
		_, err = io.Copy(hash, file)
		file.Close()
		if err != nil {
			return "", fmt.Errorf("%s: %w", p.name, err)
		}
	}
	return hex.EncodeToString(hash.Sum(nil))[:12], nil
}

// link makes name a symbolic link to target, in one step.
func link(target, name string) error {
	if have, err := os.Readlink(name); err == nil && have == target {
		return nil
	}
	temporary := fmt.Sprintf("%s.%d", name, os.Getpid())
	if err := os.Symlink(target, temporary); err != nil {
		return err
	}
	if err := os.Rename(temporary, name); err != nil {
		os.Remove(temporary)
		return err
	}
	return nil
}

package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// integrityError says that something fetched is not what the lock pins.
type integrityError struct {
	what, expected, got string
}

func (e *integrityError) Error() string {
	return fmt.Sprintf("integrity of %s: expected %s, got %s. Do not use it: either the registry or mirror is at fault, or, if you meant to change versions, %s",
		e.what, e.expected, e.got, renewLock)
}

func npmIntegrity(tarball []byte) string {
	sum := sha512.Sum512(tarball)
	return "sha512-" + base64.StdEncoding.EncodeToString(sum[:])
}

// npmTarball returns the bytes of the pinned npm package, from the cache or
// from the registry that npm is set up with. It returns an *integrityError if
// the registry's package is not the pinned one.
func (b *builder) npmTarball(ctx context.Context, pin npmPin) ([]byte, error) {
	cached := filepath.Join(b.downloads(), fmt.Sprintf("%s-%s.tgz", strings.ReplaceAll(pin.Name, "/", "+"), pin.Version))
	if data, err := os.ReadFile(cached); err == nil && npmIntegrity(data) == pin.Integrity {
		return data, nil
	}
	data, err := b.npmPack(ctx, pin.Name, pin.Version)
	if err != nil {
		return nil, err
	}
	if got := npmIntegrity(data); got != pin.Integrity {
		return nil, &integrityError{what: fmt.Sprintf("npm package %s@%s", pin.Name, pin.Version), expected: pin.Integrity, got: got}
	}
	return data, writeFileAtomic(cached, data)
}

func (b *builder) npmPack(ctx context.Context, name, version string) ([]byte, error) {
	spec := name + "@" + version
	b.step("fetching npm package %s", spec)
	dir, remove, err := b.tempDir()
	if err != nil {
		return nil, err
	}
	defer remove()
	// The temporary folder is also the working folder, so that no project's
	// own npm settings apply.
	if _, err := b.run(ctx, dir, needNpm, "npm", "pack", spec, "--silent", "--pack-destination", dir); err != nil {
		return nil, err
	}
	return readOnly(dir, "*.tgz", "npm pack "+spec)
}

// npmRegistryIntegrity asks the registry which integrity it states.
func (b *builder) npmRegistryIntegrity(ctx context.Context, name, version string) (string, error) {
	out, err := b.run(ctx, b.cache, needNpm, "npm", "view", name+"@"+version, "dist.integrity", "--json", "--silent")
	if err != nil {
		return "", err
	}
	var integrity string
	if err := json.Unmarshal(out, &integrity); err != nil {
		return "", fmt.Errorf("npm view %s@%s: no integrity in %q: does this version exist?", name, version, out)
	}
	return integrity, nil
}

// addNpmTarball reads an npm package into t. All its names begin with
// "package/", which rename does not see.
func (t *tree) addNpmTarball(tarball []byte, rename func(string) string) error {
	return t.addTarGz(tarball, func(name string) string {
		_, inside, _ := strings.Cut(name, "/")
		if inside == "" {
			return ""
		}
		return rename(inside)
	})
}

func (t *tree) addTarGz(data []byte, rename func(string) string) error {
	zr, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		return err
	}
	defer zr.Close()
	if err := t.addTar(zr, rename); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, zr) // the checksum stands at the end
	return err
}

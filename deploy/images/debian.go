package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// deb returns the bytes of the pinned Debian package, from the cache or from
// the mirror that apt is set up with. It returns an *integrityError if the
// mirror's package is not the pinned one.
func (b *builder) deb(ctx context.Context, pin debianPin) ([]byte, error) {
	cached := b.debFile(pin)
	if data, err := os.ReadFile(cached); err == nil && sha256Hex(data) == pin.SHA256 {
		return data, nil
	}
	data, err := b.aptDownload(ctx, pin.Name+"="+pin.Version)
	if err != nil {
		return nil, fmt.Errorf("the Debian package %s %s cannot be fetched. If the mirror no longer has this version, %s: %w", pin.Name, pin.Version, renewLock, err)
	}
	if got := sha256Hex(data); got != pin.SHA256 {
		return nil, &integrityError{what: fmt.Sprintf("Debian package %s %s", pin.Name, pin.Version), expected: "sha256 " + pin.SHA256, got: got}
	}
	return data, writeFileAtomic(cached, data)
}

func (b *builder) debFile(pin debianPin) string {
	return filepath.Join(b.downloads(), fmt.Sprintf("%s_%s_%s.deb", pin.Name, pin.Version, pin.Architecture))
}

// aptDownload fetches one package, "name" or "name=version". Apt gets a state
// folder of its own for the length of the run: its lists are fresh, the
// machine's stay untouched, runs do not wait for each other, and no root is
// needed.
func (b *builder) aptDownload(ctx context.Context, spec string) ([]byte, error) {
	if b.aptState == "" {
		if err := b.aptUpdate(ctx); err != nil {
			return nil, err
		}
	}
	b.step("fetching Debian package %s", spec)
	dir, remove, err := b.tempDir()
	if err != nil {
		return nil, err
	}
	defer remove()
	if _, err := b.run(ctx, dir, needApt, "apt-get", append(aptOptions(b.aptState), "download", spec)...); err != nil {
		return nil, err
	}
	return readOnly(dir, "*.deb", "apt-get download "+spec)
}

func (b *builder) aptUpdate(ctx context.Context) error {
	b.step("fetching Debian's package lists")
	state, remove, err := b.tempDir()
	if err != nil {
		return err
	}
	update := func() error {
		for _, dir := range []string{"lists/partial", "cache/archives/partial"} {
			if err := os.MkdirAll(filepath.Join(state, dir), 0o755); err != nil {
				return err
			}
		}
		if err := os.WriteFile(filepath.Join(state, "status"), nil, 0o644); err != nil {
			return err
		}
		_, err := b.run(ctx, state, needApt, "apt-get", append(aptOptions(state), "-o", "APT::Update::Error-Mode=any", "update")...)
		return err
	}
	if err := update(); err != nil {
		remove()
		return err
	}
	b.aptState, b.onClose = state, append(b.onClose, remove)
	return nil
}

func aptOptions(state string) []string {
	return []string{"-q", "-o", "Dir::State=" + state, "-o", "Dir::State::status=" + filepath.Join(state, "status"),
		"-o", "Dir::Cache=" + filepath.Join(state, "cache"), "-o", "APT::Sandbox::User=", "-o", "APT::Architecture=amd64"}
}

// debField returns a control field of a package, such as Version.
func (b *builder) debField(ctx context.Context, deb []byte, field string) (string, error) {
	out, err := b.runOnDeb(ctx, deb, "--field", field)
	return strings.TrimSpace(string(out)), err
}

// runOnDeb runs dpkg-deb with an option, the package, and more arguments.
func (b *builder) runOnDeb(ctx context.Context, deb []byte, option string, args ...string) ([]byte, error) {
	dir, remove, err := b.tempDir()
	if err != nil {
		return nil, err
	}
	defer remove()
	file := filepath.Join(dir, "package.deb")
	if err := os.WriteFile(file, deb, 0o600); err != nil {
		return nil, err
	}
	return b.run(ctx, dir, needApt, "dpkg-deb", append([]string{option, file}, args...)...)
}

// addDeb adds what the package's description keeps to t.
func (b *builder) addDeb(ctx context.Context, t *tree, p debianPackage, deb []byte) error {
	content, err := b.runOnDeb(ctx, deb, "--fsys-tarfile")
	if err != nil {
		return err
	}
	before := len(t.entries)
	if err := t.addTar(bytes.NewReader(content), p.rename); err != nil {
		return fmt.Errorf("the Debian package %s: %w", p.Name, err)
	}
	for _, want := range p.Keep {
		if _, ok := t.entries[strings.TrimSuffix(want, "/")]; !ok || len(t.entries) == before {
			return fmt.Errorf("the Debian package %s has no %s: correct its row in deploy/images/runtimes.go", p.Name, want)
		}
	}
	return nil
}

// rename is the addTar rename of one package: it lays the files of an older,
// unmerged /bin and /lib where a merged-/usr system has them, and leaves out
// what is not kept. Folders come with their files.
func (p debianPackage) rename(name string) string {
	switch top, _, _ := strings.Cut(name, "/"); top {
	case "bin", "sbin", "lib", "lib64":
		name = path.Join("usr", name)
	}
	doc := "usr/share/doc/" + p.Name
	if name == doc+"/copyright" {
		return name
	}
	covers := func(pattern string) bool {
		return name == pattern || strings.HasSuffix(pattern, "/") && strings.HasPrefix(name, pattern)
	}
	if slices.ContainsFunc(p.Keep, covers) && !slices.ContainsFunc(p.Drop, covers) && !p.isDropped(name) {
		return name
	}
	return ""
}

// isDropped reports whether name is the very folder of a Drop pattern.
func (p debianPackage) isDropped(name string) bool { return slices.Contains(p.Drop, name+"/") }

func sha256Hex(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

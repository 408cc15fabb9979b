package bundle

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func symlink(name, target string) tar.Header {
	return tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target}
}

func hardLink(name, target string) tar.Header {
	return tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: target}
}

// small are limits that a test can exceed.
var small = Limits{ArchiveBytes: 64 << 10, UnpackedBytes: 1000, Entries: 10, PathBytes: 300, NamesBytes: 600, Depth: 4}

// attack is an archive that is refused; the message holds culprit, the entry.
type attack struct {
	culprit string
	data    []byte
}

// hostile are attacks by what is wrong with them.
func hostile(t testing.TB) map[string]attack {
	many := make([]tar.Header, 11)
	for i := range many {
		many[i] = reg(fmt.Sprint("f", i), "")
	}
	long := strings.Repeat("x", 200)
	attacks := map[string]attack{}
	for name, a := range map[string]struct {
		culprit string
		entries []tar.Header
	}{
		"absolute path":                 {"/etc/passwd", []tar.Header{reg("/etc/passwd", "x")}},
		"absolute folder":               {"/etc/", []tar.Header{{Typeflag: tar.TypeDir, Name: "/etc/"}}},
		"parent path":                   {"a/../../x", []tar.Header{reg("a/../../x", "x")}},
		"parent folder":                 {"../", []tar.Header{{Typeflag: tar.TypeDir, Name: "../"}}},
		"inner parent path":             {"a/../x", []tar.Header{reg("a/../x", "x")}},
		"absolute link":                 {"a", []tar.Header{symlink("a", "/etc")}},
		"empty link":                    {"a", []tar.Header{symlink("a", "")}},
		"link out":                      {"a/b", []tar.Header{symlink("a/b", "../../x")}},
		"link with late parent":         {"a", []tar.Header{symlink("d", "."), symlink("a", "d/d/../../x")}},
		"file through link":             {"a", []tar.Header{symlink("a", "."), reg("a/x", "x")}},
		"folder through link":           {"a", []tar.Header{symlink("a", "."), {Typeflag: tar.TypeDir, Name: "a/x/"}}},
		"hard link through link":        {"l", []tar.Header{reg("a", "x"), symlink("d", "."), hardLink("l", "d/a")}},
		"folder over link":              {"a", []tar.Header{symlink("a", "."), {Typeflag: tar.TypeDir, Name: "a/"}}},
		"folder over file":              {"a", []tar.Header{reg("a", "x"), reg("a/x", "x")}},
		"file twice":                    {"a", []tar.Header{reg("a", "x"), reg("./a", "x")}},
		"file over folder":              {"a", []tar.Header{{Typeflag: tar.TypeDir, Name: "a/"}, reg("a", "x")}},
		"link over file":                {"a", []tar.Header{reg("a", "x"), symlink("a", "b")}},
		"file over link":                {"a", []tar.Header{symlink("a", "b"), reg("a", "x")}},
		"the bundle itself a file":      {".", []tar.Header{reg(".", "x")}},
		"the bundle itself a link":      {".", []tar.Header{symlink("./", "a")}},
		"hard link out":                 {"a", []tar.Header{hardLink("a", "../x")}},
		"hard link to absolute path":    {"a", []tar.Header{hardLink("a", "/etc/passwd")}},
		"hard link to nothing":          {"a", []tar.Header{hardLink("a", "x")}},
		"hard link to itself":           {"a", []tar.Header{hardLink("a", "a")}},
		"hard link to link":             {"a", []tar.Header{symlink("l", "x"), hardLink("a", "l")}},
		"hard link to folder":           {"a", []tar.Header{{Typeflag: tar.TypeDir, Name: "d/"}, hardLink("a", "d")}},
		"character device":              {"null", []tar.Header{{Typeflag: tar.TypeChar, Name: "null", Devmajor: 1, Devminor: 3}}},
		"block device":                  {"disk", []tar.Header{{Typeflag: tar.TypeBlock, Name: "disk", Devmajor: 8}}},
		"pipe":                          {"pipe", []tar.Header{{Typeflag: tar.TypeFifo, Name: "pipe"}}},
		"contiguous file":               {"cont", []tar.Header{{Typeflag: tar.TypeCont, Name: "cont"}}},
		"too many entries":              {"f10", many},
		"too large":                     {"b", []tar.Header{reg("a", strings.Repeat("x", 600)), reg("b", strings.Repeat("x", 401))}},
		"path too long":                 {strings.Repeat("x/", 90), []tar.Header{reg(strings.Repeat("x/", 151)+"a", "")}},
		"name too long":                 {"a/" + strings.Repeat("x", 190), []tar.Header{reg("a/"+strings.Repeat("x", 256), "")}},
		"link too long":                 {"a", []tar.Header{symlink("a", strings.Repeat("x", 301))}},
		"too deep":                      {"a/b/c/d/e", []tar.Header{reg("a/b/c/d/e", "")}},
		"too many names":                {long + "3", []tar.Header{reg(long+"1", ""), reg(long+"2", ""), reg(long+"3", "")}},
		"archive larger than bound":     {"a", []tar.Header{reg("a", strings.Repeat("x", 65<<10))}},
		"another archive after the end": {"after its end", []tar.Header{reg("a", "x")}},
	} {
		data := archive(t, a.entries...)
		if strings.HasPrefix(name, "another archive") {
			data = append(data, archive(t, reg("b", "x"))...)
		}
		attacks[name] = attack{a.culprit[:min(len(a.culprit), 190)], data}
	}
	// What archive/tar does not write.
	sparse := archive(t, tar.Header{Typeflag: tar.TypeReg, Name: "sparse", Linkname: "x"})
	huge := bytes.Clone(sparse)
	copy(huge[124:136], "77777777777\x00") // 8 GiB in its header, 1 byte behind
	attacks["size without content"] = attack{"sparse", sum(huge)}
	negative := bytes.Clone(sparse)
	copy(negative[124:136], "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff")
	attacks["negative size"] = attack{"not a tar archive", sum(negative)}
	attacks["pax: negative size"] = attack{"not a tar archive", pax(t, "size", "-1")}
	attacks["pax: huge size"] = attack{"p", pax(t, "size", "9223372036854775807")}
	attacks["pax: size that is no number"] = attack{"not a tar archive", pax(t, "size", "1e9")}
	attacks["pax: path out"] = attack{"../../etc/passwd", pax(t, "path", "../../etc/passwd")}
	attacks["pax: path with a zero byte"] = attack{"not a tar archive", pax(t, "path", "a\x00b")}
	attacks["not an archive"] = attack{"not a tar archive", bytes.Repeat([]byte("garbage!"), 200)}
	return attacks
}

// sum sets the checksum of an archive's first header right.
func sum(data []byte) []byte {
	copy(data[148:156], "        ")
	total := 0
	for _, b := range data[:512] {
		total += int(b)
	}
	copy(data[148:156], fmt.Sprintf("%06o\x00 ", total))
	return data
}

// pax is an archive of one file named p whose pax header says key=value, which
// archive/tar would not let pass.
func pax(t testing.TB, key, value string) []byte {
	record := func(n int) string { return fmt.Sprintf("%d %s=%s\n", n, key, value) }
	n := len(record(0))
	for len(record(n)) != n {
		n++
	}
	head := archive(t, reg("p", record(n)))
	head[156] = tar.TypeXHeader
	return append(sum(head)[:1024:1024], archive(t, reg("p", "x"))...)
}

func TestHostileArchivesAreRefused(t *testing.T) {
	for name, attack := range hostile(t) {
		t.Run(name, func(t *testing.T) {
			s := openStore(t, &fetcher{data: map[string][]byte{digestOf(attack.data): attack.data}}, small)
			_, err := s.Get(t.Context(), namespace, digestOf(attack.data))
			if !errors.Is(err, ErrRefused) {
				t.Fatalf("got %v, want ErrRefused", err)
			}
			if !strings.Contains(err.Error(), attack.culprit) {
				t.Errorf("%q does not name %q", err, attack.culprit)
			}
			if len(err.Error()) > 1500 {
				t.Errorf("a message of %d bytes", len(err.Error()))
			}
			assertNoPartials(t, s)
			if stats := s.Stats(); stats.Bytes != 0 || stats.Bundles != 0 {
				t.Errorf("after a refusal: %+v", stats)
			}
		})
	}
}

func TestWhatIsHarmlessIsUnpacked(t *testing.T) {
	for name, entries := range map[string][]tar.Header{
		"folder twice":       {{Typeflag: tar.TypeDir, Name: "a/"}, {Typeflag: tar.TypeDir, Name: "./a"}},
		"the bundle itself":  {{Typeflag: tar.TypeDir, Name: "./"}},
		"names by case":      {reg("a", "1"), reg("A", "2")},
		"dangling link":      {symlink("a", "nothing")},
		"link to itself":     {symlink("a", "a")},
		"set-user-ID file":   {{Typeflag: tar.TypeReg, Name: "a", Linkname: "x", Mode: 0o6755}},
		"longest name":       {reg(strings.Repeat("x", 255), "")},
		"nothing":            nil,
		"a file of no bytes": {reg("a", "")},
	} {
		t.Run(name, func(t *testing.T) {
			data := archive(t, entries...)
			s := openStore(t, &fetcher{data: map[string][]byte{digestOf(data): data}}, small)
			b, err := s.Get(t.Context(), namespace, digestOf(data))
			if err != nil {
				t.Fatal(err)
			}
			defer b.Release()
			if err := harmless(b.Dir(), small); err != nil {
				t.Error(err)
			}
		})
	}
}

// harmless says what an unpacked bundle holds that no bundle may, whatever its
// archive said.
func harmless(dir string, limits Limits) error {
	entries, size := 0, int64(0)
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		entries++
		switch mode := info.Mode(); {
		case mode.IsRegular():
			size += info.Size()
			if mode != 0o644 && mode != 0o755 {
				return fmt.Errorf("%q has mode %v", name, mode)
			}
		case mode.IsDir():
			if mode.Perm() != 0o755 || mode&^(fs.ModeDir|fs.ModePerm) != 0 {
				return fmt.Errorf("%q has mode %v", name, mode)
			}
		case mode.Type() == fs.ModeSymlink:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			if !filepath.IsLocal(filepath.Join(filepath.Dir(name), target)) || filepath.IsAbs(target) {
				return fmt.Errorf("%q leads to %q", name, target)
			}
			// Where it really leads, if anywhere, links on the way included.
			if real, err := filepath.EvalSymlinks(path); err == nil && real != dir && !strings.HasPrefix(real, dir+"/") {
				return fmt.Errorf("%q leads to %s", name, real)
			}
		default:
			return fmt.Errorf("%q is a %v", name, mode.Type())
		}
		switch {
		case entries > 2*limits.Entries+1:
			return fmt.Errorf("%d entries", entries)
		case strings.Count(name, "/") >= limits.Depth:
			return fmt.Errorf("%q is too deep", name)
		case size > limits.UnpackedBytes*int64(limits.Entries): // hard links count each time
			return fmt.Errorf("%d bytes", size)
		}
		return nil
	})
}

// Whatever an archive says, nothing outside of its folder is touched, limits
// hold, what was claimed covers what was written, and what is there is what the
// unpacker says.
func FuzzUnpack(f *testing.F) {
	f.Add([]byte("not a tar"))
	for _, attack := range hostile(f) {
		f.Add(attack.data)
	}
	f.Add(archive(f, reg("index.js", "x"), symlink("l", "d/x"), reg("d/x", "y"), hardLink("h", "d/x"), symlink("d/up", "../index.js"), tar.Header{Typeflag: tar.TypeDir, Name: "e/"}))
	f.Fuzz(func(t *testing.T, data []byte) {
		outside, err := filepath.EvalSymlinks(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(outside, "sentinel"), []byte("untouched"), 0o600); err != nil {
			t.Fatal(err)
		}
		dir := filepath.Join(outside, "bundle")
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		claimed, limits := int64(0), small
		u := &unpacker{limits: limits, claim: func(n int64) error { claimed += n; return nil }}
		err = u.unpackVerified(t.Context(), bytes.NewReader(data), dir, digestOf(data))

		around, readErr := os.ReadDir(outside)
		if content, sentinelErr := os.ReadFile(filepath.Join(outside, "sentinel")); readErr != nil || len(around) != 2 || sentinelErr != nil || string(content) != "untouched" {
			t.Fatalf("outside of the folder there is %v (%v), and %q (%v)", around, readErr, content, sentinelErr)
		}
		if err := harmless(dir, limits); err != nil {
			t.Fatal(err)
		}
		if u.bytes > limits.UnpackedBytes {
			t.Fatalf("%d bytes were written", u.bytes)
		}
		if most := int64(2*limits.Entries+1)*blockSize + limits.UnpackedBytes; claimed > most+int64(limits.Entries)*blockSize {
			t.Fatalf("%d bytes were claimed", claimed)
		}
		if err != nil {
			return
		}
		shape, content, err := examine(t.Context(), dir, true)
		if err != nil || shape != u.shape || content != u.content {
			t.Fatalf("what is there is not what was unpacked (%v)", err)
		}
	})
}

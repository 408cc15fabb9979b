package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil {
		if !errors.Is(err, flag.ErrHelp) {
			fmt.Fprintln(os.Stderr, "images:", err)
		}
		stop()
		os.Exit(1)
	}
}

// options are the command line.
type options struct {
	ref, output, push, version string
	sanfrand, runc, worker     string
	runtimes, cache, rootfsDir string
	rootfs, updateLock         bool
	tagByContent               bool
}

func parse(args []string, stderr io.Writer) (options, error) {
	var o options
	f := flag.NewFlagSet("images", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.StringVar(&o.ref, "ref", "sanfran.local/sanfran:dev", "the image's name")
	f.BoolVar(&o.tagByContent, "tag-by-content", false, "name the image by --ref's repository and the first digits of its own digest")
	f.StringVar(&o.output, "output", "", "write the image to this archive (tar of an OCI layout)")
	f.StringVar(&o.push, "push", "", "push the image to this `registry/name:tag`")
	f.StringVar(&o.version, "version", "dev", "the version that sanfrand says it is")
	f.StringVar(&o.sanfrand, "sanfrand", "", "take this static `program` instead of building ./cmd/sanfrand")
	f.StringVar(&o.runc, "runc", "", "take this static `program` instead of the one deploy/local builds")
	f.StringVar(&o.worker, "worker", "nodeagent/worker", "the worker's `folder` (relative to the checkout); \"\" for none")
	f.StringVar(&o.runtimes, "runtimes", strings.Join(runtimeNames(), ","), "comma-separated `names` of the Node.js root filesystems")
	f.BoolVar(&o.rootfs, "rootfs", false, "unpack the Node.js root filesystems below --rootfs-dir; no image unless --output or --push asks for one")
	f.StringVar(&o.rootfsDir, "rootfs-dir", "", "the `folder` for --rootfs, which it implies (default $SANFRAN_CACHE/rootfs)")
	f.BoolVar(&o.updateLock, "update-lock", false, "pin the packages that the registry and the mirror have now, and stop")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	if f.NArg() > 0 {
		return o, fmt.Errorf("unexpected argument %q: options begin with --", f.Arg(0))
	}
	var err error
	if o.cache, err = cacheDir(os.Getenv); err != nil {
		return o, err
	}
	if o.rootfsDir != "" {
		o.rootfs = true
	} else {
		o.rootfsDir = filepath.Join(o.cache, "rootfs")
	}
	return o, nil
}

// run is the program. On stdout it prints one line for each thing made:
// "image <ref> <digest>", "archive <file>", "pushed <ref>@<digest>",
// "rootfs <folder>" or "lock <file>".
func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	o, err := parse(args, stderr)
	if err != nil {
		return err
	}
	if err := checkPlatform(runtime.GOOS, runtime.GOARCH); err != nil {
		return err
	}
	chosen, err := findRuntimes(o.runtimes)
	if err != nil {
		return err
	}
	ref, err := parseRef("--ref", o.ref)
	if err != nil {
		return err
	}
	var pushTo name.Reference
	if o.push != "" {
		if pushTo, err = parseRef("--push", o.push); err != nil {
			return err
		}
	}
	repo, err := findRepo()
	if err != nil {
		return err
	}
	b := &builder{cache: filepath.Join(o.cache, "images"), repo: repo, progress: stderr}
	defer b.close()
	if err := os.MkdirAll(b.cache, 0o755); err != nil {
		return err
	}
	if o.updateLock {
		return b.updateLocks(ctx, append(chosen, crun), stdout)
	}
	p := parts{runtimes: chosen, crun: crun}
	if p.crunLock, err = readLock(lockFiles, crun); err != nil {
		return err
	}
	for _, rt := range chosen {
		l, err := readLock(lockFiles, rt)
		if err != nil {
			return err
		}
		p.locks = append(p.locks, l)
	}
	if o.worker != "" && !filepath.IsAbs(o.worker) {
		o.worker = filepath.Join(repo, o.worker)
	}
	if p.worker, err = b.workerTree(ctx, o.worker); err != nil {
		return err
	}
	if len(p.worker.entries) > 0 {
		if err := b.bundleWorker(ctx, p.worker, p.runtimes, p.locks); err != nil {
			return err
		}
	}
	if o.rootfs {
		if err := b.unpackAll(ctx, o.rootfsDir, p, stdout); err != nil {
			return err
		}
		if o.output == "" && pushTo == nil {
			return nil
		}
	}
	img, err := b.programsAndImage(ctx, o, p)
	if err != nil {
		return err
	}
	if o.tagByContent {
		if ref, err = contentRef(ref, img); err != nil {
			return err
		}
	}
	return publish(ctx, img, ref, pushTo, o.output, stdout)
}

func (b *builder) updateLocks(ctx context.Context, chosen []nodeRuntime, stdout io.Writer) error {
	for _, rt := range chosen {
		l, err := b.updateLock(ctx, rt)
		if err != nil {
			return err
		}
		file, err := writeLock(b.repo, rt, l)
		if err != nil {
			return err
		}
		fmt.Fprintln(stdout, "lock", file)
	}
	return nil
}

func (b *builder) unpackAll(ctx context.Context, dir string, p parts, stdout io.Writer) error {
	for i, rt := range p.runtimes {
		unpacked, err := b.unpackRootfs(ctx, dir, rt, p.locks[i], p.worker)
		if err != nil {
			return err
		}
		fmt.Fprintln(stdout, "rootfs", unpacked)
	}
	return nil
}

func (b *builder) programsAndImage(ctx context.Context, o options, p parts) (v1.Image, error) {
	sanfrand, remove, err := b.sanfrand(ctx, o.sanfrand, o.version)
	if err != nil {
		return nil, err
	}
	defer remove()
	p.sanfrand = sanfrand
	if p.runc, err = b.runc(ctx, o.runc); err != nil {
		return nil, err
	}
	return b.image(ctx, p)
}

// contentRef names an image after what it holds, so that a changed image is a
// changed name, and an equal one is not.
func contentRef(ref name.Reference, img v1.Image) (name.Reference, error) {
	digest, err := img.Digest()
	if err != nil {
		return nil, err
	}
	return ref.Context().Tag(digest.Hex[:16]), nil
}

func publish(ctx context.Context, img v1.Image, ref, pushTo name.Reference, output string, stdout io.Writer) error {
	digest, err := img.Digest()
	if err != nil {
		return err
	}
	fmt.Fprintln(stdout, "image", ref, digest)
	if output != "" {
		if err := writeArchive(output, ref, img); err != nil {
			return err
		}
		fmt.Fprintln(stdout, "archive", output)
	}
	if pushTo != nil {
		if err := push(ctx, pushTo, img); err != nil {
			return err
		}
		fmt.Fprintf(stdout, "pushed %s@%s\n", pushTo, digest)
	}
	return nil
}

// checkPlatform refuses machines whose programs and packages are not the
// image's: the pins are for one platform.
func checkPlatform(goos, goarch string) error {
	if goos != "linux" || goarch != "amd64" {
		return fmt.Errorf("images are built on and for linux/amd64 only; this is %s/%s", goos, goarch)
	}
	return nil
}

// cacheDir is $SANFRAN_CACHE, or sanfran in the user's cache folder.
func cacheDir(getenv func(string) string) (string, error) {
	if dir := getenv("SANFRAN_CACHE"); dir != "" {
		return filepath.Abs(dir)
	}
	if dir := getenv("XDG_CACHE_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "sanfran"), nil
	}
	home := getenv("HOME")
	if home == "" {
		return "", errors.New("no place for the cache: set SANFRAN_CACHE to a folder")
	}
	return filepath.Join(home, ".cache", "sanfran"), nil
}

// findRepo returns the checkout that the working folder is in.
func findRepo() (string, error) {
	start, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for dir := start; ; dir = filepath.Dir(dir) {
		data, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && bytes.HasPrefix(data, []byte("module sanfran.dev\n")) {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("%s is not inside a checkout of SanFran (no go.mod of module sanfran.dev above it)", start)
		}
	}
}

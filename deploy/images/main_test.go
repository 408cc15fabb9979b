package main

import (
	"io"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/empty"
)

func TestOtherPlatformsAreRefused(t *testing.T) {
	for _, p := range [][2]string{{"linux", "arm64"}, {"darwin", "amd64"}} {
		if err := checkPlatform(p[0], p[1]); err == nil || !strings.Contains(err.Error(), p[0]+"/"+p[1]) {
			t.Errorf("%v: %v", p, err)
		}
	}
	if err := checkPlatform("linux", "amd64"); err != nil {
		t.Error(err)
	}
}

func TestTheImageHasEveryRuntimeUnlessToldOtherwise(t *testing.T) {
	t.Setenv("SANFRAN_CACHE", t.TempDir())
	for args, want := range map[string]string{"": "node24,node26", "--runtimes=node26": "node26"} {
		o, err := parse(strings.Fields(args), io.Discard)
		if err != nil || o.runtimes != want {
			t.Errorf("%q: %q, %v; want %s", args, o.runtimes, err, want)
		}
	}
}

func TestBadCommandLineSaysWhatIsWrong(t *testing.T) {
	t.Setenv("SANFRAN_CACHE", t.TempDir())
	for _, c := range []struct{ args, want string }{
		{"--runtimes node18", `unknown runtime "node18"`},
		{"--ref sanfran", "--ref"},
		{"--push example.test/x", "--push"},
		{"output.tar", "output.tar"},
		{"--worker /nonexistent", "--worker"},
		{"--worker= --sanfrand /nonexistent", "/nonexistent"},
	} {
		err := run(t.Context(), strings.Fields(c.args), io.Discard, io.Discard)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q in it", c.args, err, c.want)
		}
	}
	t.Chdir(t.TempDir())
	if err := run(t.Context(), nil, io.Discard, io.Discard); err == nil || !strings.Contains(err.Error(), "checkout") {
		t.Errorf("outside a checkout: %v", err)
	}
}

func TestAnImageCanBeNamedAfterItsContent(t *testing.T) {
	ref, err := parseRef("--ref", "sanfran.local/sanfran:dev")
	if err != nil {
		t.Fatal(err)
	}
	digest, err := empty.Image.Digest()
	if err != nil {
		t.Fatal(err)
	}
	got, err := contentRef(ref, empty.Image)
	if want := "sanfran.local/sanfran:" + digest.Hex[:16]; err != nil || got.String() != want {
		t.Errorf("named %v, %v; want %s", got, err, want)
	}
}

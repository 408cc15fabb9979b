package commands

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// scripts are the commands under test, by their path in the checkout.
var scripts = []string{
	"internal/tools/require.sh", "internal/tools/deps.sh", "internal/tools/run.sh",
	"deploy/target.sh", "deploy/install.sh",
}

// basics are programs of any Debian that the scripts call; a machine has them
// as they are.
var basics = []string{"bash", "dirname", "cat", "grep", "sed", "awk", "head", "tail", "mktemp", "mkdir", "rm", "sleep", "ss", "ip"}

// machine is a checkout and a PATH of its own. The scripts see who they are,
// which system this is and what is installed through PATH alone, so a program
// put there stands in for any machine; nothing needs root, and nothing that a
// script does wrong reaches the real one.
type machine struct {
	checkout, bin string
	// calls is a file to which stand-ins write the calls that change something.
	calls string
	env   []string
}

// newMachine is a Linux machine with everything, seen by root.
func newMachine(t *testing.T) *machine {
	t.Helper()
	dir := t.TempDir()
	m := &machine{checkout: filepath.Join(dir, "checkout"), bin: filepath.Join(dir, "bin"), calls: filepath.Join(dir, "calls")}
	if err := os.Mkdir(m.bin, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, script := range scripts {
		content, err := os.ReadFile(filepath.Join("..", "..", script))
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(m.checkout, script), string(content))
	}
	for _, name := range basics {
		path, err := exec.LookPath(name)
		if err != nil {
			t.Fatalf("%v: the scripts call it; make deps installs it", err)
		}
		if err := os.Symlink(path, filepath.Join(m.bin, name)); err != nil {
			t.Fatal(err)
		}
	}
	m.install(t, "uname", "echo Linux")
	m.install(t, "id", "echo 0")
	for _, name := range []string{"go", "npm", "nft", "nsenter", "iptables", "kubectl", "helm", "dpkg-query", "apt-get", "setpriv"} {
		m.install(t, name, `echo "`+name+` $*" >>"$CALLS"`)
	}
	return m
}

// install puts a program of a few shell lines onto the PATH.
func (m *machine) install(t *testing.T, name, lines string) {
	t.Helper()
	write(t, filepath.Join(m.bin, name), "#!/usr/bin/env bash\n"+lines+"\n")
}

func (m *machine) remove(t *testing.T, name string) {
	t.Helper()
	if err := os.Remove(filepath.Join(m.bin, name)); err != nil {
		t.Fatal(err)
	}
}

// user makes the scripts see an ordinary user.
func (m *machine) user(t *testing.T) {
	t.Helper()
	m.install(t, "id", `case ${1:-} in -un) echo nobody ;; *) echo 65534 ;; esac`)
}

// localCluster makes the local cluster be there, or not.
func (m *machine) localCluster(t *testing.T, there bool) {
	t.Helper()
	kubeconfig := filepath.Join(m.checkout, "kubeconfig")
	answer := `echo 'local: cluster "sanfran": there is no such cluster' >&2; exit 1`
	if there {
		write(t, kubeconfig, "")
		answer = "echo " + kubeconfig
	}
	m.install(t, "go", `case $* in
  *" bin-dir"*) echo /nonexistent ;;
  *" kubeconfig"*) `+answer+` ;;
  *) echo "go $*" >>"$CALLS" ;;
esac`)
}

// kubernetes makes kubectl answer: one line of shell for each thing asked.
func (m *machine) kubernetes(t *testing.T, cases string) {
	t.Helper()
	m.install(t, "kubectl", `case $* in
  *" /readyz"*) ;;
  `+cases+`
  *) echo "kubectl $*" >>"$CALLS" ;;
esac`)
}

// refuses runs a command that cannot be done here: it fails, every one of want
// is in what it says, and it has changed nothing.
func (m *machine) refuses(t *testing.T, want []string, command string, args ...string) {
	t.Helper()
	before := m.files(t)
	said, err := m.run(command, args...)
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		t.Fatalf("%s %v: %v, want a failure; it said:\n%s", command, args, err, said)
	}
	for _, w := range want {
		if !strings.Contains(said, w) {
			t.Errorf("%s %v does not say %q; it said:\n%s", command, args, w, said)
		}
	}
	if diff := cmp.Diff(before, m.files(t)); diff != "" {
		t.Errorf("%s %v has changed files:\n%s", command, args, diff)
	}
	if calls, err := os.ReadFile(m.calls); err == nil {
		t.Errorf("%s %v has called what changes something:\n%s", command, args, calls)
	}
}

// run returns what a command said on either stream.
func (m *machine) run(command string, args ...string) (string, error) {
	cmd := exec.Command(filepath.Join(m.checkout, command), args...)
	cmd.Dir = m.checkout
	cmd.Env = append([]string{"PATH=" + m.bin, "HOME=" + m.checkout, "TMPDIR=" + filepath.Dir(m.calls), "CALLS=" + m.calls}, m.env...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// files lists the checkout and the folder for temporary files.
func (m *machine) files(t *testing.T) []string {
	t.Helper()
	var files []string
	err := filepath.WalkDir(filepath.Dir(m.calls), func(path string, _ fs.DirEntry, err error) error {
		files = append(files, path)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	sort.Strings(files)
	return files
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o755); err != nil {
		t.Fatal(err)
	}
}

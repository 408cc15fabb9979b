// Package commands tests the commands of the Makefile where something is
// missing: each says what and how to mend it, and changes nothing.
package commands

import (
	"net"
	"path/filepath"
	"strings"
	"testing"
)

func TestRequireNamesWhatIsMissingAndTheFix(t *testing.T) {
	for name, test := range map[string]struct {
		mode    string
		prepare func(*testing.T, *machine)
		want    []string
	}{
		"not root": {"cluster", func(t *testing.T, m *machine) { m.user(t) }, []string{"not root", "sudo"}},
		"not Linux": {"machine", func(t *testing.T, m *machine) { m.install(t, "uname", "echo Darwin") },
			[]string{"this is Darwin", "a Linux machine is needed"}},
		"no nft":      {"root", lacks("nft"), []string{"nft is not there", "apt-get install nftables", "make deps"}},
		"no nsenter":  {"cluster", lacks("nsenter"), []string{"nsenter is not there", "apt-get install util-linux"}},
		"no iptables": {"cluster", lacks("iptables"), []string{"iptables is not there", "apt-get install iptables"}},
		"no Go":       {"cluster", lacks("go"), []string{"go is not on PATH", "https://go.dev/dl"}},
		"no npm":      {"machine", lacks("npm"), []string{"npm is not on PATH", "Node.js"}},
		"several": {"root", func(t *testing.T, m *machine) { m.user(t); lacks("nft", "go")(t, m) },
			[]string{"not root", "nft is not there", "go is not on PATH", "nothing was changed"}},
		"no mode": {"", func(*testing.T, *machine) {}, []string{"usage:"}},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t)
			test.prepare(t, m)
			m.refuses(t, test.want, "internal/tools/require.sh", strings.Fields(test.mode)...)
		})
	}
}

func TestRequireIsSilentWhereNothingIsMissing(t *testing.T) {
	for _, mode := range []string{"machine", "root"} {
		if said, err := newMachine(t).run("internal/tools/require.sh", mode); err != nil || said != "" {
			t.Errorf("%s: %v; it said:\n%s", mode, err, said)
		}
	}
}

func TestDepsSaysWhatItCannotInstall(t *testing.T) {
	const noNft = `case $* in *nftables*) exit 1 ;; *) echo 'install ok installed' ;; esac`
	for name, test := range map[string]struct {
		prepare func(*testing.T, *machine)
		want    []string
	}{
		"not Linux": {func(t *testing.T, m *machine) { m.install(t, "uname", "echo Darwin") }, []string{"this is Darwin", "Linux machine"}},
		"no Go":     {lacks("go"), []string{"go is not on PATH", "https://go.dev/dl"}},
		"no npm":    {lacks("npm"), []string{"npm is not on PATH", "Node.js"}},
		"an old Go": {func(t *testing.T, m *machine) { m.install(t, "go", "echo go1.20; [ $1 != list ]") },
			[]string{"go1.20", "install Go 1.26 or newer"}},
		"a package, not root": {func(t *testing.T, m *machine) { m.user(t); m.install(t, "dpkg-query", noNft) },
			[]string{"nftables", "not root", "sudo apt-get install -y nftables"}},
		"a package, not Debian": {func(t *testing.T, m *machine) { m.install(t, "dpkg-query", noNft); m.remove(t, "apt-get") },
			[]string{"nftables", "no apt-get here", "your own package manager"}},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t)
			m.install(t, "go", "true")
			test.prepare(t, m)
			m.refuses(t, test.want, "internal/tools/deps.sh")
		})
	}
}

func TestCommandsSayWhyNoClusterAnswers(t *testing.T) {
	commands := [][]string{{"deploy/target.sh", "gateway-url"}, {"deploy/install.sh"}, {"deploy/install.sh", "--uninstall"}, {"internal/tools/run.sh", "gateway"}}
	for name, test := range map[string]struct {
		prepare func(*testing.T, *machine)
		want    []string
	}{
		"no local cluster": {func(t *testing.T, m *machine) { m.localCluster(t, false) }, []string{"there is no local cluster sanfran", "make cluster"}},
		"a local cluster that is dead": {func(t *testing.T, m *machine) { m.install(t, "kubectl", "echo connection refused >&2; exit 1") },
			[]string{"the local cluster sanfran does not answer", "connection refused", "make cluster"}},
		"a file that is not there": {func(_ *testing.T, m *machine) {
			m.env = append(m.env, "KUBECONFIG=/nonexistent/kubeconfig", "IMAGE_REPOSITORY=registry/name")
		}, []string{"/nonexistent/kubeconfig, is not there", "unset KUBECONFIG"}},
		"another cluster that is dead": {func(t *testing.T, m *machine) {
			file := filepath.Join(m.checkout, "other")
			write(t, file, "")
			m.env = append(m.env, "KUBECONFIG="+file, "IMAGE_REPOSITORY=registry/name")
			m.install(t, "kubectl", "echo connection refused >&2; exit 1")
		}, []string{"no Kubernetes answers by KUBECONFIG=", "connection refused", "unset KUBECONFIG"}},
		"no kubectl": {lacks("kubectl"), []string{"there is no kubectl on PATH", "build kubernetes"}},
	} {
		for _, command := range commands {
			t.Run(name+"/"+strings.Join(command, " "), func(t *testing.T) {
				m := checkoutWithCluster(t)
				test.prepare(t, m)
				m.refuses(t, test.want, command[0], command[1:]...)
			})
		}
	}
}

func TestInstallNeedsARegistryForAnotherCluster(t *testing.T) {
	m := checkoutWithCluster(t)
	m.env = append(m.env, "KUBECONFIG=/elsewhere")
	m.refuses(t, []string{"/elsewhere is not the local one", "IMAGE_REPOSITORY=registry/name"}, "deploy/install.sh")
}

func TestInstallNeedsHelm(t *testing.T) {
	m := checkoutWithCluster(t)
	m.remove(t, "helm")
	m.refuses(t, []string{"there is no helm on PATH", "build helm"}, "deploy/install.sh")
}

func TestCommandsNeedAnInstallation(t *testing.T) {
	for _, command := range [][]string{
		{"deploy/target.sh", "gateway-url"}, {"internal/tools/run.sh", "gateway"}, {"internal/tools/run.sh", "agent"}, {"internal/tools/run.sh", "controlplane"},
	} {
		m := checkoutWithCluster(t)
		m.kubernetes(t, `*"get "*) ;;`)
		m.refuses(t, []string{"SanFran is not installed in namespace sanfran-system", "make install"}, command[0], command[1:]...)
	}
}

func TestRunRefusesWhatCannotWork(t *testing.T) {
	elsewhere := func(_ *testing.T, m *machine) { m.env = append(m.env, "KUBECONFIG=/elsewhere") }
	for name, test := range map[string]struct {
		component string
		prepare   func(*testing.T, *machine)
		want      []string
	}{
		"nothing named":      {"", func(*testing.T, *machine) {}, []string{"usage:"}},
		"something else":     {"scheduler", func(*testing.T, *machine) {}, []string{"usage:"}},
		"an agent, not root": {"agent", func(t *testing.T, m *machine) { m.user(t) }, []string{"not root", "sudo"}},
		"an agent of another cluster": {"agent", elsewhere,
			[]string{"not on this machine", "unset KUBECONFIG", "make install IMAGE_REPOSITORY=registry/name"}},
		"a control plane of another cluster": {"controlplane", elsewhere, []string{"not on it", "ADDRESS=ip"}},
		"a control plane at no address of ours": {"controlplane", func(_ *testing.T, m *machine) { m.env = append(m.env, "ADDRESS=192.0.2.1") },
			[]string{"ADDRESS=192.0.2.1 is not an address of this machine"}},
		"a gateway without a port": {"gateway", func(_ *testing.T, m *machine) { m.env = append(m.env, "LISTEN=8080") },
			[]string{"LISTEN=8080", "host:port"}},
	} {
		t.Run(name, func(t *testing.T) {
			m := checkoutWithCluster(t)
			test.prepare(t, m)
			m.refuses(t, test.want, "internal/tools/run.sh", strings.Fields(test.component)...)
		})
	}
}

func TestRunNeedsABuild(t *testing.T) {
	m := newMachine(t)
	m.localCluster(t, true)
	m.refuses(t, []string{"bin/sanfrand is not there", "make build"}, "internal/tools/run.sh", "gateway")
}

func TestRunGatewaySaysThatItsPortIsTaken(t *testing.T) {
	for _, listen := range []string{"127.0.0.1:0", "0.0.0.0:0", "[::]:0"} {
		taken, err := net.Listen("tcp", listen)
		if err != nil {
			t.Fatal(err)
		}
		defer taken.Close()
		_, port, err := net.SplitHostPort(taken.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		m := checkoutWithCluster(t)
		m.env = append(m.env, "LISTEN=127.0.0.1:"+port)
		m.refuses(t, []string{"port " + port + " of 127.0.0.1 is taken", "LISTEN="}, "internal/tools/run.sh", "gateway")
	}
}

// checkoutWithCluster is a machine with a build and a local cluster, where
// SanFran is installed.
func checkoutWithCluster(t *testing.T) *machine {
	t.Helper()
	m := newMachine(t)
	m.localCluster(t, true)
	m.kubernetes(t, `*"get statefulset -l "*) echo sanfran-control-plane ;; *"get "*) ;;`)
	write(t, filepath.Join(m.checkout, "bin", "sanfrand"), "#!/bin/sh\necho sanfrand >>\"$CALLS\"\n")
	return m
}

func lacks(programs ...string) func(*testing.T, *machine) {
	return func(t *testing.T, m *machine) {
		t.Helper()
		for _, program := range programs {
			m.remove(t, program)
		}
	}
}

package main

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestChartFlagsExist: the chart and this program must not drift apart.
func TestChartFlagsExist(t *testing.T) {
	flag := regexp.MustCompile(`(?m)^\s*- --([a-z-]+)=`)
	for file, name := range map[string]string{"agent.yaml": "agent", "controlplane.yaml": "controlplane", "gateway.yaml": "router"} {
		template, err := os.ReadFile(filepath.Join("../../deploy/helm/sanfran/templates", file))
		if err != nil {
			t.Fatal(err)
		}
		command, _, err := newRootCommand().Find([]string{name})
		if err != nil {
			t.Fatal(err)
		}
		found := flag.FindAllStringSubmatch(string(template), -1)
		if len(found) < 3 {
			t.Errorf("%s: only %d flags found", file, len(found))
		}
		for _, match := range found {
			if command.Flags().Lookup(match[1]) == nil {
				t.Errorf("%s sets --%s, which sanfrand %s does not have", file, match[1], name)
			}
		}
	}
}

func TestVersion(t *testing.T) {
	root := newRootCommand()
	var out bytes.Buffer
	root.SetOut(&out)
	root.SetArgs([]string{"version"})
	if err := root.Execute(); err != nil || out.String() != "sanfrand dev\n" {
		t.Errorf("%q, %v", out.String(), err)
	}
}

// TestFlagsAreChecked: what is wrong is named before anything is touched.
func TestFlagsAreChecked(t *testing.T) {
	agent := []string{"agent", "--control-plane=x:1", "--node-name=n", "--node-ip=10.0.0.1"}
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"agent"}, "control-plane"},
		{append(agent, "--node-ip=here"), "--node-ip"},
		{append(agent, "--pod-cidr=10.0.0.0"), "--pod-cidr"},
		{append(agent, "--network-cidr=x"), "--network-cidr"},
		{append(agent, "--runtimes-dir=/nonexistent"), "--runtimes-dir"},
		{append(agent, "--runtimes-dir="+t.TempDir()), "holds no root filesystem"},
		{append(agent, "--log-level=loud"), "--log-level"},
		{append(agent, "--log-format=xml"), "--log-format"},
		{append(agent, "--runtime=node24=/r", "--control-plane=x"), "--control-plane"},
		{[]string{"router", "--control-plane=x:1", "--listen-address=256.0.0.1:1"}, "--listen-address"},
		{[]string{"router", "--control-plane=x:1", "--listen-address=127.0.0.1:0", "--health-address=256.0.0.1:1"}, "--health-address"},
		{[]string{"router", "--control-plane=x:1", "--listen-address=127.0.0.1:0", "--tls-listen-address=127.0.0.1:0", "--tls-cert-file=/nonexistent"}, "--tls-cert-file"},
		{[]string{"router", "--control-plane=x:1", "--trusted-proxies=10.0.0.1"}, "--trusted-proxies"},
		{[]string{"router", "extra", "--control-plane=x:1"}, "extra"},
	} {
		root := newRootCommand()
		root.SetArgs(c.args)
		if err := root.Execute(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: got %v, want an error that names %s", c.args, err, c.want)
		}
	}
}

func TestFindRuntimes(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"node24", "node26"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "README"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := findRuntimes(dir)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"node24": filepath.Join(dir, "node24"), "node26": filepath.Join(dir, "node26")}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

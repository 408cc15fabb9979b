package main

import (
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func testCluster() *cluster {
	return &cluster{
		Name: "demo", Nodes: 2, DualStack: true,
		Subnet4: netip.MustParsePrefix("172.29.7.0/24"), Subnet6: netip.MustParsePrefix("fd5a:4f21:0:7::/64"),
	}
}

func TestNamesFitWhatTheyAreFor(t *testing.T) {
	for _, name := range []string{"sanfran", "sanfran-test", "a", strings.Repeat("x", 32)} {
		if err := checkName(name); err != nil {
			t.Errorf("%q: %v", name, err)
		}
		c := &cluster{Name: name}
		if device := c.bridge(); len(device) > 15 {
			t.Errorf("bridge %q is too long for the kernel", device)
		}
		if device := c.node(16).veth(); len(device) > 15 {
			t.Errorf("device %q is too long for the kernel", device)
		}
	}
	for _, name := range []string{"", "-a", "a-", "A", "1a", "a_b", "a/b", "..", strings.Repeat("x", 33)} {
		if checkName(name) == nil {
			t.Errorf("the name %q was taken", name)
		}
	}
}

func TestFindNode(t *testing.T) {
	c := testCluster()
	for _, name := range []string{"2", "node-2", "demo-node-2"} {
		if n, err := c.findNode(name); err != nil || n.number != 2 {
			t.Errorf("%q is node %d (%v)", name, n.number, err)
		}
	}
	if _, err := c.findNode("3"); err == nil || !strings.Contains(err.Error(), "demo-node-1, demo-node-2") {
		t.Errorf("a node that is not there: %v", err)
	}
}

func TestNodeAddresses(t *testing.T) {
	n := testCluster().node(2)
	if have, want := n.addresses(), "172.29.7.12,fd5a:4f21:0:7::c"; have != want {
		t.Errorf("have %s, want %s", have, want)
	}
}

func TestChooseSubnets(t *testing.T) {
	four, six, err := chooseSubnets("sanfran", nil)
	if err != nil {
		t.Fatal(err)
	}
	again, _, err := chooseSubnets("sanfran", []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("10.0.0.0/8")})
	if err != nil || again != four {
		t.Errorf("have %s (%v), want %s as before: nothing that overlaps was taken", again, err, four)
	}
	other, otherSix, err := chooseSubnets("sanfran", []netip.Prefix{four})
	if err != nil || other.Overlaps(four) || otherSix.Overlaps(six) || !subnetPool.Contains(other.Addr()) {
		t.Errorf("have %s and %s (%v) beside %s", other, otherSix, err, four)
	}
	if _, _, err := chooseSubnets("sanfran", []netip.Prefix{netip.MustParsePrefix("172.16.0.0/12")}); err == nil {
		t.Error("a subnet was found where all are taken")
	}
}

func TestRangesDoNotOverlap(t *testing.T) {
	var ranges []netip.Prefix
	for _, text := range []string{podCIDR4, serviceCIDR4, functionCIDR4, podCIDR6, serviceCIDR6, subnetPool.String()} {
		prefix := netip.MustParsePrefix(text)
		if overlapped(prefix, ranges) {
			t.Errorf("%s overlaps another range", prefix)
		}
		ranges = append(ranges, prefix)
	}
}

func TestWriteFileKeepsWhatIsRight(t *testing.T) {
	path := filepath.Join(t.TempDir(), "below", "file")
	for _, content := range []string{"one", "one", "two"} {
		if err := writeFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		have, err := os.ReadFile(path)
		if err != nil || string(have) != content {
			t.Errorf("have %q (%v), want %q", have, err, content)
		}
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v (%v), want 0600", info.Mode(), err)
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(entries) != 1 {
		t.Errorf("%d files were left, want 1 (%v)", len(entries), err)
	}
}

func TestMergeUnits(t *testing.T) {
	have := []unit{{Name: "etcd", Config: "1"}, {Name: "kubelet", Config: "1", Stopped: true}}
	want := []unit{{Name: "etcd", Config: "1"}, {Name: "kubelet", Config: "2", Stopped: true}, {Name: "kube-proxy"}}
	merged := mergeUnits(have, []unit{{Name: "kubelet", Config: "2"}, {Name: "kube-proxy"}})
	if diff := cmp.Diff(want, merged); diff != "" {
		t.Error("a unit that was stopped on request must stay so:\n", diff)
	}
	if have[1].Config != "1" {
		t.Error("the old list was changed")
	}
}

func TestTemplates(t *testing.T) {
	t.Setenv("SANFRAN_LOCAL_STATE", t.TempDir())
	n := testCluster().node(2)
	texts, err := n.writeConfigs(binaries{"runc": "/bin-of/runc"}, "nftables", true)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"containerd.toml": "restrict_oom_score_adj = true",
		"kubelet.yaml":    "cgroupRoot: /demo-node-2\n",
		"kube-proxy.yaml": "clusterCIDR: 10.244.0.0/16,fd00:10:244::/56\n",
	} {
		if !strings.Contains(texts[name], want) {
			t.Errorf("%s does not say %q:\n%s", name, want, texts[name])
		}
	}
	if err := n.writeCNI([]string{"10.244.1.0/24", "fd00:10:244:1::/64"}); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(n.path("cni-config", "10-sanfran-local.conflist"))
	if err != nil {
		t.Fatal(err)
	}
	if !json.Valid(raw) || !strings.Contains(string(raw), `[{"subnet": "10.244.1.0/24"}], [{"subnet": "fd00:10:244:1::/64"}]`) {
		t.Errorf("CNI configuration:\n%s", raw)
	}
	for servers, forwards := range map[string]bool{"": false, "192.0.2.1 192.0.2.2": true} {
		text, err := render("addons.yaml", map[string]any{"Domain": clusterDomain, "DNS": dnsService4, "Image": coreDNSImage, "Upstreams": servers})
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Contains(string(text), "forward . "+servers+" {"); got != forwards {
			t.Errorf("with the resolvers %q the Corefile forwards: %t, want %t", servers, got, forwards)
		}
		// CoreDNS asks this plugin before the cluster's own names, so that it
		// would answer for those too.
		if strings.Contains(string(text), "template ") {
			t.Errorf("with the resolvers %q the Corefile has a template that answers the cluster's names", servers)
		}
	}
	if _, err := render("addons.yaml", map[string]any{}); err == nil {
		t.Error("a template was rendered without its values")
	}
}

func TestPlanKeepsWhatWasNotAskedFor(t *testing.T) {
	t.Setenv("SANFRAN_LOCAL_STATE", t.TempDir())
	c := testCluster()
	if err := c.save(); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		options upOptions
		nodes   int // 0: refused
	}{
		{upOptions{keepStack: true}, 2},
		{upOptions{nodes: 3, keepStack: true}, 3},
		{upOptions{nodes: 2, dualStack: true}, 2},
		{upOptions{nodes: 1, keepStack: true}, 0},
		{upOptions{nodes: 2, dualStack: false}, 0},
	} {
		test.options.name = c.Name
		planned, err := planCluster(test.options)
		switch {
		case test.nodes == 0 && err == nil:
			t.Errorf("%+v was not refused", test.options)
		case test.nodes > 0 && (err != nil || planned.Nodes != test.nodes || !planned.DualStack || planned.Subnet4 != c.Subnet4):
			t.Errorf("%+v: plan %+v (%v)", test.options, planned, err)
		}
	}
}

package main

// Version numbers that are compiled in or named in images. go.mod of the
// module decides what is built; these say the same to the program itself.
const (
	kubernetesVersion = "v1.36.3"
	coreDNSVersion    = "v1.15.0"
)

// program is one build: a Go module of the repository whose go.sum pins what
// is built, and the binaries that come of it.
type program struct {
	name      string
	module    string   // folder below the source folder
	packages  []string // what to build; "." is the module's own
	tags      string
	ldflags   string
	ownSource bool     // the module holds Go files of ours
	outputs   []string // binaries
	aliases   map[string]string
	// environment is added to go build's.
	environment []string
	needsC      bool // a C compiler and libseccomp
}

// programs lists what a cluster needs, what is needed first first.
func programs() []program {
	const version = "k8s.io/component-base/version."
	static := []string{"CGO_ENABLED=0"}
	aliases := map[string]string{}
	for _, name := range []string{"etcd", "kube-apiserver", "kube-controller-manager", "kube-proxy", "kube-scheduler", "kubelet", "kubectl", "local-provisioner"} {
		aliases[name] = "kubernetes"
	}
	return []program{
		{
			name: "kubernetes", module: "kubernetes", packages: []string{"."}, ownSource: true,
			// Without these the kubelet reports v0.0.0.
			ldflags: "-X " + version + "gitVersion=" + kubernetesVersion + " -X " + version + "gitMajor=1 -X " + version + "gitMinor=36 -X " + version + "gitTreeState=clean",
			outputs: []string{"kubernetes"}, aliases: aliases, environment: static,
		},
		{
			name: "containerd", module: "containerd", tags: "no_btrfs",
			packages: []string{
				"github.com/containerd/containerd/v2/cmd/containerd",
				"github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2",
				"github.com/containerd/containerd/v2/cmd/ctr",
			},
			outputs: []string{"containerd", "containerd-shim-runc-v2", "ctr"}, environment: static,
		},
		{
			// Static, so that an image can carry the same file.
			name: "runc", module: "runc", tags: "seccomp netgo osusergo",
			packages: []string{"github.com/opencontainers/runc"},
			ldflags:  "-linkmode external -extldflags -static",
			outputs:  []string{"runc"}, environment: []string{"CGO_ENABLED=1"}, needsC: true,
		},
		{name: "pause", module: "pause", packages: []string{"."}, ownSource: true, outputs: []string{"pause"}, environment: static},
		{name: "coredns", module: "coredns", packages: []string{"."}, ownSource: true, outputs: []string{"coredns"}, environment: static},
		{name: "helm", module: "helm", packages: []string{"helm.sh/helm/v4/cmd/helm"}, outputs: []string{"helm"}, environment: static},
	}
}

// arguments are go build's, without -o and the packages.
func (p program) arguments() []string {
	arguments := []string{"-trimpath", "-ldflags", "-s -w " + p.ldflags}
	if p.tags != "" {
		arguments = append(arguments, "-tags", p.tags)
	}
	return append(arguments, p.packages...)
}

package container

import (
	"encoding/json"
	"flag"
	"os"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"
)

var update = flag.Bool("update", false, "write the golden files instead of comparing")

func exampleInput() specInput {
	return specInput{
		Config: Config{
			ID: "a1", RootFS: "/rootfs/node24", Hostname: "hello", NetNS: "/run/netns/a1",
			Args: []string{"/usr/local/bin/node", "/opt/sanfran/worker/start.js"}, Env: []string{"A=b"},
			Resources: Resources{MilliCPU: 500, MemoryBytes: 128 << 20},
		},
		Root: "/run/sanfran/slots/a1/rootfs", CgroupsPath: "/functions/a1", HostID: 0x7000_0000,
		OOMScoreAdj: 100, OpenFiles: 4096, PidsLimit: 512, TmpBytes: 64 << 20, SwapAccount: true,
		Seccomp: &specs.LinuxSeccomp{DefaultAction: specs.ActErrno},
	}
}

func TestSpecGolden(t *testing.T) {
	const golden = "testdata/spec.golden.json"
	got, err := json.MarshalIndent(ociSpec(exampleInput()), "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	got = append(got, '\n')
	if *update {
		if err := os.WriteFile(golden, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("the spec has changed (-want +got); if that is meant, run with -update:\n%s", diff)
	}
}

// Whatever the input, a container has these.
func TestSpecIsSealed(t *testing.T) {
	inputs := map[string]specInput{"example": exampleInput(), "bare": {Config: Config{ID: "x", Args: []string{"/bin/x"}}}}
	for name, in := range inputs {
		spec := ociSpec(in)
		if !spec.Root.Readonly || !spec.Process.NoNewPrivileges || spec.Process.User.UID == 0 || spec.Process.User.GID == 0 {
			t.Errorf("%s: root or privileges: %+v %+v", name, spec.Root, spec.Process)
		}
		c := spec.Process.Capabilities
		if c == nil || len(c.Bounding)+len(c.Effective)+len(c.Inheritable)+len(c.Permitted)+len(c.Ambient) > 0 {
			t.Errorf("%s: capabilities %+v", name, c)
		}
		var kinds []specs.LinuxNamespaceType
		for _, ns := range spec.Linux.Namespaces {
			kinds = append(kinds, ns.Type)
		}
		for _, kind := range []specs.LinuxNamespaceType{"user", "mount", "pid", "network", "ipc", "uts", "cgroup"} {
			if !slices.Contains(kinds, kind) {
				t.Errorf("%s: no %s namespace of its own", name, kind)
			}
		}
		for _, m := range spec.Mounts {
			if m.Type == "bind" || !slices.Contains(m.Options, "nosuid") {
				t.Errorf("%s: mount %+v", name, m)
			}
		}
	}
}

func TestSpecDefaults(t *testing.T) {
	in := exampleInput()
	in.Config.Hostname, in.Config.NetNS, in.Config.Resources = "", "", Resources{}
	in.DefaultLimit = Resources{MemoryBytes: 64 << 20}
	in.SwapAccount = false
	spec := ociSpec(in)
	if spec.Hostname != "a1" {
		t.Errorf("Hostname = %q, want the id", spec.Hostname)
	}
	limits := spec.Linux.Resources
	if limits.CPU.Quota != nil || *limits.CPU.Shares != warmShares {
		t.Errorf("CPU of a container without a limit = %+v", limits.CPU)
	}
	if *limits.Memory.Limit != 64<<20 || limits.Memory.Swap != nil {
		t.Errorf("Memory = %+v", limits.Memory)
	}
}

func TestSeccompRefusesWhatNeedsCapabilities(t *testing.T) {
	profile, err := seccompProfile()
	if err != nil {
		t.Fatal(err)
	}
	if profile.DefaultAction != specs.ActErrno {
		t.Errorf("default action is %s", profile.DefaultAction)
	}
	for _, call := range profile.Syscalls {
		if call.Action != specs.ActAllow || len(call.Args) > 0 {
			continue
		}
		for _, name := range []string{"mount", "unshare", "setns", "bpf", "init_module", "kexec_load", "io_uring_setup", "io_setup", "open_by_handle_at"} {
			if slices.Contains(call.Names, name) {
				t.Errorf("%s is allowed", name)
			}
		}
	}
}

func TestSeccompHasNoOtherWayIn(t *testing.T) {
	profile, err := seccompProfile()
	if err != nil {
		t.Fatal(err)
	}
	if len(profile.Architectures) != 1 {
		t.Errorf("system calls for %v are allowed, want the machine's own alone", profile.Architectures)
	}
	var families []uint64
	for _, call := range profile.Syscalls {
		if slices.Contains(call.Names, "socketcall") {
			t.Error("socketcall is allowed: the filter does not see what it is called with")
		}
		if !slices.Contains(call.Names, "socket") {
			continue
		}
		if len(call.Args) != 1 || call.Args[0].Index != 0 || call.Args[0].Op != specs.OpEqualTo {
			t.Fatalf("sockets are allowed by %+v", call)
		}
		families = append(families, call.Args[0].Value)
	}
	if diff := cmp.Diff(socketFamilies, families); diff != "" {
		t.Errorf("sockets (-want +got):\n%s", diff)
	}
}

package nodeagent

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"path"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	"sanfran.dev/nodeagent/container"
)

// Epoch orders the assignments of one pod; the greater one wins.
type Epoch struct{ Generation, Counter uint64 }

// Compare is negative if e is older than other, zero if it is the same.
func (e Epoch) Compare(other Epoch) int {
	return cmp.Or(cmp.Compare(e.Generation, other.Generation), cmp.Compare(e.Counter, other.Counter))
}

func (e Epoch) String() string { return fmt.Sprintf("%d.%d", e.Generation, e.Counter) }

// Assignment makes this agent the home of a function pod. It is not changed
// after it was made.
type Assignment struct {
	Epoch     Epoch
	PodUID    string
	Namespace string
	PodName   string
	Function  string
	Revision  string
	// Address is the pod's own, Address6 its IPv6 one beside it, invalid if it has
	// none; Port is the one its function is served on.
	Address, Address6 netip.Addr
	Port              uint16
	// Runtime names what its containers are made of, e.g. "node24".
	Runtime string
	// Entry is the folder of the code inside the container.
	Entry  string
	Mounts []PodMount
	Env    map[string]string
	// Resources are its limits and requests; TmpBytes of them is also what its
	// emptyDirs may hold together.
	Resources container.Resources
	// IdleTimeout is how long the pod may be without activity before it is
	// parked. Zero: it never is.
	IdleTimeout time.Duration
	// StartParked is set when another pod has proved the revision to load.
	StartParked bool
	Hostname    string
	DNS         DNS
	// Command is the program to run and its arguments; empty: what the bundle
	// says. WorkingDir is where; empty: Entry.
	Command    []string
	WorkingDir string
	// ParkServer lets a program that listens by itself be parked as a handler is.
	ParkServer bool
}

// PodMount is something bound into the pod's containers. Exactly one of
// Bundle, Files and EmptyDir is set.
type PodMount struct {
	// Path is absolute, inside the container.
	Path string
	// Bundle is the digest of code; mounted read-only.
	Bundle string
	// Files are small files by relative path; mounted read-only.
	Files map[string][]byte
	// EmptyDir names a writable folder that lives as long as the pod is here.
	EmptyDir string
	// EmptyDirBytes is what fits into it; 0: what the pod's emptyDirs without a
	// size have together.
	EmptyDirBytes int64
}

// DNS is what /etc/resolv.conf says in the pod's containers.
type DNS struct{ Nameservers, Searches, Options []string }

// ErrAssignment marks an assignment that this agent cannot carry out, whatever
// it tries.
var ErrAssignment = errors.New("assignment refused")

// validate checks what would otherwise become a path, a file name or a line of
// a configuration file.
func (a *Assignment) validate() error {
	refuse := func(format string, args ...any) error {
		return fmt.Errorf("%w: pod %s/%s (%s): %s", ErrAssignment, a.Namespace, a.PodName, a.PodUID, fmt.Sprintf(format, args...))
	}
	switch {
	case !isFileName(a.PodUID):
		return refuse("the UID %q is no plain word", a.PodUID)
	case !isPlainWord(a.Namespace, 63) || !isPlainWord(a.PodName, 253): // RFC 1123, as Kubernetes
		return refuse("the namespace %.80q or the name %.300q is no plain word", a.Namespace, a.PodName)
	case !a.Address.Is4():
		return refuse("the address %v is not IPv4", a.Address)
	case a.Address6.IsValid() && (!a.Address6.Is6() || a.Address6.Is4In6() || a.Address6.Zone() != ""):
		return refuse("the address %v is not IPv6", a.Address6)
	case a.Port == 0:
		return refuse("no port")
	case a.Runtime == "":
		return refuse("no runtime")
	case !path.IsAbs(a.Entry):
		return refuse("the entry %q is not absolute", a.Entry)
	case len(a.Hostname) > 64:
		return refuse("the host name %q is longer than the kernel's 64 bytes", a.Hostname)
	case a.IdleTimeout < 0:
		return refuse("the idle timeout %v is negative", a.IdleTimeout)
	}
	if err := a.validateCommand(); err != nil {
		return refuse("%v", err)
	}
	if err := a.Resources.Validate(); err != nil {
		return refuse("%v", err)
	}
	for _, m := range a.Mounts {
		if !path.IsAbs(m.Path) || path.Clean(m.Path) != m.Path || m.Path == "/" {
			return refuse("the mount path %q is not an absolute, clean path other than the root", m.Path)
		}
		sources := 0
		if m.Bundle != "" {
			sources++
		}
		if m.EmptyDir != "" {
			sources++
			if !isFileName(m.EmptyDir) {
				return refuse("the emptyDir name %q is no plain word", m.EmptyDir)
			}
			if m.EmptyDirBytes < 0 {
				return refuse("the emptyDir %q has a size limit of %d bytes", m.EmptyDir, m.EmptyDirBytes)
			}
		}
		if m.Files != nil {
			sources++
			for name := range m.Files {
				if !filepath.IsLocal(name) || filepath.Clean(name) != name || name == "." {
					return refuse("the file %q of the mount at %s is not a clean relative path", name, m.Path)
				}
			}
		}
		if sources != 1 {
			return refuse("the mount at %s has %d sources, not one", m.Path, sources)
		}
	}
	for _, line := range [][]string{a.DNS.Nameservers, a.DNS.Searches, a.DNS.Options, {a.Hostname}} {
		for _, word := range line {
			if strings.ContainsAny(word, " \t\r\n") {
				return refuse("the DNS or host name setting %q holds white space", word)
			}
		}
	}
	return nil
}

// Bounds on a command: with the environment it must fit into one message to the
// worker.
const (
	maxCommandWords = 1000
	maxCommandBytes = 128 << 10
)

func (a *Assignment) validateCommand() error {
	size := 0
	for _, word := range a.Command {
		if strings.ContainsRune(word, 0) {
			return fmt.Errorf("a word of the command %.100q holds a NUL", word)
		}
		size += len(word)
	}
	switch dir := a.WorkingDir; {
	case len(a.Command) > maxCommandWords || size > maxCommandBytes:
		return fmt.Errorf("the command has %d words of %d bytes together, at most %d and %d are taken", len(a.Command), size, maxCommandWords, maxCommandBytes)
	case len(a.Command) > 0 && a.Command[0] == "":
		return errors.New("the first word of the command is empty")
	case dir != "" && (!path.IsAbs(dir) || path.Clean(dir) != dir || len(dir) > 4096 || strings.ContainsRune(dir, 0)):
		return fmt.Errorf("the working folder %.100q is not an absolute, clean path", dir)
	}
	return nil
}

// sameWork reports whether two assignments of a pod ask for the same containers
// and routes, so that taking the other over changes nothing that runs. The
// content of files (a token that was renewed) is not work: it is written under
// the running container.
func (a *Assignment) sameWork(b *Assignment) bool {
	return reflect.DeepEqual(a.work(), b.work())
}

func (a *Assignment) work() Assignment {
	work := *a
	work.Epoch, work.StartParked = Epoch{}, false
	work.Mounts = slices.Clone(a.Mounts)
	for i := range work.Mounts {
		if work.Mounts[i].Files != nil {
			work.Mounts[i].Files = map[string][]byte{}
		}
	}
	return work
}

// environment is what a program of the pod finds in its environment: its own
// variables, and those that every container has.
func (a *Assignment) environment() map[string]string {
	env := map[string]string{
		"PATH":     "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME":     "/tmp",
		"HOSTNAME": a.hostname(),
	}
	maps.Copy(env, a.Env)
	return env
}

// folder is where the function works.
func (a *Assignment) folder() string { return cmp.Or(a.WorkingDir, a.Entry) }

// isFileName reports whether a word from outside may become a file name.
func isFileName(s string) bool { return isPlainWord(s, 128) }

// isPlainWord is isFileName for words of up to most bytes.
func isPlainWord(s string, most int) bool {
	if s == "" || len(s) > most || s[0] == '.' {
		return false
	}
	for _, r := range s {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '-', r == '_', r == '.':
		default:
			return false
		}
	}
	return true
}

// addresses are the pod's own, one or one of each family.
func (a *Assignment) addresses() []netip.Addr { return validAddrs(a.Address, a.Address6) }

// addressList is how the worker is told of them.
func (a *Assignment) addressList() string {
	var list []string
	for _, addr := range a.addresses() {
		list = append(list, addr.String())
	}
	return strings.Join(list, ",")
}

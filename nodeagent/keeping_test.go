package nodeagent

import (
	"encoding/json"
	"errors"
	"log/slog"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sanfran.dev/internal/supervisor"
)

// listeningSupervisor only hears what it is told; told returns it, as the operation
// and the stage of each container.
func listeningSupervisor(t *testing.T) (_ *keeper, told func() []string) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	client, err := supervisor.Open(fds[0])
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		client.Close()
		unix.Close(fds[1])
	})
	return &keeper{client: client, log: slog.New(slog.NewTextHandler(t.Output(), nil))}, func() (all []string) {
		buffer := make([]byte, 64<<10)
		for {
			n, _, err := unix.Recvfrom(fds[1], buffer, unix.MSG_DONTWAIT)
			if errors.Is(err, unix.EAGAIN) {
				return all
			}
			var m struct {
				Op, Name string
				Data     []byte
			}
			if err = errors.Join(err, json.Unmarshal(buffer[:n], &m)); err != nil {
				t.Fatal(err)
			}
			what := m.Op + " " + m.Name
			if len(m.Data) > 0 {
				var r containerRecord
				if err := json.Unmarshal(m.Data, &r); err != nil {
					t.Fatal(err)
				}
				what += " " + []string{"warm", "leasing", "active", "draining", "ending"}[r.Stage]
				if r.Lease != nil {
					what += " of " + r.Lease.PodUID
				}
			}
			all = append(all, what)
		}
	}
}

// A container's life does not go back, whatever order the agent's goroutines speak
// in.
func TestStagesOfAKeptContainerOnlyGrow(t *testing.T) {
	k, told := listeningSupervisor(t)
	c := &keptContainer{keeper: k, name: keptContainers + "a"}
	i := &instance{warm: &warmContainer{kept: c}}
	c.reached(stageLeasing, func(r *leaseRecord) { r.PodUID = "uid" })
	i.keepDraining(time.Now())
	c.reached(stageActive, func(r *leaseRecord) { r.PodUID = "another" })
	c.reached(stageEnding, nil)
	c.reached(stageEnding, nil)
	c.forget()
	c.forget()
	c.reached(stageEnding, nil)
	want := []string{
		"update container/a leasing of uid", "update container/a draining of uid", "update container/a ending of uid", "remove container/a",
	}
	if got := told(); !slices.Equal(got, want) {
		t.Errorf("told\n%q, want\n%q", got, want)
	}
}

func TestWithoutASupervisorNothingIsTold(t *testing.T) {
	k := &keeper{}
	k.nodeStands()
	k.forget("x")
	k.rested(&countedSocket{})
	k.rests(&countedSocket{}, time.Now())
	var c *keptContainer
	c.reached(stageEnding, nil)
	c.forget()
}

//go:build integration

package container_test

import (
	"fmt"
	"net"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sanfran.dev/nodeagent/container"
)

// BenchmarkStart makes containers with each OCI runtime, in turns, so that what
// else the machine does meets all of them alike. It reports medians: until Start
// returns, until the program has booted, and of the removal. The processor time is
// that of a program that does nothing, from its start to its removal: the agent's
// part and the OCI runtime's.
func BenchmarkStart(b *testing.B) {
	hosts := map[string]*host{}
	for _, oci := range ociRuntimes {
		hosts[oci.name] = newHostOf(b, oci.binary)
	}
	times := map[string][]time.Duration{}
	n := 0
	for b.Loop() {
		for name, h := range hosts {
			began := time.Now()
			s := h.serve(b, fmt.Sprint("bench", n), nil)
			warm := time.Now()
			if err := s.Destroy(b.Context()); err != nil {
				b.Fatal(err)
			}
			times[name+"-start"] = append(times[name+"-start"], s.started.Sub(began))
			times[name+"-warm"] = append(times[name+"-warm"], warm.Sub(began))
			times[name+"-destroy"] = append(times[name+"-destroy"], time.Since(warm))
			times[name+"-cpu"] = append(times[name+"-cpu"], h.nothing(b, fmt.Sprint("nothing", n)))
		}
		n++
	}
	for name, all := range times {
		slices.Sort(all)
		b.ReportMetric(float64(all[len(all)/2].Microseconds())/1000, name+"-ms")
	}
}

// nothing starts a container whose program ends at once, removes it, and returns the
// processor time that took.
func (h *host) nothing(b *testing.B, id string) time.Duration {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer ln.Close()
	file, err := ln.(*net.TCPListener).File()
	if err != nil {
		b.Fatal(err)
	}
	defer file.Close()
	before := processorTime(b)
	c, err := h.runc.Start(b.Context(), container.Config{ID: id, RootFS: rootFS(b), Listener: file, Control: file, Args: []string{"/bin/true"}})
	if err != nil {
		b.Fatal(err)
	}
	<-c.Exited()
	if err := c.Destroy(b.Context()); err != nil {
		b.Fatal(err)
	}
	return processorTime(b) - before
}

// processorTime is what this process and those that it has waited for have used.
func processorTime(b *testing.B) (sum time.Duration) {
	for _, who := range []int{unix.RUSAGE_SELF, unix.RUSAGE_CHILDREN} {
		var used unix.Rusage
		if err := unix.Getrusage(who, &used); err != nil {
			b.Fatal(err)
		}
		sum += time.Duration(used.Utime.Nano() + used.Stime.Nano())
	}
	return sum
}

package main

import (
	"math/rand/v2"
	"os"
	"runtime"
	"strings"
	"time"
)

// Machine describes where the figures were measured.
type Machine struct {
	Date   string `json:"date"`
	Cores  int    `json:"cores"`
	CPU    string `json:"cpu"`
	Kernel string `json:"kernel"`
	Go     string `json:"go"`
	// Walk is how long a walk over 512 KiB takes that follows one cache line to
	// the next, right after another, and after a sleep of 50 ms. A cold request
	// is a program that wakes after a while: what the second takes longer is what
	// the machine's caches lose meanwhile.
	WalkMicroseconds           float64 `json:"walkMicroseconds"`
	WalkAfterSleepMicroseconds float64 `json:"walkAfterSleepMicroseconds"`
}

func describeMachine() Machine {
	m := Machine{Date: time.Now().UTC().Format(time.DateOnly), Cores: runtime.NumCPU(), Go: runtime.Version(), CPU: "unknown", Kernel: "unknown"}
	if data, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		m.Kernel = strings.TrimSpace(string(data))
	}
	if data, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(data)) {
			if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
				m.CPU = strings.TrimSpace(value)
				break
			}
		}
	}
	m.WalkMicroseconds, m.WalkAfterSleepMicroseconds = walks()
	return m
}

// walks measures Machine's walks, the median of several.
func walks() (warm, slept float64) {
	path := newPath()
	var warms, sleeps []float64
	for range 11 {
		path.walk()
		warms = append(warms, path.walk())
		time.Sleep(50 * time.Millisecond)
		sleeps = append(sleeps, path.walk())
	}
	return median(warms), median(sleeps)
}

// line is a cache line that names the one to go to from it.
type line struct {
	next uint32
	_    [60]byte
}

// path is one circle through all of its lines, in no order that a processor could
// foresee.
type path []line

func newPath() path {
	p := make(path, 512<<10/64)
	order := rand.Perm(len(p))
	for i, at := range order {
		p[at].next = uint32(order[(i+1)%len(order)])
	}
	return p
}

// walk goes around once. It returns how long that took, in microseconds.
func (p path) walk() float64 {
	begun := time.Now()
	at := uint32(0)
	for range p {
		at = p[at].next
	}
	took := time.Since(begun)
	runtime.KeepAlive(at)
	return float64(took.Nanoseconds()) / 1000
}

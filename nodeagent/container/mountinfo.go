package container

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
)

// mountEntry is what is used here of a line of /proc/self/mountinfo.
type mountEntry struct {
	Root         string // the mounted part of the filesystem
	MountPoint   string
	FSType       string
	SuperOptions string
	Slave        bool // what is mounted on its master appears here
}

func parseMountinfo(line string) (mountEntry, bool) {
	// 36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue
	before, after, ok := strings.Cut(line, " - ")
	if !ok {
		return mountEntry{}, false
	}
	fields, types := strings.Fields(before), strings.Fields(after)
	if len(fields) < 6 || len(types) < 3 {
		return mountEntry{}, false
	}
	return mountEntry{
		Root:         unescapeMountinfo(fields[3]),
		MountPoint:   unescapeMountinfo(fields[4]),
		FSType:       types[0],
		SuperOptions: types[2],
		Slave:        slices.ContainsFunc(fields[6:], func(f string) bool { return strings.HasPrefix(f, "master:") }),
	}, true
}

// unescapeMountinfo undoes the kernel's octal escapes of blanks and backslashes.
func unescapeMountinfo(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// mountsUnder returns the mount points at and below dir, the latest first:
// the order in which they can be unmounted.
func mountsUnder(dir string) ([]string, error) {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("list mounts: %w", err)
	}
	var points []string
	for line := range strings.Lines(string(data)) {
		m, ok := parseMountinfo(line)
		if ok && (m.MountPoint == dir || strings.HasPrefix(m.MountPoint, dir+"/")) {
			points = append(points, m.MountPoint)
		}
	}
	slices.Reverse(points)
	return points, nil
}

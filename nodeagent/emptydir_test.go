package nodeagent

import (
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestEmptyDirSizes(t *testing.T) {
	const mib = 1 << 20
	for name, c := range map[string]struct {
		mounts        []PodMount
		total, memory int64
		want          map[string]int64
		refused       string
	}{
		"none":                            {mounts: []PodMount{{Bundle: "x"}}, memory: 512 * mib, want: map[string]int64{}},
		"without a size":                  {mounts: []PodMount{{EmptyDir: "a"}, {EmptyDir: "b"}}, memory: 512 * mib, want: map[string]int64{".": 256 * mib}},
		"without a size, in little":       {mounts: []PodMount{{EmptyDir: "a"}}, memory: 64 * mib, want: map[string]int64{".": 64 * mib}},
		"with one, at two places":         {mounts: []PodMount{{EmptyDir: "a", EmptyDirBytes: 300 * mib}, {EmptyDir: "a", EmptyDirBytes: 300 * mib}}, memory: 512 * mib, want: map[string]int64{"a": 300 * mib}},
		"both":                            {mounts: []PodMount{{EmptyDir: "a", EmptyDirBytes: 300 * mib}, {EmptyDir: "b"}}, memory: 512 * mib, want: map[string]int64{"a": 300 * mib, ".": 212 * mib}},
		"ephemeral storage":               {mounts: []PodMount{{EmptyDir: "a", EmptyDirBytes: 10 * mib}, {EmptyDir: "b"}}, total: 30 * mib, memory: 512 * mib, want: map[string]int64{"a": 10 * mib, ".": 20 * mib}},
		"ephemeral storage beyond memory": {mounts: []PodMount{{EmptyDir: "b"}}, total: 4096 * mib, memory: 512 * mib, want: map[string]int64{".": 512 * mib}},
		"more than ephemeral storage":     {mounts: []PodMount{{EmptyDir: "a", EmptyDirBytes: 31 * mib}}, total: 30 * mib, memory: 512 * mib, refused: "more than the 30 MiB of the pod's limit of ephemeral-storage"},
		"more than memory":                {mounts: []PodMount{{EmptyDir: "a", EmptyDirBytes: 500 * mib}, {EmptyDir: "b", EmptyDirBytes: 13 * mib}}, memory: 512 * mib, refused: "more than the 512 MiB of the pod's memory limit"},
		"nothing left to share":           {mounts: []PodMount{{EmptyDir: "a", EmptyDirBytes: 30 * mib}, {EmptyDir: "b"}}, total: 30 * mib, memory: 512 * mib, refused: "would have nothing"},
		"beyond all numbers":              {mounts: []PodMount{{EmptyDir: "a", EmptyDirBytes: math.MaxInt64}, {EmptyDir: "b", EmptyDirBytes: math.MaxInt64}}, memory: 512 * mib, refused: "together more than the 512 MiB"},
	} {
		got, err := emptyDirSizes(c.mounts, c.total, c.memory)
		if c.refused != "" {
			if err == nil || !strings.Contains(err.Error(), c.refused) {
				t.Errorf("%s: %v, want an error with %q", name, err, c.refused)
			}
			continue
		}
		if diff := cmp.Diff(c.want, got); err != nil || diff != "" {
			t.Errorf("%s: %v (-want +got):\n%s", name, err, diff)
		}
	}
}

package container

import (
	"os"
	"testing"
)

func TestParseChild(t *testing.T) {
	status := []byte("Name:\tx\nState:\tZ (zombie)\nUid:\t1879113726\t0\t0\t0\nGid:\t0\t0\t0\t0\n")
	for name, tc := range map[string]struct {
		stat string
		want child
	}{
		"a zombie":                   {"7 (crun) Z 1 6 5 0 -1", child{pid: 7, group: 6, session: 5, zombie: true, uid: 1879113726}},
		"a name that looks like one": {"7 (a) Z 1 2 3) S 1 7 7 0 -1", child{pid: 7, group: 7, session: 7, uid: 1879113726}},
	} {
		if got, err := parseChild(7, []byte(tc.stat), status); err != nil || got != tc.want {
			t.Errorf("%s: %+v, %v; want %+v", name, got, err, tc.want)
		}
	}
	for name, tc := range map[string][2]string{
		"no name":      {"7 crun Z 1 6 5", string(status)},
		"cut off":      {"7 (crun) Z 1", string(status)},
		"no number":    {"7 (crun) Z 1 x 5 0", string(status)},
		"no user id":   {"7 (crun) Z 1 6 5 0", "Name:\tx\n"},
		"huge user id": {"7 (crun) Z 1 6 5 0", "Uid:\t99999999999\t0\n"},
	} {
		if got, err := parseChild(7, []byte(tc[0]), []byte(tc[1])); err == nil {
			t.Errorf("%s: %+v without an error", name, got)
		}
	}
}

func TestReadChildrenSkipsWhatIsNone(t *testing.T) {
	_, children, err := readChildren()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range children {
		if c.pid == os.Getpid() || c.pid == os.Getppid() {
			t.Errorf("%d is no child", c.pid)
		}
	}
}

package logs

import (
	"strings"
	"testing"
)

// TestEmptyLinesAreTakenInBitByBit: a record is many times as long as the line feed
// that makes it.
func TestEmptyLinesAreTakenInBitByBit(t *testing.T) {
	var to countingSink
	l := NewLines(func([]byte) {}, func(string) {})
	l.begin(&to)
	l.Raw(Stdout, []byte(strings.Repeat("\n", maxPayload)))
	if to.records != maxPayload || to.longest > waitAllBytes+maxRecord || cap(l.records) > 2*waitAllBytes {
		t.Errorf("%d records, %d bytes at once at most, %d kept; want %d, about %d", to.records, to.longest, cap(l.records), maxPayload, waitAllBytes)
	}
}

type countingSink struct{ records, longest int }

func (s *countingSink) append(b batch) {
	s.records += strings.Count(string(b.records), "\n")
	s.longest = max(s.longest, len(b.records))
}

func (*countingSink) rest() {}

func TestNegativeBoundsAreNone(t *testing.T) {
	s := open(t, t.TempDir(), nil)
	l := pod(s)
	defer l.Close()
	lines := container(l)
	write(lines, "one", "two")
	lines.End()
	less := int64(-1)
	for what, opts := range map[string]ReadOptions{"limit": {Limit: &less}, "tail": {Tail: &less}} {
		if got := read(t, l, opts); got != "" {
			t.Errorf("with a negative %s: %q", what, got)
		}
	}
}

// TestTheLongestNames: those that Kubernetes allows are more than a file's name
// holds.
func TestTheLongestNames(t *testing.T) {
	dir := t.TempDir()
	namespace, name := strings.Repeat("n", 63), strings.Repeat("p", 253)
	for _, uid := range []string{"3f1f0c5e-0000-4000-8000-000000000001", strings.Repeat("u", 128)} {
		s := open(t, dir, nil)
		l := s.Pod(namespace, name, uid)
		lines := container(l)
		write(lines, "hello")
		lines.End()
		l.Close()
		if s.Lost() != 0 {
			t.Errorf("with a UID of %d bytes the log is lost", len(uid))
		}
		again := open(t, dir, nil).Pod(namespace, name, uid)
		if got := read(t, again, ReadOptions{}); got != "hello\n" {
			t.Errorf("with a UID of %d bytes the next process reads %q", len(uid), got)
		}
	}
}

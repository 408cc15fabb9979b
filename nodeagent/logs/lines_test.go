package logs

import (
	"encoding/binary"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// frame is one frame as the worker makes it.
func frame(stream Stream, request uint32, id, payload string) string {
	b := []byte{frameMark, byte(stream), byte(len(id)), 0}
	b = binary.LittleEndian.AppendUint32(b, request)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(payload)))
	return string(b) + id + payload
}

// memory is a sink that keeps records, without their times.
type memory struct {
	all  strings.Builder
	open *unfinished
	// broken counts lines that another came into.
	broken int
	rested bool
}

func (m *memory) append(b batch) {
	if m.open != nil && m.open != b.of {
		m.broken++
	}
	m.open = b.by
	m.all.Write(b.records)
}

func (m *memory) rest() { m.rested = true }

func newLines(to sink, report func(string)) *Lines {
	l := NewLines(func([]byte) {}, report)
	l.begin(to)
	return l
}

// records are what was appended: stream, tag and text of each.
func (m *memory) records(t *testing.T) []string {
	t.Helper()
	all := []string{}
	for line := range strings.Lines(m.all.String()) {
		if _, ok := parseRecord([]byte(line)); !ok {
			t.Fatalf("no record: %q", line)
		}
		if _, err := time.Parse(time.RFC3339Nano, line[:streamAt-1]); err != nil {
			t.Fatal(err)
		}
		all = append(all, strings.TrimSuffix(line[streamAt:], "\n"))
	}
	return all
}

func TestFramesBecomeRecords(t *testing.T) {
	long := strings.Repeat("0123456789abcdef", recordBytes/16)
	for name, c := range map[string]struct {
		in   string
		want []string
	}{
		"lines":           {frame(Stdout, 0, "", "a\nb\n") + frame(Stderr, 1, "r1", "c\n"), []string{"stdout F a", "stdout F b", "stderr F:req=r1 c"}},
		"pieces":          {frame(Stdout, 1, "r", "a") + frame(Stdout, 1, "r", "b") + frame(Stdout, 1, "r", "c\nd\n"), []string{"stdout F:req=r abc", "stdout F:req=r d"}},
		"requests":        {frame(Stdout, 1, "x", "a") + frame(Stdout, 2, "x", "b") + frame(Stderr, 1, "x", "c") + frame(Stdout, 2, "x", "2\n") + frame(Stdout, 1, "x", "1\n") + frame(Stderr, 1, "x", "3\n"), []string{"stdout F:req=x b2", "stdout F:req=x a1", "stderr F:req=x c3"}},
		"no line feed":    {frame(Stdout, 0, "", "end"), []string{"stdout F end"}},
		"empty lines":     {frame(Stdout, 0, "", "\n\n"), []string{"stdout F ", "stdout F "}},
		"empty frame":     {frame(Stdout, 0, "", "") + frame(Stdout, 0, "", "a\n"), []string{"stdout F a"}},
		"long":            {frame(Stdout, 0, "", long+"x\n"), []string{"stdout P " + long, "stdout F x"}},
		"exactly long":    {frame(Stdout, 0, "", long+"\n"), []string{"stdout F " + long}},
		"an evil id":      {frame(Stdout, 1, "a b\nc\xff", "t\n"), []string{"stdout F:req=a_b_c_ t"}},
		"garbage":         {frame(Stdout, 0, "", "a\n") + "what is this\n" + frame(Stdout, 0, "", "b\n"), []string{"stdout F a", "stdout F what is this", "stdout F " + strings.TrimSuffix(frame(Stdout, 0, "", "b\n"), "\n")}},
		"half a frame":    {frame(Stdout, 0, "", "a\nb")[:14], []string{"stdout F a"}},
		"a bad stream":    {"\x1e\x07\x00\x00" + "12345678\n", []string{"stdout F \x1e\x07\x00\x0012345678"}},
		"too long an id":  {"\x1e\x01\xff\x00" + "12345678\n", []string{"stdout F \x1e\x01\xff\x0012345678"}},
		"too much":        {"\x1e\x01\x00\x00" + "\x00\x00\x00\x00\xff\xff\xff\xff\n", []string{"stdout F \x1e\x01\x00\x00\x00\x00\x00\x00\xff\xff\xff\xff"}},
		"carriage return": {frame(Stdout, 0, "", "a\r\n"), []string{"stdout F a\r"}},
	} {
		t.Run(name, func(t *testing.T) {
			// However the pipe cuts it, it is the same.
			for _, size := range []int{1, 2, 7, 1 << 20} {
				m := &memory{}
				l := newLines(m, func(s string) { t.Errorf("reported %q", s) })
				for in := c.in; in != ""; {
					n := min(size, len(in))
					l.Framed([]byte(in[:n]))
					in = in[n:]
				}
				l.End()
				if diff := cmp.Diff(c.want, m.records(t)); diff != "" {
					t.Errorf("in pieces of %d (-want +got):\n%s", size, diff)
				}
				if !m.rested || len(l.waiting) > 0 || l.size != 0 {
					t.Errorf("after the end %d lines of %d bytes wait; rested %v", len(l.waiting), l.size, m.rested)
				}
			}
		})
	}
}

func TestRawOutputMixesWithNobody(t *testing.T) {
	m := &memory{}
	l := newLines(m, nil)
	l.Raw(Stdout, []byte("native "))
	l.Framed([]byte(frame(Stdout, 0, "", "module\n")))
	l.Raw(Stderr, []byte("error\n"))
	l.Raw(Stdout, []byte("code\n"))
	if diff := cmp.Diff([]string{"stdout F module", "stderr F error", "stdout F native code"}, m.records(t)); diff != "" {
		t.Error(diff)
	}
}

func TestTheWorkersWordsAreNotInTheLog(t *testing.T) {
	m := &memory{}
	var told []string
	l := newLines(m, func(s string) { told = append(told, s) })
	l.Framed([]byte(frame(worker, 0, "", "one\ntw") + frame(worker, 0, "", "o\n\n"+strings.Repeat("x", 3*maxWord)+"\nthree")))
	l.End()
	if diff := cmp.Diff([]string{"one", "two", strings.Repeat("x", maxWord), "three"}, told); diff != "" {
		t.Error(diff)
	}
	if got := m.records(t); len(got) > 0 {
		t.Errorf("in the log: %q", got)
	}
}

// What is written at once is one line, however long, whatever others write before
// and after.
func TestMegabyteLinesAreWhole(t *testing.T) {
	m := &memory{}
	l := newLines(m, nil)
	want := strings.Repeat("a megabyte ", 300_000)
	l.Framed([]byte(frame(Stdout, 2, "", "begun ")))
	for rest := want + "\n"; rest != ""; {
		n := min(len(rest), maxPayload)
		l.Framed([]byte(frame(Stdout, 1, "r", rest[:n])))
		rest = rest[n:]
	}
	l.Framed([]byte(frame(Stdout, 2, "", "done\n")))
	var got strings.Builder
	records := m.records(t)
	for i, r := range records[:len(records)-1] {
		tag, text, _ := strings.Cut(strings.TrimPrefix(r, "stdout "), " ")
		if want := map[bool]string{true: "F:req=r", false: "P:req=r"}[i == len(records)-2]; tag != want || len(text) > recordBytes {
			t.Fatalf("record %d has tag %q and %d bytes, want tag %q", i, tag, len(text), want)
		}
		got.WriteString(text)
	}
	if got.String() != want || m.broken != 0 {
		t.Errorf("the line has %d bytes of %d, broken %d times", got.Len(), len(want), m.broken)
	}
	if records[len(records)-1] != "stdout F begun done" {
		t.Errorf("the other line is %q", records[len(records)-1])
	}
}

// Whatever a container writes, what waits for its end stays bounded, and no byte
// is lost.
func TestUnfinishedLinesAreBounded(t *testing.T) {
	m := &memory{}
	l := newLines(m, func(string) {})
	rng := rand.New(rand.NewPCG(1, 2))
	written := 0
	for range 20_000 {
		text := strings.Repeat("x", rng.IntN(2000))
		written += len(text)
		l.Framed([]byte(frame(Stream(1+rng.IntN(2)), rng.Uint32N(1000), "id", text)))
		if l.size > waitAllBytes || len(l.waiting) > waitLines || len(l.order) != len(l.waiting) {
			t.Fatalf("%d lines of %d bytes wait", len(l.waiting), l.size)
		}
	}
	l.End()
	for _, r := range m.records(t) {
		written -= strings.Count(r, "x")
	}
	if written != 0 {
		t.Errorf("%d bytes are missing", written)
	}
}

func FuzzFrames(f *testing.F) {
	f.Add([]byte(frame(Stdout, 1, "r", "a\nb")+frame(worker, 0, "", "c\n")), 3)
	f.Fuzz(func(t *testing.T, in []byte, size int) {
		m := &memory{}
		l := newLines(m, func(string) {})
		for size = max(1, size); len(in) > 0; {
			n := min(size, len(in))
			l.Framed(in[:n])
			in = in[n:]
		}
		l.End()
		m.records(t)
	})
}

// The kubelet's parser takes the time, the stream and the tag before a colon; all
// fields are divided by single spaces.
func TestRecordsAreOfTheKubeletsFormat(t *testing.T) {
	at := time.Date(2026, 11, 22, 10, 0, 0, 5000, time.FixedZone("", 3600))
	got := string(appendRecord(nil, at, Stderr, 'P', "abc", []byte("text with spaces")))
	if want := "2026-11-22T09:00:00.000005000Z stderr P:req=abc text with spaces\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	for _, bad := range []string{"", "\n", "garbage\n", got[:len(got)-1], strings.Replace(got, "stderr", "stdxxx", 1), strings.Replace(got, " P", " Q", 1), got[:tagAt+1] + "\n"} {
		if _, ok := parseRecord([]byte(bad)); ok {
			t.Errorf("taken for a record: %q", bad)
		}
	}
	if len(got)-len("text with spaces") > maxRecord-recordBytes {
		t.Errorf("maxRecord %d is too small", maxRecord)
	}
}

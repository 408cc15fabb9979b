package logs

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t *testing.T, dir string, adapt func(*Options)) *Store {
	t.Helper()
	opts := Options{Dir: dir, Log: slog.New(slog.NewTextHandler(t.Output(), nil))}
	if adapt != nil {
		adapt(&opts)
	}
	s, err := Open(opts)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func pod(s *Store) *Log { return s.Pod("default", "hello", "uid-1") }

// container is a further container of the log's pod.
func container(l *Log) *Lines {
	c := NewLines(func([]byte) {}, func(string) {})
	l.Begin(c)
	return c
}

// write writes one line for each word.
func write(l *Lines, words ...string) {
	for _, w := range words {
		l.Framed([]byte(frame(Stdout, 0, "", w+"\n")))
	}
}

func read(t *testing.T, l *Log, opts ReadOptions) string {
	t.Helper()
	r, err := l.Read(opts)
	if err != nil {
		return err.Error()
	}
	var all strings.Builder
	if err := r.Run(t.Context(), func(b []byte) error { all.Write(b); return nil }); err != nil {
		t.Fatal(err)
	}
	return all.String()
}

func words(from, to int) (all []string) {
	for i := from; i < to; i++ {
		all = append(all, fmt.Sprintf("line-%04d", i))
	}
	return all
}

func text(from, to int) string {
	if from == to {
		return ""
	}
	return strings.Join(words(from, to), "\n") + "\n"
}

func TestReadOptions(t *testing.T) {
	// Files so small that every reading goes over several.
	l := pod(open(t, t.TempDir(), func(o *Options) { o.MaxFileBytes, o.MaxFiles = 1000, 1000 }))
	c := container(l)
	clock := time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
	c.now = func() time.Time { clock = clock.Add(time.Second); return clock }
	write(c, words(0, 100)...)
	if files := l.runs[0].files; len(files) < 4 {
		t.Fatalf("only %d files", len(files))
	}
	p := func(n int64) *int64 { return &n }
	for name, c := range map[string]struct {
		opts ReadOptions
		want string
	}{
		"all":                  {ReadOptions{}, text(0, 100)},
		"tail":                 {ReadOptions{Tail: p(3)}, text(97, 100)},
		"tail of all":          {ReadOptions{Tail: p(100)}, text(0, 100)},
		"tail of more":         {ReadOptions{Tail: p(1000)}, text(0, 100)},
		"tail of none":         {ReadOptions{Tail: p(0)}, ""},
		"tail over files":      {ReadOptions{Tail: p(50)}, text(50, 100)},
		"limit":                {ReadOptions{Limit: p(13)}, "line-0000\nlin"},
		"limit of a whole":     {ReadOptions{Limit: p(10)}, "line-0000\n"},
		"limit of more":        {ReadOptions{Limit: p(1 << 40)}, text(0, 100)},
		"since":                {ReadOptions{Since: clock.Add(-2 * time.Second)}, text(97, 100)},
		"since the end":        {ReadOptions{Since: clock.Add(time.Nanosecond)}, ""},
		"tail, since":          {ReadOptions{Tail: p(5), Since: clock.Add(-2 * time.Second)}, text(97, 100)},
		"since, tail":          {ReadOptions{Tail: p(2), Since: clock.Add(-50 * time.Second)}, text(98, 100)},
		"timestamps":           {ReadOptions{Tail: p(1), Timestamps: true}, "2026-11-22T10:01:40.000000000Z line-0099\n"},
		"timestamps and limit": {ReadOptions{Tail: p(2), Timestamps: true, Limit: p(35)}, "2026-11-22T10:01:39.000000000Z line"},
		"stderr":               {ReadOptions{Stream: Stderr}, ""},
		"stdout":               {ReadOptions{Stream: Stdout, Limit: p(10)}, "line-0000\n"},
		"previous":             {ReadOptions{Previous: true}, ErrNoPrevious.Error()},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, read(t, l, c.opts)); diff != "" {
				t.Error(diff)
			}
		})
	}
	for n := range int64(101) {
		if got := read(t, l, ReadOptions{Tail: &n}); got != text(100-int(n), 100) {
			t.Fatalf("the last %d lines are %q", n, got)
		}
	}
}

func TestLongLinesCountAsOne(t *testing.T) {
	l := pod(open(t, t.TempDir(), func(o *Options) { o.MaxFileBytes = 100_000 }))
	c := container(l)
	long := strings.Repeat("0123456789", 20_000)
	write(c, "before")
	c.Raw(Stdout, []byte(long+"\n"))
	write(c, "after")
	n := int64(2)
	if got := read(t, l, ReadOptions{Tail: &n}); got != long+"\nafter\n" {
		t.Errorf("%d bytes", len(got))
	}
	if got := read(t, l, ReadOptions{Timestamps: true}); strings.Count(got, "Z ") != 3 {
		t.Errorf("a long line has more than one time: %d in all", strings.Count(got, "Z "))
	}
}

// Another line that comes into a long one that is not finished breaks it, and
// joins with nothing.
func TestABrokenLineJoinsWithNothing(t *testing.T) {
	l := pod(open(t, t.TempDir(), nil))
	a, b := container(l), container(l)
	long := strings.Repeat("x", 2*waitBytes)
	a.Raw(Stdout, []byte(long))
	write(b, "of another container")
	a.Raw(Stdout, []byte("rest\n"))
	got := read(t, l, ReadOptions{})
	if !strings.Contains(got, "x\nof another container\nx") && !strings.Contains(got, "x\nof another container\nrest\n") {
		t.Errorf("%q", strings.ReplaceAll(got, "xxxxxxxx", ""))
	}
	if strings.Count(got, "x") != len(long) || !strings.HasSuffix(got, "rest\n") {
		t.Error("something is missing")
	}
}

func TestOldFilesGo(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, func(o *Options) { o.MaxFileBytes, o.MaxFiles = 1000, 3 })
	l := pod(s)
	write(container(l), words(0, 500)...)
	got := read(t, l, ReadOptions{})
	if !strings.HasSuffix(text(0, 500), got) || len(got) < 300 || len(got) > 1000 {
		t.Errorf("%d bytes are left: %q", len(got), got)
	}
	if files := filesIn(t, dir); len(files) != 3 || s.Used() > 3000 {
		t.Errorf("%d files, %d bytes counted", len(files), s.Used())
	}
}

func filesIn(t *testing.T, dir string) (files []string) {
	t.Helper()
	if err := filepath.WalkDir(dir, func(name string, e os.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			files = append(files, name)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return files
}

func sizeOf(t *testing.T, files []string) (size int64) {
	t.Helper()
	for _, f := range files {
		info, err := os.Stat(f)
		if err != nil {
			t.Fatal(err)
		}
		size += info.Size()
	}
	return size
}

// The greatest log pays when all together are too much.
func TestTheBudgetHolds(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, func(o *Options) { o.MaxFileBytes, o.MaxFiles, o.Budget = 1000, 100, 10_000 })
	small := s.Pod("default", "small", "uid-s")
	write(container(small), "small")
	var writers sync.WaitGroup
	for i := range 4 {
		c := container(s.Pod("default", fmt.Sprint("hog-", i), fmt.Sprint("uid-", i)))
		writers.Go(func() { write(c, words(0, 1000)...) })
	}
	writers.Wait()
	if got := read(t, small, ReadOptions{}); got != "small\n" {
		t.Errorf("the small log is %q", got)
	}
	if size := sizeOf(t, filesIn(t, dir)); size > 11_000 || size != s.Used() {
		t.Errorf("%d bytes on the disk, %d counted", size, s.Used())
	}
	for i := range 4 {
		if err := s.Pod("default", fmt.Sprint("hog-", i), fmt.Sprint("uid-", i)).release(); err {
			t.Error("two uses, and one ended both")
		}
	}
}

func TestPreviousIsTheRunBeforeTheLastCrash(t *testing.T) {
	dir := t.TempDir()
	l := pod(open(t, dir, nil))
	early := follow(t.Context(), t, l, ReadOptions{}) // before the first container
	if got := read(t, l, ReadOptions{}); got != "" {
		t.Errorf("before the first container: %q", got)
	}
	expect := func(present, previous string) {
		t.Helper()
		if got := [2]string{read(t, l, ReadOptions{}), read(t, l, ReadOptions{Previous: true})}; got != [2]string{present, previous} {
			t.Errorf("log %q and previous %q, want %q and %q", got[0], got[1], present, previous)
		}
	}
	first := container(l)
	write(first, "first")
	early.until(t, "first\n")
	first.End()
	second := container(l) // after parking
	write(second, "second")
	expect("first\nsecond\n", ErrNoPrevious.Error())
	second.End()
	l.Crashed(second)
	early.until(t, "first\nsecond\n")
	if err := <-early.done; err != nil {
		t.Error(err)
	}
	// Until the next container, that is all there is.
	expect("first\nsecond\n", "first\nsecond\n")
	l = pod(open(t, dir, nil)) // also for another process
	expect("first\nsecond\n", "first\nsecond\n")
	third := container(l)
	expect("", "first\nsecond\n")
	write(third, "third")
	expect("third\n", "first\nsecond\n")
	l.Crashed(first) // long gone
	expect("third\n", "first\nsecond\n")
	third.End()
	l.Crashed(third)
	fourth := container(l)
	write(fourth, "fourth")
	write(container(l), "fifth")
	l.Crashed(fourth) // while another one writes
	expect("fourth\nfifth\n", "third\n")
	if files := filesIn(t, dir); len(files) != 2 {
		t.Errorf("files of runs that nobody can read: %q", files)
	}
}

func TestAnotherProcessGoesOn(t *testing.T) {
	dir := t.TempDir()
	l := pod(open(t, dir, nil))
	c := container(l)
	write(c, "whole")
	c.Raw(Stdout, []byte(strings.Repeat("x", waitBytes))) // its end never comes
	// Killed while it wrote.
	name := filesIn(t, dir)[0]
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString("2026-11-22T10:00:00.000000000Z stdout F half of a rec"); err != nil {
		t.Fatal(err)
	}
	f.Close()

	s := open(t, dir, nil)
	if s.Used() != sizeOf(t, []string{name}) {
		t.Errorf("%d bytes counted, %d there", s.Used(), sizeOf(t, []string{name}))
	}
	l = pod(s)
	write(container(l), "again")
	got := read(t, l, ReadOptions{})
	if !strings.HasPrefix(got, "whole\nxxx") || !strings.HasSuffix(got, "x\nagain\n") {
		t.Errorf("%q", strings.ReplaceAll(got, "xxxxxxxx", ""))
	}
	if s.Used() != sizeOf(t, []string{name}) {
		t.Errorf("%d bytes counted, %d there", s.Used(), sizeOf(t, []string{name}))
	}
}

func TestRemoving(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, nil)
	l := pod(s)
	c := container(l)
	write(c, "one")
	again := pod(s) // the pod has come back before it went
	if again != l {
		t.Fatal("two logs of one pod")
	}
	if err := l.Remove(); err != nil {
		t.Fatal(err)
	}
	if got := read(t, again, ReadOptions{}); got != "one\n" {
		t.Errorf("after one of two uses: %q", got)
	}
	if err := again.Remove(); err != nil {
		t.Fatal(err)
	}
	write(c, "too late")
	c.End()
	if files := filesIn(t, dir); len(files) > 0 || s.Used() != 0 {
		t.Errorf("left: %q, %d bytes counted", files, s.Used())
	}

	write(container(pod(s)), "a new one")
	write(container(s.Pod("default", "other", "uid-2")), "kept")
	s = open(t, dir, nil)
	s.Pod("default", "other", "uid-2")
	if err := s.RemoveUnused(); err != nil {
		t.Fatal(err)
	}
	if files := filesIn(t, dir); len(files) != 1 || !strings.Contains(files[0], "other") {
		t.Errorf("left: %q", files)
	}
}

// A log that cannot be written holds up nobody.
func TestADiskThatRefusesLosesLinesAndNothingElse(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, nil)
	l := pod(s)
	if err := os.WriteFile(l.dir, nil, 0o600); err != nil { // a file where its folder should be
		t.Fatal(err)
	}
	c := container(l)
	write(c, "lost", "lost, too")
	if s.Lost() != 2 {
		t.Errorf("%d writes are counted as lost, want 2", s.Lost())
	}
	if err := os.Remove(l.dir); err != nil {
		t.Fatal(err)
	}
	write(c, "found")
	if got := read(t, l, ReadOptions{}); got != "found\n" {
		t.Errorf("%q", got)
	}
}

func TestOptionsAreChecked(t *testing.T) {
	for _, o := range []Options{{Dir: "relative"}, {Dir: t.TempDir(), MaxFiles: 1}, {Dir: t.TempDir(), MaxFileBytes: 100, Budget: 99}} {
		if _, err := Open(o); err == nil {
			t.Errorf("%+v is taken", o)
		}
	}
}

// A disk that hangs while the lines of one pod are written holds up that pod's
// containers, and nobody else: not other pods, even when the budget makes them
// take from the greatest log, nor readers, nor the pod's own life.
func TestADiskThatHangsHoldsUpItsWriterAlone(t *testing.T) {
	s := open(t, t.TempDir(), func(o *Options) { o.MaxFileBytes, o.Budget = 1000, 5000 })
	stuck := pod(s)
	c := container(stuck)
	write(c, words(0, 90)...)
	size := stuck.size()
	before := read(t, stuck, ReadOptions{})
	r := stuck.runs[0]
	r.writing.Lock() // as during a write
	writes := make(chan struct{})
	go func() {
		defer close(writes)
		write(c, "held up")
		c.End()
	}()
	if got := read(t, stuck, ReadOptions{}); got != before {
		t.Errorf("read meanwhile: %d bytes of %d", len(got), len(before))
	}
	other := s.Pod("default", "other", "uid-2")
	write(container(other), words(0, 100)...)
	if got := read(t, other, ReadOptions{}); !strings.HasSuffix(text(0, 100), got) || got == "" {
		t.Errorf("another pod's log is %q", got)
	}
	if s.Used() > 6000 || stuck.size() >= size {
		t.Errorf("%d bytes in all, %d of them of the pod that hangs", s.Used(), stuck.size())
	}
	further := container(stuck)
	stuck.Crashed(further)
	write(container(stuck), "of the next run")
	if got := read(t, stuck, ReadOptions{}); got != "of the next run\n" {
		t.Errorf("of the next run: %q", got)
	}
	if err := stuck.Remove(); err != nil {
		t.Error(err)
	}
	select {
	case <-writes:
		t.Error("nothing was held up")
	default:
	}
	r.writing.Unlock()
	<-writes
}

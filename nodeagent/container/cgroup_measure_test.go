package container

import (
	"testing"
	"time"
)

func TestParseCPUTime(t *testing.T) {
	for _, c := range []struct {
		v2    bool
		text  string
		want  time.Duration
		fails bool
	}{
		{text: "2053573443741\n", want: 2053573443741},
		{text: "usage_usec 7\n", fails: true},
		{v2: true, text: "usage_usec 7\nuser_usec 5\nsystem_usec 2\n", want: 7 * time.Microsecond},
		{v2: true, text: "user_usec 5\nusage_usec 12\n", want: 12 * time.Microsecond},
		{v2: true, text: "user_usec 5\n", fails: true},
		{v2: true, text: "usage_usec many\n", fails: true},
	} {
		if got, err := parseCPUTime(c.v2, c.text); got != c.want || (err != nil) != c.fails {
			t.Errorf("parseCPUTime(%v, %q) = %v, %v; want %v, failure %v", c.v2, c.text, got, err, c.want, c.fails)
		}
	}
}

func TestParseWorkingSet(t *testing.T) {
	for _, c := range []struct {
		usage, stat, prefix string
		want                int64
		fails               bool
	}{
		{usage: "1000\n", stat: "anon 500\ninactive_file 100\nactive_file 200\n", want: 900},
		{usage: "1000\n", stat: "inactive_file 1\ntotal_inactive_file 100\n", prefix: "total_", want: 900},
		{usage: "10\n", stat: "inactive_file 100\n", want: 0},
		{usage: "max\n", stat: "inactive_file 100\n", fails: true},
		{usage: "10\n", fails: true},
	} {
		if got, err := parseWorkingSet(c.usage, c.stat, c.prefix); got != c.want || (err != nil) != c.fails {
			t.Errorf("parseWorkingSet(%q, %q, %q) = %d, %v; want %d, failure %v", c.usage, c.stat, c.prefix, got, err, c.want, c.fails)
		}
	}
}

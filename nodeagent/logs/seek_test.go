package logs

import (
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// pieces are what a decoder makes of bytes, in parts of at most so many.
func pieces(d *decoder, in string, part int) (all []string) {
	for len(in) > 0 {
		n := min(part, len(in))
		d.feed([]byte(in[:n]), func(from origin, id string, data []byte) {
			kind := from.stream.String() + " " + id
			if from.raw {
				kind = "raw"
			}
			all = append(all, kind+": "+string(data))
		})
		in = in[n:]
	}
	return all
}

// joined puts pieces of one origin that follow each other together.
func joined(pieces []string) (all []string) {
	for _, p := range pieces {
		kind, text, _ := strings.Cut(p, ": ")
		if n := len(all); n > 0 && strings.HasPrefix(all[n-1], kind+": ") {
			all[n-1] += text
		} else {
			all = append(all, p)
		}
	}
	return all
}

// TestWhoeverJoinsFindsTheNextFrame cuts the beginning off a sequence of frames:
// what is left of a frame is plain output, and all that follow are frames.
func TestWhoeverJoinsFindsTheNextFrame(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringMatching(`[a-z0-9\n]{0,40}`)
		ids := rapid.SampledFrom([]string{"", "r1", "r2", "0123456789"})
		streams := rapid.SampledFrom([]Stream{Stdout, Stderr})
		var all string
		var starts []int
		var want []string
		for range rapid.IntRange(1, 6).Draw(t, "frames") {
			starts = append(starts, len(all))
			stream, id, payload := streams.Draw(t, "stream"), ids.Draw(t, "id"), text.Draw(t, "payload")
			all += frame(stream, 1, id, payload)
			want = append(want, stream.String()+" "+id+": "+payload)
		}
		cut := rapid.IntRange(0, len(all)).Draw(t, "cut")
		first, whole := slices.BinarySearch(starts, cut)
		d := &decoder{seeking: &seeker{}}
		got := joined(pieces(d, all[cut:], rapid.IntRange(1, 50).Draw(t, "part")))
		// Of the cut frame there may be a rest, as plain output.
		if !whole && len(got) > 0 && strings.HasPrefix(got[0], "raw: ") {
			end := len(all)
			if first < len(starts) {
				end = starts[first]
			}
			if rest := strings.TrimPrefix(got[0], "raw: "); rest != all[cut:end] {
				t.Fatalf("the rest of a frame: %q, want %q", rest, all[cut:end])
			}
			got = got[1:]
		}
		var expected []string
		for _, w := range want[first:] {
			if !strings.HasSuffix(w, ": ") { // empty ones make no piece
				expected = append(expected, w)
			}
		}
		if expected = joined(expected); !slices.Equal(got, expected) {
			t.Fatalf("cut at %d of %q: got %q, want %q", cut, all, got, expected)
		}
	})
}

func TestWhatLooksLikeAHeadDoesNotEndTheSearch(t *testing.T) {
	// The rest of a payload is, by chance or malice, a head that promises much.
	rest := "tail \x1e\x01\x00\x00\x00\x00\x00\x00\x05\x00\x00\x00"
	d := &decoder{seeking: &seeker{}}
	in := rest + frame(Stdout, 1, "lost", "12345") + frame(Stdout, 1, "a", "first\n") + frame(Stderr, 1, "b", "second\n") + frame(Stdout, 1, "c", "third\n")
	got := joined(pieces(d, in, 7))
	want := []string{"stdout a: first\n", "stderr b: second\n", "stdout c: third\n"}
	if len(got) < 3 || !slices.Equal(got[len(got)-3:], want) {
		t.Errorf("got %q, want it to end with %q", got, want)
	}
	if d.seeking != nil || d.broken {
		t.Errorf("after frames that follow each other: %+v", d)
	}
	got = joined(pieces(d, "garbage"+frame(Stdout, 1, "d", "x"), 100))
	if len(got) != 1 || !strings.HasPrefix(got[0], "raw: garbage") {
		t.Errorf("what is no frame later: %q", got)
	}
}

func TestGarbageAloneIsPlainOutput(t *testing.T) {
	d := &decoder{seeking: &seeker{}}
	in := strings.Repeat("no frame \x1e\x01 at all\n", 100)
	if got := joined(pieces(d, in, 33)); len(got) != 1 || got[0] != "raw: "+in {
		t.Errorf("got %q", got)
	}
}

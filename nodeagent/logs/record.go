package logs

import "time"

// A record is one line of a log file: the time, the stream, tags and up to
// recordBytes of text, divided by single spaces. The first tag is F for the end of
// a line and P for a part that goes on in the next record. The request's id
// follows as a tag of its own, "F:req=id", which readers of the format skip.
//
// The time has a fixed width and both streams' names have the same length, so all
// fields but the last are where they are in every record.
const (
	timeLayout = "2006-01-02T15:04:05.000000000Z"
	streamAt   = len(timeLayout) + 1
	tagAt      = streamAt + len("stdout ")
	idTag      = ":req="
	// maxRecord bounds a record with everything in it.
	maxRecord = tagAt + 1 + len(idTag) + maxID + 1 + recordBytes + 1
)

func appendRecord(b []byte, at time.Time, stream Stream, tag byte, id string, text []byte) []byte {
	b = at.UTC().AppendFormat(b, timeLayout)
	b = append(b, ' ')
	b = append(b, stream.String()...)
	b = append(b, ' ', tag)
	if id != "" {
		b = append(b, idTag...)
		b = append(b, id...)
	}
	b = append(b, ' ')
	b = append(b, text...)
	return append(b, '\n')
}

// record is a record taken apart.
type record struct {
	// time is the first field as it is: fields of this layout compare as their
	// times do.
	time   []byte
	stream Stream
	// partial: the line goes on in the next record.
	partial bool
	// text ends with a line feed, unless partial.
	text []byte
}

// parseRecord takes a line of a log file, with its line feed, apart. False: it is
// none, for example the rest of one that was being written when the machine
// stopped.
func parseRecord(line []byte) (r record, ok bool) {
	if len(line) < tagAt+3 || line[len(line)-1] != '\n' || line[streamAt-1] != ' ' || line[tagAt-1] != ' ' || line[streamAt-2] != 'Z' {
		return r, false
	}
	switch string(line[streamAt : tagAt-1]) {
	case "stdout":
		r.stream = Stdout
	case "stderr":
		r.stream = Stderr
	default:
		return r, false
	}
	r.time = line[:streamAt-1]
	tags := line[tagAt:]
	for i, b := range tags {
		if b == ' ' {
			r.text = tags[i+1:]
			switch tags[0] {
			case 'F':
				return r, true
			case 'P':
				r.partial = true
				r.text = r.text[:len(r.text)-1]
				return r, true
			}
			break
		}
	}
	return r, false
}

package logs

import (
	"bytes"
	"slices"
	"time"
)

const (
	// recordBytes is how much of a line one record holds at most; what container
	// engines take.
	recordBytes = 16 << 10
	// waitBytes is how much of an unfinished line waits for its end. A longer one
	// is passed on piece by piece, and another line that comes in between breaks
	// it. What is written at once is never broken, however long: its pieces come
	// one after another.
	waitBytes = 256 << 10
	// waitAllBytes and waitLines bound the unfinished lines of a container
	// together. Beyond, the oldest is ended where it is.
	waitAllBytes = 1 << 20
	waitLines    = 256
)

// A batch is a sequence of records.
type batch struct {
	records []byte
	// by is who wrote a line that is not finished with the last record, nil if
	// it is finished; stream is the line's.
	by     *unfinished
	stream Stream
	// of is who went on with a line: where that has been broken meanwhile, the
	// rest becomes a line of its own.
	of *unfinished
}

// sink takes records in. It may take its time: only one container waits.
type sink interface {
	append(batch)
	// rest is called when no more comes.
	rest()
}

// Lines puts the output of one container together into lines: those of one
// request and stream, however many are served at the same time. Its methods must
// not be called at the same time.
type Lines struct {
	to      sink // nil: nobody's
	copy    func([]byte)
	report  func(string)
	now     func() time.Time
	last    time.Time
	decoder decoder
	waiting map[origin]*unfinished
	order   []*unfinished // the oldest first
	size    int           // of all that wait
	records []byte        // of complete lines, not passed on yet
	word    []byte        // of the worker, until its line ends
}

// unfinished is the beginning of a line.
type unfinished struct {
	from origin
	id   string
	text []byte
	// begun is set when the line's first pieces have been passed on.
	begun bool
}

// NewLines returns Lines that are in no log before Log.Begin. All text also goes to
// copy, as it comes; what the worker says to the agent goes to report, one line at
// a time.
func NewLines(copy func([]byte), report func(string)) *Lines {
	return &Lines{copy: copy, report: report, now: time.Now, waiting: map[origin]*unfinished{}}
}

// Join says that what will come by the pipe of frames may begin in the middle of
// one: another process has read what came before. It comes before Framed.
func (l *Lines) Join() { l.decoder.seeking = &seeker{} }

// begin forgets what came so far and leads what comes into a log.
func (l *Lines) begin(to sink) {
	l.to, l.order, l.size, l.records = to, nil, 0, nil
	clear(l.waiting)
}

// Framed takes in what came by the pipe of frames.
func (l *Lines) Framed(p []byte) {
	l.decoder.feed(p, l.piece)
	l.flush()
}

// Raw takes in what came by a stream's own pipe.
func (l *Lines) Raw(stream Stream, p []byte) {
	l.piece(origin{stream: stream, raw: true}, "", p)
	l.flush()
}

// End ends what is unfinished: the container writes no more.
func (l *Lines) End() {
	for _, u := range slices.Clone(l.order) {
		l.end(u)
	}
	l.flush()
	l.say([]byte{'\n'})
	if l.to != nil {
		l.to.rest()
	}
}

func (l *Lines) piece(from origin, id string, data []byte) {
	if from.stream == worker {
		l.say(data)
		return
	}
	l.copy(data)
	if l.to == nil {
		return
	}
	for len(data) > 0 {
		u := l.waiting[from]
		end := bytes.IndexByte(data, '\n')
		switch {
		case end >= 0 && u == nil:
			l.line(from.stream, id, data[:end])
			if len(l.records) >= waitAllBytes { // a record is many times as long as an empty line
				l.flush()
			}
		case end >= 0:
			l.add(u, data[:end])
			l.end(u)
		default:
			if u == nil {
				u = &unfinished{from: from, id: id}
				l.waiting[from] = u
				l.order = append(l.order, u)
			}
			l.add(u, data)
			l.bound()
			return
		}
		data = data[end+1:]
	}
}

// add lengthens an unfinished line, and passes on what has become too long.
func (l *Lines) add(u *unfinished, data []byte) {
	u.text = append(u.text, data...)
	l.size += len(data)
	if len(u.text) < waitBytes {
		return
	}
	l.flush()
	var records []byte
	text := u.text
	for len(text) > recordBytes {
		records = l.record(records, u.from.stream, 'P', u.id, text[:recordBytes])
		text = text[recordBytes:]
	}
	l.to.append(batch{records: records, by: u, stream: u.from.stream, of: u})
	u.begun = true
	l.size -= len(u.text) - len(text)
	u.text = slices.Clone(text)
}

// end completes a line.
func (l *Lines) end(u *unfinished) {
	delete(l.waiting, u.from)
	l.order = slices.DeleteFunc(l.order, func(o *unfinished) bool { return o == u })
	l.size -= len(u.text)
	if !u.begun {
		l.line(u.from.stream, u.id, u.text)
		return
	}
	l.flush()
	l.line(u.from.stream, u.id, u.text)
	l.to.append(batch{records: l.records, of: u})
	l.records = l.records[:0]
}

// bound ends the oldest unfinished lines when there are too many.
func (l *Lines) bound() {
	for l.size > waitAllBytes || len(l.order) > waitLines {
		l.end(l.order[0])
	}
}

// line adds the records of a line, or of its end.
func (l *Lines) line(stream Stream, id string, text []byte) {
	for len(text) > recordBytes {
		l.records = l.record(l.records, stream, 'P', id, text[:recordBytes])
		text = text[recordBytes:]
	}
	l.records = l.record(l.records, stream, 'F', id, text)
}

func (l *Lines) flush() {
	if len(l.records) == 0 {
		return
	}
	l.to.append(batch{records: l.records})
	l.records = l.records[:0]
	if cap(l.records) > 2*waitAllBytes {
		l.records = nil
	}
}

func (l *Lines) record(records []byte, stream Stream, tag byte, id string, text []byte) []byte {
	// The clock of the machine may be set back; the records' stays.
	if now := l.now(); now.After(l.last) {
		l.last = now
	}
	return appendRecord(records, l.last, stream, tag, id, text)
}

// maxWord bounds a line of the worker.
const maxWord = 4 << 10

func (l *Lines) say(data []byte) {
	for len(data) > 0 {
		end := bytes.IndexByte(data, '\n')
		if end < 0 {
			l.word = append(l.word, data[:min(len(data), maxWord-len(l.word))]...)
			return
		}
		l.word = append(l.word, data[:min(end, maxWord-len(l.word))]...)
		if len(l.word) > 0 {
			l.report(string(l.word))
		}
		l.word, data = l.word[:0], data[end+1:]
	}
}

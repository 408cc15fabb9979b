package logs

import "encoding/binary"

// Stream is where a piece of output was written to.
type Stream byte

// The streams of a container.
const (
	Stdout Stream = iota + 1
	Stderr
	// worker is what the worker tells the agent; it is in no function's log.
	worker
)

func (s Stream) String() string {
	if s == Stderr {
		return "stderr"
	}
	return "stdout"
}

// The layout of a frame; nodeagent/worker/README.md describes it.
const (
	frameMark   = 0x1e
	frameHeader = 12
	maxID       = 128
	maxPayload  = 64 << 10
)

// origin is what a piece of output belongs to.
type origin struct {
	stream Stream
	// request numbers the requests of a container; 0: none.
	request uint32
	// raw output came past the worker.
	raw bool
}

// decoder takes frames apart. What is no frame makes everything from there on
// raw output: function code has written to the pipe, and where its next frame
// would begin cannot be known. It keeps no payload.
type decoder struct {
	head   []byte // of the frame that has begun, id included, while incomplete
	from   origin
	id     string
	left   int // of the frame's payload
	broken bool
	// seeking: the bytes do not begin with a frame; see seek.
	seeking *seeker
}

// feed calls piece for each part of a payload in p, with the request's id.
func (d *decoder) feed(p []byte, piece func(from origin, id string, data []byte)) {
	for len(p) > 0 {
		switch {
		case d.broken:
			piece(origin{stream: Stdout, raw: true}, "", p)
			return
		case d.left > 0:
			n := min(d.left, len(p))
			piece(d.from, d.id, p[:n])
			d.left -= n
			p = p[n:]
		case d.seeking != nil:
			p = d.seek(p, piece)
		default:
			p = d.begin(p)
			if d.broken {
				garbage := d.head
				d.head = nil
				piece(origin{stream: Stdout, raw: true}, "", garbage)
			}
		}
	}
}

// begin reads a frame's head and returns what follows it.
func (d *decoder) begin(p []byte) []byte {
	want := frameHeader
	if len(d.head) >= frameHeader {
		want += int(d.head[2])
	}
	n := min(want-len(d.head), len(p))
	d.head = append(d.head, p[:n]...)
	p = p[n:]
	if len(d.head) < frameHeader {
		d.broken = d.head[0] != frameMark
		return p
	}
	length := binary.LittleEndian.Uint32(d.head[8:])
	if s := Stream(d.head[1]); d.head[0] != frameMark || s < Stdout || s > worker || d.head[2] > maxID || d.head[3] != 0 || length > maxPayload {
		d.broken = true
		return p
	}
	if len(d.head) < frameHeader+int(d.head[2]) {
		return p
	}
	d.take()
	return p
}

// take begins the payload of the frame whose head is complete.
func (d *decoder) take() {
	d.from = origin{stream: Stream(d.head[1]), request: binary.LittleEndian.Uint32(d.head[4:])}
	d.id = cleanID(d.head[frameHeader:])
	d.left = int(binary.LittleEndian.Uint32(d.head[8:]))
	d.head = d.head[:0]
}

// cleanID makes an id fit to stand in a record: a single word.
func cleanID(id []byte) string {
	clean := make([]byte, len(id))
	for i, b := range id {
		if b <= ' ' || b >= 0x7f {
			b = '_'
		}
		clean[i] = b
	}
	return string(clean)
}

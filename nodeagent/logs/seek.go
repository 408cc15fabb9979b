package logs

import "encoding/binary"

// seeker finds the first frame of a pipe whose reader has died, perhaps in the
// middle of one.
type seeker struct {
	// follows says that a frame has just ended: if the next bytes are a frame's
	// head, the first was one, too.
	follows bool
}

// seek looks for a frame's head in p and returns what follows what it has looked
// at. What is none is output whose stream nobody knows any more. A payload may
// look like a head: so the search is over only when one frame follows another,
// and until then what is no head does not make the rest plain output.
func (d *decoder) seek(p []byte, piece func(from origin, id string, data []byte)) []byte {
	var skipped []byte
	for len(p) > 0 && d.left == 0 && d.seeking != nil {
		d.head = append(d.head, p[0])
		p = p[1:]
		for !couldBeHead(d.head) {
			skipped = append(skipped, d.head[0])
			d.head = d.head[1:]
			d.seeking.follows = false
		}
		if len(d.head) < frameHeader || len(d.head) < frameHeader+int(d.head[2]) {
			continue
		}
		if d.seeking.follows {
			d.seeking = nil
		} else {
			d.seeking.follows = true
		}
		d.head = append([]byte(nil), d.head...)
		d.take()
	}
	if len(skipped) > 0 {
		piece(origin{stream: Stdout, raw: true}, "", skipped)
	}
	return p
}

// couldBeHead reports whether bytes may be the beginning of a frame's head, id
// included.
func couldBeHead(b []byte) bool {
	for i, c := range b {
		ok := true
		switch {
		case i == 0:
			ok = c == frameMark
		case i == 1:
			ok = Stream(c) >= Stdout && Stream(c) <= worker
		case i == 2:
			ok = c <= maxID
		case i == 3:
			ok = c == 0
		case i == frameHeader-1:
			ok = binary.LittleEndian.Uint32(b[8:]) <= maxPayload
		case i >= frameHeader:
			ok = c > ' ' && c < 0x7f
		}
		if !ok {
			return false
		}
	}
	return true
}

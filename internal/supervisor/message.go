package supervisor

import (
	"encoding/json"
	"errors"
	"fmt"
)

// Bounds of what is kept under one name, and of what one message carries.
const (
	// MaxName and MaxData are in bytes.
	MaxName = 128
	MaxData = 32 << 10
	// MaxFiles is how many files one name has.
	MaxFiles = 8
	// batchFiles and batchData bound one answer to a next, but for its first entry.
	// The kernel passes no more than 253 files at once.
	batchFiles = 64
	batchData  = 16 << 10
	// maxMessage is more than any message has: data is encoded as text.
	maxMessage = 96 << 10
)

// errMessage is wrapped by errors about messages that are none.
var errMessage = errors.New("not a message of the supervisor's protocol")

// The operations of a request. Put, update and remove have no answer.
const (
	opPut    = "put"    // name, pid, data, and files; it replaces what was there
	opUpdate = "update" // name, data
	opRemove = "remove" // name
	opGet    = "get"    // the entry of name
	opNext   = "next"   // entries after a name, in their order
	opStatus = "status" // of pid
)

// request is what the charge says.
type request struct {
	Op   string `json:"op"`
	Name string `json:"name,omitempty"`
	// PID is the process that is to live on with the entry; 0: none.
	PID  int    `json:"pid,omitempty"`
	Data []byte `json:"data,omitempty"`
}

// response answers get, next and status.
type response struct {
	Entries []header `json:"entries,omitempty"`
	// More says that there are further entries.
	More bool `json:"more,omitempty"`
	// Known says that Status is how the process ended, as wait(2) has it.
	Known  bool   `json:"known,omitempty"`
	Status uint32 `json:"status,omitempty"`
}

// header is an entry without its files: those of all entries of a response come
// with it, one entry's after the other's.
type header struct {
	Name  string `json:"name"`
	PID   int    `json:"pid,omitempty"`
	Data  []byte `json:"data,omitempty"`
	Files int    `json:"files,omitempty"`
}

// parseRequest takes a message apart that came with so many files.
func parseRequest(message []byte, files int) (request, error) {
	var r request
	if err := json.Unmarshal(message, &r); err != nil {
		return r, fmt.Errorf("%w: %w", errMessage, err)
	}
	named := r.Op == opPut || r.Op == opUpdate || r.Op == opRemove || r.Op == opGet
	switch {
	case !named && r.Op != opGet && r.Op != opNext && r.Op != opStatus:
		return r, fmt.Errorf("%w: operation %.40q", errMessage, r.Op)
	case named && r.Name == "", len(r.Name) > MaxName:
		return r, fmt.Errorf("%w: %s of a name of %d bytes; it has 1 to %d", errMessage, r.Op, len(r.Name), MaxName)
	case len(r.Data) > MaxData:
		return r, fmt.Errorf("%w: %s of %s with %d bytes of data, at most %d are kept", errMessage, r.Op, r.Name, len(r.Data), MaxData)
	case r.Op != opPut && files > 0, files > MaxFiles:
		return r, fmt.Errorf("%w: %s of %s with %d files", errMessage, r.Op, r.Name, files)
	case r.PID < 0 || r.PID == 1:
		return r, fmt.Errorf("%w: %s of process %d", errMessage, r.Op, r.PID)
	}
	return r, nil
}

// parseResponse takes an answer apart that came with so many files.
func parseResponse(message []byte, files int) (response, error) {
	var r response
	if err := json.Unmarshal(message, &r); err != nil {
		return r, fmt.Errorf("%w: %w", errMessage, err)
	}
	for _, h := range r.Entries {
		if h.Files < 0 || h.Files > MaxFiles {
			return r, fmt.Errorf("%w: an entry of %d files", errMessage, h.Files)
		}
		files -= h.Files
	}
	if files != 0 {
		return r, fmt.Errorf("%w: its entries and its files differ by %d", errMessage, files)
	}
	if r.More && len(r.Entries) == 0 {
		return r, fmt.Errorf("%w: more entries after none", errMessage)
	}
	return r, nil
}

package inspector

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"unicode"
)

// Stack is the calls that a process is in, the innermost first.
type Stack []Frame

// Frame is one call.
type Frame struct {
	// Function is its name, empty if it has none.
	Function string
	// File is a path or a name such as node:internal/timers; empty if the code
	// has none (eval).
	File string
	// Line and Column count from 1.
	Line, Column int
}

// String is the stack as V8 shows it, without the line of the error.
func (s Stack) String() string {
	lines := make([]string, 0, len(s))
	for _, f := range s {
		lines = append(lines, f.String())
	}
	return strings.Join(lines, "\n")
}

func (f Frame) String() string {
	file := f.File
	if file == "" {
		file = "<anonymous>"
	}
	if f.Function == "" {
		return fmt.Sprintf("    at %s:%d:%d", file, f.Line, f.Column)
	}
	return fmt.Sprintf("    at %s (%s:%d:%d)", f.Function, file, f.Line, f.Column)
}

// hasFunction reports whether it has a call of code that is not Node.js's own.
func (s Stack) hasFunction() bool {
	return slices.ContainsFunc(s, func(f Frame) bool { return f.File != "" && !strings.HasPrefix(f.File, "node:") })
}

// outside is the stack without the calls of files in the folder.
func (s Stack) outside(folder string) Stack {
	var kept Stack
	for _, f := range s {
		if _, inside := f.within(folder); !inside {
			kept = append(kept, f)
		}
	}
	return kept
}

// Place is the innermost file and line in the folder, relative to it; empty if
// there is none.
func (s Stack) Place(folder string) string {
	for _, f := range s {
		if file, inside := f.within(folder); inside {
			return fmt.Sprintf("%s:%d", file, f.Line)
		}
	}
	return ""
}

// within is the frame's file relative to a folder that it is in.
func (f Frame) within(folder string) (string, bool) {
	return strings.CutPrefix(f.File, strings.TrimSuffix(folder, "/")+"/")
}

// pathOf is the path that a file: URL names: Node.js's inspector has URLs for all
// modules. What is none it returns as it is.
func pathOf(script string) string {
	if u, err := url.Parse(script); err == nil && u.Scheme == "file" {
		return u.Path
	}
	return script
}

// printable is s on one line, and of at most n bytes: a function may name itself
// as it likes.
func printable(s string, n int) string {
	s = strings.ToValidUTF8(s[:min(len(s), n)], "")
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, s)
}

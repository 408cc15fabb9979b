//go:build !integration

package failpoint

// Here marks a place at which nothing can fail; it may die or stop.
func Here(string) {}

// After marks the place behind a step that may fail: it returns err, or what a
// test wants instead of nil.
func After(_ string, err error) error { return err }

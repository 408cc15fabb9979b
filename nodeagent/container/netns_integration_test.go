//go:build integration

package container_test

import "runtime"

// lockForever ties the calling goroutine to its thread, which ends with it.
func lockForever() { runtime.LockOSThread() }

//go:build integration

package socket

import "unsafe"

// afUnspec is a socket address of family AF_UNSPEC, which dissolves a connection.
var afUnspec [16]byte

func unspecifiedAddress() uintptr { return uintptr(unsafe.Pointer(&afUnspec)) }

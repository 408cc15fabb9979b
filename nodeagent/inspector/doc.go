// Package inspector asks a Node.js process that is stuck in one call where it
// is, by the protocol that debuggers speak.
//
// Node.js opens its inspector when the process gets SIGUSR1, and serves it on a
// thread of its own, so that it answers while the main thread runs a loop
// without end. What blocks outside of JavaScript (a system call, a program that
// is waited for) is not interrupted by it: then there is no answer, only an
// error.
//
// The other side is hostile: the function may have taken the port, or may have
// broken the process. It is believed nothing, and can make the caller read no
// more than some bytes for some time.
package inspector

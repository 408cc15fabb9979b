// Package workerconn is the agent's side of the control protocol it speaks
// with the worker inside a container: newline-delimited JSON on a stream
// socket that the container inherits.
//
// The order of a container's life is: the worker says "warm"; the agent says
// "activate"; the worker says "ready" or "failed"; then reports "activity" as
// it changes; the agent says "drain"; the worker says "drained"; the agent says
// "terminate", and the worker ends. Whenever the function runs, the agent may
// say "ping", which is answered by "activity", and the worker may say once that
// it is "ending".
//
// The worker shares its process with the function's code, so whatever arrives
// is hostile input. A line that is too long, is not JSON, has an unknown type,
// comes out of order or comes too often ends the connection with an error that
// wraps ErrProtocol; the owner of the container destroys it. Nothing a peer
// sends makes the agent keep more than one line in memory, or block.
package workerconn

// Package supervisor runs a process that may crash, its charge, and keeps for it
// what must not go with it.
//
// The supervisor starts its charge, and starts it again at once when it crashes.
// Three things outlive the charge:
//
//   - Open files. The charge puts them under a name, with a few bytes of its own
//     that say what they are (Client.Put). The supervisor holds duplicates: a
//     listening socket goes on queueing connections, a pipe keeps its reader, a
//     socket its peer. The next charge is given all of them (Client.Kept).
//   - Processes. The supervisor is the parent of every process below it whose own
//     parent has ended (a subreaper, see prctl(2)). Those that an entry names live
//     on when the charge dies. All others are killed before the next charge
//     starts: nothing that the dead one had begun still acts beside it.
//   - How those processes ended. The supervisor alone waits for them
//     (Client.ExitStatus), be there a charge or not.
//
// Put, Update and Remove wait for no answer, and yet they are certain: when one
// returns, the kernel has the message, and after the charge's death the supervisor
// reads what it still said before it does anything else. So the next charge knows
// whatever was put before the instruction at which its predecessor died.
//
// Who ends, and what follows:
//
//	the charge crashes: a signal, or 2,      another is started; all is kept
//	  Go's exit code of a panic
//	... several times in a row, each soon    what is kept may be why: its files are
//	  after its start                        closed, its processes killed, and
//	                                         another charge begins with nothing
//	... and once more                        the supervisor gives up, with its code
//	the charge exits with another code       it meant to: what it left is killed, the
//	                                         supervisor ends with the same code
//	the supervisor is told to end            SIGTERM and SIGINT are passed on; no
//	                                         other charge is started
//	the supervisor dies                      the kernel kills the charge; in a pod,
//	                                         where the supervisor is process 1, all
//
// It is small and dull on purpose: it must not crash. One goroutine owns all
// state and makes all decisions; nothing of what is kept is written to a disk, or
// looked at. The charge is trusted: it runs the same program.
package supervisor

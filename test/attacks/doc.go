// Package attacks attacks an installation of SanFran from inside a function, and
// says what held. One list of attacks is the truth (list.go), one bundle of
// JavaScript and C makes them (functions), and a Suite runs the one with the
// other wherever functions run: in the agent's integration tests, and in any
// cluster (Command attacks in the folder cluster).
//
// Every attack is bounded in count, bytes and time and ends by itself; none
// leaves the sandbox it tries to leave if it succeeds, beyond looking once.
package attacks

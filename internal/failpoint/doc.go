// Package failpoint names places in the code at which a test can make the
// process die, stop or fail: the instructions between two effects on the
// machine, after which a crash leaves half of something.
//
//	undo.add(slot.unmount)
//	if err := failpoint.After("container: overlay mounted", slot.mount(root)); err != nil {
//
// A point costs nothing where it is not tested, and cannot be switched on
// there: without the build tag integration, which the tests with real containers
// have and no program that is installed, both functions are empty and the
// compiler leaves nothing of them. A look at a variable would cost as little; but
// whoever reaches an installed agent's environment or memory must find no
// switch that kills it.
//
// With the tag, points do nothing until a test orders something, in its own
// process by Arm or in another by the environment variable Env.
//
// A name says whose point it is and what has just been done: "network: pair
// made". It is used once in the code, so that it names one instruction.
package failpoint

// Package bundle keeps functions' code on a node.
//
// A bundle is an uncompressed tar archive named by the sha256 of its bytes. A
// Store fetches a bundle when it is first asked for, verifies it while it
// streams, unpacks it once into a folder of its own and gives that folder to
// everybody of one namespace who asks for the same digest. A folder appears under its final
// name by one rename after the digest was found right, so a half-written
// bundle is never seen, whatever dies in between.
//
// Bundles stay when nobody uses them, within a budget, for those who ask next,
// also after the process or the machine was started anew. A bundle says of
// itself what it consists of; before it is used again it is compared with that,
// and one that is damaged is fetched again. So nothing needs to be synced to the
// disk: what a power loss leaves of a bundle is found out.
//
// An archive is hostile input: it may hold folders, regular files, and links
// that stay inside it. Everything else is refused with an error that wraps
// ErrRefused and names the entry. Of a file's mode only whether it may be
// executed is kept; owners, times and further attributes are not.
package bundle

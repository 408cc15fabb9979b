// Package bundle keeps functions' code on a node.
//
// A bundle is an uncompressed tar archive named by the sha256 of its bytes. A
// Store fetches a bundle when it is first asked for, verifies it while it
// streams, unpacks it once into a folder of its own and gives that folder to
// everybody who asks for the same digest. A folder appears under its final
// name by one rename after the digest was found right, so a half-written
// bundle is never seen, whatever dies in between.
//
// An archive is hostile input: it may hold folders, regular files, and links
// that stay inside it. Everything else is refused with an error that wraps
// ErrRefused and names the entry.
package bundle

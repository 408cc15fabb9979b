// Package compilecache keeps what V8 has compiled of functions' code on a node,
// so that the next container of a function compiles it no more.
//
// A cache is a flat folder of small files, named by a key that the caller makes
// of everything it must not be shared across: above all the namespace, because
// V8 believes what it reads there, and its own checks are against accidents
// only. A cache is written once, by the process of the function that it is of:
//
//	claim := store.Claim(key)            // one writer wins, others get nil
//	dir, err := claim.Scratch(bytes)     // a tmpfs, mounted into the container
//	…                                    // Node.js writes its files there
//	result, err := claim.Keep()          // copied, then it appears under its key
//
// and read by later ones, which mount it read-only:
//
//	cache := store.Use(key)              // nil: there is none
//	…                                    // cache.Dir() is mounted
//	cache.Release()                      // the container is gone
//
// What a function wrote is hostile input. Keep takes regular files with the
// names that Node.js gives them, follows no link, opens nothing but regular
// files, and keeps to limits of count and size; anything else and the cache is
// refused as a whole, with an error that wraps ErrRefused. A refused or useless
// cache is remembered as an empty one, so that nobody tries again.
//
// A cache appears under its key by one rename. It lives until the store is over
// its budget and it is the one that has not been used for the longest; never
// while somebody uses it. Nothing is synced to disk: caches of an earlier boot
// of the machine are dropped, those of an earlier process are kept.
package compilecache

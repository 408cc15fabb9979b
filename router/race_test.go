//go:build race

package router

// manyBytes is a body that nobody keeps in memory: less with the race
// detector, which looks at every byte that is copied and takes five times as long.
const manyBytes = 256 << 20

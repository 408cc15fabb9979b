//go:build !race

package router

// manyBytes is a body that nobody keeps in memory.
const manyBytes = 2 << 30

// Package npm holds the functions that prove popular npm packages to work in a
// container, and the table in the docs of what is proved. README.md says how
// they are run.
package npm

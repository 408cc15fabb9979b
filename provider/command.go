package provider

import (
	"path"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// commandOf is the program that a container's command and args name, by the
// rules of Kubernetes: command stands in place of the image's entrypoint. Without
// one, args are for the entrypoint of the official image of Node.js: a program of
// its own, or else what node is to run. Nil: neither is there, and the code says
// what it is. $(NAME) is not expanded yet.
func commandOf(c *corev1.Container) ([]string, error) {
	const field = "spec.containers[0]"
	words := slices.Concat(c.Command, c.Args)
	named := field + ".command"
	if len(c.Command) == 0 && len(c.Args) > 0 {
		named = field + ".args"
		if !isProgram(c.Args[0]) {
			words = append([]string{"node"}, c.Args...)
		}
	}
	switch {
	case len(words) == 0:
		return nil, nil
	case !isProgram(words[0]):
		return nil, unsupported(named, `%q cannot be run; a function's program is Node.js: write ["node", "server.js"], or ["npm", "start"] for a start script like "node server.js", or run this pod on another node`, words[0])
	case isNode(words[0]) && len(words) == 1:
		return nil, unsupported(named, `%q names no file; write ["node", "server.js"]`, words[0])
	case isNode(words[0]) || startsScript(words[1:]):
		return words, nil
	}
	return nil, unsupported(named, `%q of %s is not supported; write ["%[2]s", "start"], or ["node", "server.js"]`, words[1:], words[0])
}

func isNode(word string) bool {
	name := path.Base(word)
	return name == "node" || name == "nodejs"
}

func isProgram(word string) bool {
	return isNode(word) || slices.Contains([]string{"npm", "yarn", "pnpm"}, path.Base(word))
}

// startsScript reports whether the arguments of npm, yarn or pnpm run the start
// script.
func startsScript(args []string) bool {
	if len(args) > 0 && (args[0] == "run" || args[0] == "run-script") {
		args = args[1:]
	}
	return len(args) > 0 && args[0] == "start"
}

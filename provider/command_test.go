package provider

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
)

func TestCommandFollowsTheRulesOfKubernetes(t *testing.T) {
	for name, tt := range map[string]struct {
		command, args, want []string
	}{
		"none":                    {},
		"node":                    {command: []string{"node", "server.js"}, want: []string{"node", "server.js"}},
		"node by its path":        {command: []string{"/usr/local/bin/node"}, args: []string{"-r", "./a", "server.js", "x"}, want: []string{"/usr/local/bin/node", "-r", "./a", "server.js", "x"}},
		"args alone":              {args: []string{"server.js", "x"}, want: []string{"node", "server.js", "x"}},
		"args that name node":     {args: []string{"node", "server.js"}, want: []string{"node", "server.js"}},
		"npm start":               {command: []string{"npm", "start"}, want: []string{"npm", "start"}},
		"npm run start with args": {command: []string{"npm", "run"}, args: []string{"start", "--", "x"}, want: []string{"npm", "run", "start", "--", "x"}},
		"yarn start":              {command: []string{"yarn", "start"}, want: []string{"yarn", "start"}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := commandOf(&corev1.Container{Command: tt.command, Args: tt.args})
			if diff := cmp.Diff(tt.want, got); diff != "" || err != nil {
				t.Error(err, diff)
			}
		})
	}
}

func TestOtherCommandsAreRefusedWithWhatToDo(t *testing.T) {
	for _, command := range [][]string{{"sh", "-c", "node server.js"}, {"python3", "app.py"}, {"node"}, {"npm", "test"}, {"npm"}, {"yarn", "run", "build"}, {"/app/server"}} {
		_, err := commandOf(&corev1.Container{Command: command})
		var refused *Unsupported
		if !errors.As(err, &refused) || refused.Field != "spec.containers[0].command" || !strings.Contains(refused.Advice, `["node", "server.js"]`) {
			t.Errorf("%q: %v", command, err)
		}
	}
}

func TestCommandIsExpandedAndPartOfTheRevision(t *testing.T) {
	with := func(change func(*corev1.Pod, *corev1.Container)) *resolved {
		t.Helper()
		r, err := resolveHello(t, full, func(p *corev1.Pod) { change(p, &p.Spec.Containers[0]) })
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	plain := with(func(*corev1.Pod, *corev1.Container) {})
	r := with(func(p *corev1.Pod, c *corev1.Container) {
		c.Env = []corev1.EnvVar{{Name: "MODE", Value: "fast"}}
		c.Command = []string{"node", "server.js"}
		c.Args = []string{"--mode=$(MODE)", "--port=$(PORT)", "$(NONE)", "$$(MODE)"}
		c.WorkingDir = "/function/app/"
		p.Annotations = map[string]string{AnnotationPark: "true"}
	})
	if diff := cmp.Diff([]string{"node", "server.js", "--mode=fast", "--port=8080", "$(NONE)", "$(MODE)"}, r.assignment.Command); diff != "" {
		t.Error(diff)
	}
	if r.assignment.WorkingDir != "/function/app" || !r.assignment.ParkServer {
		t.Errorf("working folder %q, park %v", r.assignment.WorkingDir, r.assignment.ParkServer)
	}
	if plain.assignment.Command != nil || plain.assignment.WorkingDir != "" || plain.assignment.ParkServer {
		t.Errorf("a pod that says nothing: %v", plain.assignment)
	}
	revisions := map[string]bool{plain.assignment.Revision: true}
	for _, change := range []func(*corev1.Pod, *corev1.Container){
		func(_ *corev1.Pod, c *corev1.Container) { c.Command = []string{"node", "a.js"} },
		func(_ *corev1.Pod, c *corev1.Container) { c.Command = []string{"node", "b.js"} },
		func(_ *corev1.Pod, c *corev1.Container) { c.WorkingDir = "/tmp" },
		func(p *corev1.Pod, _ *corev1.Container) { p.Annotations = map[string]string{AnnotationPark: "true"} },
	} {
		revision := with(change).assignment.Revision
		if revisions[revision] {
			t.Errorf("the revision %s is that of another pod", revision)
		}
		revisions[revision] = true
	}
}

func TestPORTIsThePodsUnlessItSaysOtherwise(t *testing.T) {
	for want, change := range map[string]func(*corev1.Container){
		"8080": func(*corev1.Container) {},
		"3000": func(c *corev1.Container) { c.Ports = []corev1.ContainerPort{{ContainerPort: 3000}} },
		"own":  func(c *corev1.Container) { c.Env = []corev1.EnvVar{{Name: "PORT", Value: "own"}} },
	} {
		r, err := resolveHello(t, full, func(p *corev1.Pod) { change(&p.Spec.Containers[0]) })
		if err != nil {
			t.Fatal(err)
		}
		var got string
		for _, e := range r.assignment.Env { // the last one counts
			if e.Name == "PORT" {
				got = e.Value
			}
		}
		if got != want {
			t.Errorf("PORT is %q, want %q", got, want)
		}
	}
}

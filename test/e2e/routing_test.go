//go:build e2e

package e2e

import (
	"net/http"
	"strings"
	"testing"
)

// Two pods that take the same name are one function to nobody: the gateway says so,
// and so does an event on the later one. The name is the other's again when one
// has gone.
func TestAClashOfNames(t *testing.T) {
	namespace := newNamespace(t)
	configMap(t, namespace, "first", "module.exports = (req, res) => res.send('first')")
	apply(t, namespace, `
apiVersion: apps/v1
kind: Deployment
metadata: {name: first}
spec:
  selector: {matchLabels: {app: first}}
  template:
    metadata: {labels: {app: first, sanfran.dev/function: mine}}
    spec:
      nodeSelector: {kubernetes.io/hostname: sanfran}
      containers: [{name: main, image: sanfran/node:24, volumeMounts: [{name: code, mountPath: /function}]}]
      volumes: [{name: code, configMap: {name: first}}]
`)
	kubectl(t, "rollout", "status", "deployment", "first", "-n", namespace, "--timeout=60s")
	gives(t, namespace, "mine", 200, "first")
	runFunction(t, namespace, "second", "first", "--labels=sanfran.dev/function=mine")
	waitReady(t, namespace, "second")
	gives(t, namespace, "mine", http.StatusConflict, `"code":"NameClash"`)
	until(t, "the event", func() (string, bool) {
		// Of pods that were made in one second either may be the later.
		message := kubectl(t, "get", "events", "-n", namespace, "--field-selector=reason=NameClash", "-o", "jsonpath={.items[*].message}")
		return message, strings.Contains(message, `Function "mine"`) && (strings.Contains(message, "first") || strings.Contains(message, "pod second"))
	})
	kubectl(t, "annotate", "pod", "second", "-n", namespace, "sanfran.dev/expose=false")
	gives(t, namespace, "mine", 200, "first")
}

// gives waits until a function answers at the gateway in such a way: what changes a
// route reaches gateways a moment later.
func gives(t *testing.T, namespace, function string, status int, contains string) {
	t.Helper()
	until(t, function+" to answer "+contains, func() (string, bool) {
		got, body := fetch(t, gateway(namespace, function, "/"))
		return http.StatusText(got) + " " + body, got == status && strings.Contains(body, contains)
	})
}

// A function's rate holds at the gateway, and says when to come again. An annotation
// of a pod that runs changes it at once.
func TestARateLimit(t *testing.T) {
	namespace := newNamespace(t)
	configMap(t, namespace, "hello", helloCode)
	runFunction(t, namespace, "hello", "hello", "--annotations=sanfran.dev/rate-limit=2/h")
	waitReady(t, namespace, "hello")
	refused := 0
	var last *http.Response
	for range 8 { // two gateways give twice as much
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, gateway(namespace, "hello", "/"), nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode == http.StatusTooManyRequests {
			refused++
			last = res
		} else if res.StatusCode != http.StatusOK {
			t.Errorf("%s, want 200 or 429", res.Status)
		}
	}
	if refused == 0 || refused == 8 || last.Header.Get("Retry-After") == "" {
		t.Errorf("of 8 requests %d were 429, want some, with Retry-After: %v", refused, last)
	}
	gives(t, namespace, "hello", http.StatusTooManyRequests, `"code":"RateLimited"`)
	kubectl(t, "annotate", "pod", "hello", "-n", namespace, "sanfran.dev/rate-limit-")
	gives(t, namespace, "hello", 200, "Hello World")
}

// An annotation gives a part of a function's requests to another one.
func TestASplit(t *testing.T) {
	namespace := newNamespace(t)
	for _, name := range []string{"old", "new"} {
		configMap(t, namespace, name, "module.exports = (req, res) => res.send('"+name+"')")
		runFunction(t, namespace, name, name)
	}
	waitReady(t, namespace, "old")
	waitReady(t, namespace, "new")
	kubectl(t, "annotate", "pod", "old", "-n", namespace, "sanfran.dev/split=new=50")
	gives(t, namespace, "old", 200, "new")
	count := map[string]int{}
	for range 100 {
		_, body := fetch(t, gateway(namespace, "old", "/"))
		count[body]++
	}
	// Outside of these once in 10^12 runs.
	if count["old"]+count["new"] != 100 || count["new"] < 15 || count["new"] > 85 {
		t.Errorf("of 100 requests: %v, want about half by each", count)
	}
	kubectl(t, "annotate", "pod", "old", "-n", namespace, "--overwrite", "sanfran.dev/split=new=100")
	until(t, "all requests to be the new one's", func() (string, bool) {
		for range 20 {
			if _, body := fetch(t, gateway(namespace, "old", "/")); body != "new" {
				return body, false
			}
		}
		return "new", true
	})
}

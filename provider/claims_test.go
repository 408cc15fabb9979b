package provider

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

func TestClaims(t *testing.T) {
	c := newClaims()
	held := map[string]string{}
	claiming := func(uid, name, owner string) []claim {
		pod := hello(func(p *corev1.Pod) { p.UID = types.UID(uid) })
		_, others, news := c.take(pod, &Function{Name: name, Owner: owner})
		if want := held[uid] != name; news != want {
			t.Errorf("that %s has the name %s is news: %v, want %v", uid, name, news, want)
		}
		held[uid] = name
		return others
	}
	for i := range 3 {
		if others := claiming(fmt.Sprint(i), "hello", "Deployment/hello"); len(others) != 0 {
			t.Fatalf("replica %d clashes with %v", i, others)
		}
	}
	if others := claiming("bare", "hello", ""); len(others) != 3 {
		t.Errorf("a bare pod clashes with %d pods, want 3", len(others))
	}
	if others := claiming("0", "hello", "Deployment/hello"); len(others) != 1 || others[0].uid != "bare" {
		t.Errorf("a replica clashes with %v, want the bare pod", others)
	}
	// Another name, and none at all, end a claim.
	if others := claiming("bare", "other", ""); len(others) != 0 {
		t.Errorf("under another name it clashes with %v", others)
	}
	if others := claiming("0", "hello", "Deployment/hello"); len(others) != 0 {
		t.Errorf("a replica clashes with %v, which has another name", others)
	}
	for _, uid := range []types.UID{"0", "1", "2", "bare", "unknown"} {
		c.drop(uid)
	}
	if len(c.byPod)+len(c.byName) != 0 {
		t.Errorf("left are %v and %v", c.byPod, c.byName)
	}
}

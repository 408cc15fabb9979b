package provider

import (
	"strings"
	"sync/atomic"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	k8stesting "k8s.io/client-go/testing"

	agentv1 "sanfran.dev/proto/sanfran/agent/v1"
)

func (p *pool) assignment(uid string) *agentv1.Assignment {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.assigned[uid]
}

// TestRenewedTokenLeavesCode: a pod keeps its revision, whatever has become of
// its ConfigMap when its token is due.
func TestRenewedTokenLeavesCode(t *testing.T) {
	for name, change := range map[string]func(w *world) error{
		"changed": func(w *world) error {
			m := code()
			m.Data["index.js"] = "other"
			_, err := w.client.CoreV1().ConfigMaps("default").Update(w.t.Context(), m, metav1.UpdateOptions{})
			return err
		},
		"deleted": func(w *world) error {
			return w.client.CoreV1().ConfigMaps("default").Delete(w.t.Context(), "hello", metav1.DeleteOptions{})
		},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, []runtime.Object{code()}, func(w *world) {
				var issued atomic.Int32
				w.client.PrependReactor("create", "serviceaccounts", func(k8stesting.Action) (bool, runtime.Object, error) {
					return true, &authenticationv1.TokenRequest{Status: authenticationv1.TokenRequestStatus{
						Token: strings.Repeat("t", int(issued.Add(1))), ExpirationTimestamp: metav1.NewTime(time.Now().Add(time.Hour)),
					}}, nil
				})
				w.create(hello(func(p *corev1.Pod) {
					p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: "token", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{
						Sources: []corev1.VolumeProjection{{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token"}}},
					}}})
					c := &p.Spec.Containers[0]
					c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{Name: "token", MountPath: "/token"})
				}))
				before := w.pool.assignment("uid-hello")
				if err := change(w); err != nil {
					w.t.Fatal(err)
				}
				time.Sleep(50 * time.Minute)
				w.settle()
				after := w.pool.assignment("uid-hello")
				if got := string(after.Mounts[1].GetFiles().GetFiles()["token"]); got != "tt" {
					w.t.Errorf("the token is %q, want the second", got)
				}
				if after.Revision != before.Revision || after.Mounts[0].GetBundle() != before.Mounts[0].GetBundle() {
					w.t.Errorf("the pod has other code: revision %s, not %s", after.Revision, before.Revision)
				}
				if string(before.Mounts[1].GetFiles().GetFiles()["token"]) != "t" {
					w.t.Error("the pool's message was changed")
				}
				time.Sleep(50 * time.Minute)
				w.settle()
				if n := issued.Load(); n != 3 {
					w.t.Errorf("%d tokens were issued in 100 minutes, want 3", n)
				}
			})
		})
	}
}

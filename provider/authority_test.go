package provider

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"
)

func testCluster(client *fake.Clientset) *Cluster {
	return &Cluster{account: client, node: client, config: ClusterConfig{Namespace: "sanfran", NodeName: "sanfran", GenerationLease: "generation", Log: slog.New(slog.DiscardHandler)}}
}

func TestCAIsMadeOnceAndPublished(t *testing.T) {
	client := fake.NewClientset(&appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Name: "cp", Namespace: "sanfran", UID: "set"}})
	store := testCluster(client).CAStore("sanfran-ca", "sanfran-ca", "cp")
	var mu sync.Mutex
	made := 0
	create := func() ([]byte, []byte, error) {
		mu.Lock()
		defer mu.Unlock()
		made++
		return fmt.Appendf(nil, "cert %d", made), fmt.Appendf(nil, "key %d", made), nil
	}
	var wait sync.WaitGroup
	certs := make([]string, 8)
	for i := range certs {
		wait.Go(func() {
			cert, _, err := store.LoadOrCreateCA(t.Context(), create)
			if err != nil {
				t.Error(err)
			}
			certs[i] = string(cert)
		})
	}
	wait.Wait()
	published, err := client.CoreV1().ConfigMaps("sanfran").Get(t.Context(), "sanfran-ca", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, cert := range certs {
		if cert != published.Data["ca.crt"] {
			t.Errorf("one has %q, published is %q", cert, published.Data["ca.crt"])
		}
	}
	if len(published.OwnerReferences) != 1 || published.OwnerReferences[0].UID != "set" {
		t.Errorf("owners %v", published.OwnerReferences)
	}
}

func TestGenerationsGrow(t *testing.T) {
	client := fake.NewClientset()
	conflicts := 2
	client.PrependReactor("update", "leases", func(k8stesting.Action) (bool, runtime.Object, error) {
		if conflicts == 0 {
			return false, nil, nil
		}
		conflicts--
		return true, nil, apierrors.NewConflict(schema.GroupResource{Resource: "leases"}, "generation", errors.New("changed"))
	})
	c := testCluster(client)
	last := uint64(0)
	for range 3 {
		next, err := c.NextGeneration(t.Context())
		if err != nil || next <= last {
			t.Fatalf("after %d came %d, %v", last, next, err)
		}
		last = next
	}
}

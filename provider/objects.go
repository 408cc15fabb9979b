package provider

import (
	"context"
	"fmt"
	"sync"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
)

// tokenSeconds is a token's lifetime when the volume asks for none.
const tokenSeconds = 3600

// clusterObjects reads single objects with get alone: a node may read what its
// pods refer to, and nothing by list. It is safe for concurrent use.
type clusterObjects struct {
	client kubernetes.Interface
	now    func() time.Time

	mu     sync.Mutex
	tokens map[types.UID]map[tokenKind]issued
}

type tokenKind struct {
	audience string
	seconds  int64
}

type issued struct {
	token   string
	refresh time.Time
}

func newClusterObjects(client kubernetes.Interface, now func() time.Time) *clusterObjects {
	return &clusterObjects{client: client, now: now, tokens: map[types.UID]map[tokenKind]issued{}}
}

// ConfigMap implements [Objects].
func (o *clusterObjects) ConfigMap(ctx context.Context, namespace, name string) (*corev1.ConfigMap, error) {
	return o.client.CoreV1().ConfigMaps(namespace).Get(ctx, name, metav1.GetOptions{})
}

// Secret implements [Objects].
func (o *clusterObjects) Secret(ctx context.Context, namespace, name string) (*corev1.Secret, error) {
	return o.client.CoreV1().Secrets(namespace).Get(ctx, name, metav1.GetOptions{})
}

// Token implements [Objects]. A token is asked for once and used until four
// fifths of its life are over, as the kubelet does.
func (o *clusterObjects) Token(ctx context.Context, pod *corev1.Pod, source *corev1.ServiceAccountTokenProjection) (string, time.Time, error) {
	kind := tokenKind{audience: source.Audience, seconds: tokenSeconds}
	if source.ExpirationSeconds != nil {
		kind.seconds = *source.ExpirationSeconds
	}
	o.mu.Lock()
	held, ok := o.tokens[pod.UID][kind]
	o.mu.Unlock()
	if ok && o.now().Before(held.refresh) {
		return held.token, held.refresh, nil
	}
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
		ExpirationSeconds: &kind.seconds,
		BoundObjectRef:    &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID},
	}}
	if kind.audience != "" {
		request.Spec.Audiences = []string{kind.audience}
	}
	account := pod.Spec.ServiceAccountName
	answer, err := o.client.CoreV1().ServiceAccounts(pod.Namespace).CreateToken(ctx, account, request, metav1.CreateOptions{})
	if err != nil {
		return "", time.Time{}, fmt.Errorf("request a token of service account %q: %w", account, err)
	}
	now := o.now()
	life := answer.Status.ExpirationTimestamp.Sub(now)
	held = issued{token: answer.Status.Token, refresh: now.Add(life * 4 / 5)}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.tokens[pod.UID] == nil {
		o.tokens[pod.UID] = map[tokenKind]issued{}
	}
	o.tokens[pod.UID][kind] = held
	return held.token, held.refresh, nil
}

// forget drops the tokens of a pod that is gone.
func (o *clusterObjects) forget(uid types.UID) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.tokens, uid)
}

package provider

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"
)

// authority is a CA for tests.
func TestKubeletAPILetsInWhomKubernetesAllows(t *testing.T) {
	ca, stranger := newAuthority(t), newAuthority(t)
	client := fake.NewClientset(&corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: "extension-apiserver-authentication", Namespace: "kube-system"},
		Data:       map[string]string{"client-ca-file": ca.pem},
	})
	client.PrependReactor("create", "tokenreviews", func(a k8stesting.Action) (bool, runtime.Object, error) {
		token := a.(k8stesting.CreateAction).GetObject().(*authenticationv1.TokenReview).Spec.Token
		return true, &authenticationv1.TokenReview{Status: authenticationv1.TokenReviewStatus{
			Authenticated: token != "bad", User: authenticationv1.UserInfo{Username: token}}}, nil
	})
	var asked []string
	client.PrependReactor("create", "subjectaccessreviews", func(a k8stesting.Action) (bool, runtime.Object, error) {
		spec := a.(k8stesting.CreateAction).GetObject().(*authorizationv1.SubjectAccessReview).Spec
		asked = append(asked, fmt.Sprintf("%s %s nodes/%s %s", spec.User, spec.ResourceAttributes.Verb, spec.ResourceAttributes.Subresource, spec.ResourceAttributes.Name))
		return true, &authorizationv1.SubjectAccessReview{Status: authorizationv1.SubjectAccessReviewStatus{Allowed: spec.User == "apiserver" || spec.User == "good"}}, nil
	})
	access := &kubeletAccess{nodeName: "sanfran", account: client, reviews: client, log: slog.New(slog.DiscardHandler),
		next: kubeletAPI{
			pods: func() []*corev1.Pod { return []*corev1.Pod{hello()} },
			logs: &logHandler{pods: func() []*corev1.Pod { return nil }}, programs: &programHandler{pods: func() []*corev1.Pod { return nil }},
			usage: &usageReader{pods: func() []*corev1.Pod { return nil }, meter: fakeMeter(nil), node: "sanfran"},
		}.handler()}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	peer := func(a *authority, name string) *tls.ConnectionState {
		cert, err := x509.ParseCertificate(a.sign(t, pkix.Name{CommonName: name}, key.Public()))
		if err != nil {
			t.Fatal(err)
		}
		return &tls.ConnectionState{PeerCertificates: []*x509.Certificate{cert}}
	}
	for _, tt := range []struct {
		name, path, token string
		tls               *tls.ConnectionState
		code              int
		body              string
	}{
		{"anonymous", "/pods", "", nil, 401, "Unauthorized"},
		{"bad token", "/pods", "bad", nil, 401, "Unauthorized"},
		{"a stranger's certificate", "/pods", "", peer(stranger, "apiserver"), 401, "Unauthorized"},
		{"not allowed", "/pods", "mallory", nil, 403, "Forbidden"},
		{"by token", "/pods", "good", nil, 200, `"name":"hello"`},
		{"by certificate", "/pods", "", peer(ca, "apiserver"), 200, `"name":"hello"`},
		{"logs", "/containerLogs/default/hello/hello", "good", nil, 404, "does not exist"},
		{"logs, not allowed", "/containerLogs/default/hello/hello", "mallory", nil, 403, "Forbidden"},
		{"exec", "/exec/default/hello/hello", "good", nil, 404, "does not exist"},
		{"exec, not allowed", "/exec/default/hello/hello", "mallory", nil, 403, "verb=create"},
		{"statistics", "/stats/summary", "good", nil, 200, `"nodeName":"sanfran"`},
		{"metrics", "/metrics/resource", "good", nil, 200, "node_cpu_usage_seconds_total "},
		{"what is not there", "/configz", "good", nil, 404, "not found"},
		{"health", "/healthz", "", nil, 200, "ok"},
	} {
		r := httptest.NewRequest(http.MethodGet, tt.path, nil)
		r.TLS = tt.tls
		if tt.token != "" {
			r.Header.Set("Authorization", "Bearer "+tt.token)
		}
		w := httptest.NewRecorder()
		access.ServeHTTP(w, r)
		if w.Code != tt.code || !strings.Contains(w.Body.String(), tt.body) {
			t.Errorf("%s: %d %s", tt.name, w.Code, w.Body)
		}
	}
	if got := strings.Join(asked, "\n"); !strings.Contains(got, "good get nodes/proxy sanfran") || !strings.Contains(got, "good get nodes/stats sanfran") ||
		!strings.Contains(got, "good get nodes/metrics sanfran") || !strings.Contains(got, "good create nodes/proxy sanfran") {
		t.Errorf("asked:\n%s", got)
	}
}

// signingClient signs every request for a node's certificate with ca.

package provider

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// clientCAFor is how long the cluster's client CA is used before it is read
// again; it is also read again when a certificate is not of it.
const clientCAFor = 5 * time.Minute

// errAnonymous says that a caller presented nothing that proves who it is.
var errAnonymous = errors.New("a client certificate of the cluster's CA or a bearer token is needed")

// kubeletAccess lets a request to the kubelet API pass when Kubernetes says
// that its caller may: it is authenticated by a client certificate of the
// cluster's CA or by a TokenReview, and authorized by a SubjectAccessReview on
// the node, as a kubelet's webhook mode does.
type kubeletAccess struct {
	nodeName string
	// account reads the client CA, reviews makes reviews.
	account, reviews kubernetes.Interface
	next             http.Handler
	log              *slog.Logger

	mu   sync.Mutex
	pool *x509.CertPool
	read time.Time
}

type caller struct {
	name, uid string
	groups    []string
	extra     map[string]authorizationv1.ExtraValue
}

// ServeHTTP implements http.Handler.
func (a *kubeletAccess) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/healthz" {
		a.next.ServeHTTP(w, r)
		return
	}
	who, err := a.authenticate(r)
	if errors.Is(err, errAnonymous) {
		http.Error(w, "Unauthorized: "+err.Error(), http.StatusUnauthorized)
		return
	}
	if err != nil {
		a.log.Error("a caller of the kubelet API could not be authenticated", "error", err)
		http.Error(w, "Kubernetes could not be asked who you are", http.StatusServiceUnavailable)
		return
	}
	verb, subresource := kubeletAttributes(r)
	allowed, reason, err := a.authorize(r.Context(), who, verb, subresource)
	switch {
	case err != nil:
		a.log.Error("a caller of the kubelet API could not be authorized", "user", who.name, "error", err)
		http.Error(w, "Kubernetes could not be asked what you may do", http.StatusServiceUnavailable)
	case !allowed:
		http.Error(w, fmt.Sprintf("Forbidden (user=%s, verb=%s, resource=nodes, subresource=%s) %s", who.name, verb, subresource, reason), http.StatusForbidden)
	default:
		a.next.ServeHTTP(w, r)
	}
}

func (a *kubeletAccess) authenticate(r *http.Request) (*caller, error) {
	if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
		return a.byCertificate(r.Context(), r.TLS.PeerCertificates)
	}
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok || token == "" {
		return nil, errAnonymous
	}
	review, err := a.reviews.AuthenticationV1().TokenReviews().Create(r.Context(), &authenticationv1.TokenReview{
		Spec: authenticationv1.TokenReviewSpec{Token: token},
	}, metav1.CreateOptions{})
	if err != nil {
		return nil, err
	}
	if !review.Status.Authenticated {
		return nil, fmt.Errorf("%w: the token is not valid", errAnonymous)
	}
	user := review.Status.User
	who := &caller{name: user.Username, uid: user.UID, groups: user.Groups, extra: map[string]authorizationv1.ExtraValue{}}
	for key, values := range user.Extra {
		who.extra[key] = authorizationv1.ExtraValue(values)
	}
	return who, nil
}

// byCertificate verifies the chain; a CA that was changed meanwhile is read
// again before the caller is refused.
func (a *kubeletAccess) byCertificate(ctx context.Context, chain []*x509.Certificate) (*caller, error) {
	options := x509.VerifyOptions{
		Intermediates: x509.NewCertPool(),
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	for _, cert := range chain[1:] {
		options.Intermediates.AddCert(cert)
	}
	var verifyErr error
	for _, oldest := range []time.Duration{clientCAFor, 10 * time.Second} {
		pool, err := a.clientCA(ctx, oldest)
		if err != nil {
			return nil, err
		}
		options.Roots = pool
		if _, verifyErr = chain[0].Verify(options); verifyErr == nil {
			subject := chain[0].Subject
			return &caller{name: subject.CommonName, groups: append(subject.Organization, "system:authenticated")}, nil
		}
	}
	return nil, fmt.Errorf("%w: %w", errAnonymous, verifyErr)
}

// clientCA is the CA of client certificates that the API server publishes, read
// anew when the last reading is older than oldest.
func (a *kubeletAccess) clientCA(ctx context.Context, oldest time.Duration) (*x509.CertPool, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.pool != nil && time.Since(a.read) < oldest {
		return a.pool, nil
	}
	published, err := a.account.CoreV1().ConfigMaps(metav1.NamespaceSystem).Get(ctx, "extension-apiserver-authentication", metav1.GetOptions{})
	if err != nil {
		if a.pool != nil {
			return a.pool, nil // an outage does not lock out who was let in
		}
		return nil, fmt.Errorf("read the cluster's client CA: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM([]byte(published.Data["client-ca-file"])) {
		return nil, errors.New("the ConfigMap kube-system/extension-apiserver-authentication holds no certificate under client-ca-file")
	}
	a.pool, a.read = pool, time.Now()
	return pool, nil
}

// kubeletAttributes are what a request is authorized as, by a kubelet's rules:
// most of its API is the subresource nodes/proxy.
func kubeletAttributes(r *http.Request) (verb, subresource string) {
	verb = map[string]string{
		http.MethodGet: "get", http.MethodHead: "get", http.MethodPost: "create",
		http.MethodPut: "update", http.MethodPatch: "patch", http.MethodDelete: "delete",
	}[r.Method]
	switch part, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/"); part {
	case "exec", "attach", "portForward", "run":
		// Also when a WebSocket begins them, by GET: who may only look must not run
		// programs. A kubelet goes by the method.
		return "create", "proxy"
	case "stats", "metrics":
		return verb, part
	case "logs":
		return verb, "log"
	}
	return verb, "proxy"
}

func (a *kubeletAccess) authorize(ctx context.Context, who *caller, verb, subresource string) (bool, string, error) {
	review, err := a.reviews.AuthorizationV1().SubjectAccessReviews().Create(ctx, &authorizationv1.SubjectAccessReview{
		Spec: authorizationv1.SubjectAccessReviewSpec{
			User: who.name, UID: who.uid, Groups: who.groups, Extra: who.extra,
			ResourceAttributes: &authorizationv1.ResourceAttributes{
				Verb: verb, Version: "v1", Resource: "nodes", Subresource: subresource, Name: a.nodeName,
			},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return false, "", err
	}
	return review.Status.Allowed, review.Status.Reason, nil
}

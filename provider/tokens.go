package provider

import (
	"context"
	"fmt"
	"slices"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"sanfran.dev/internal/identity"
)

// Keys of what a reviewed ServiceAccount token says beside its user.
const (
	extraPodName  = "authentication.kubernetes.io/pod-name"
	extraPodUID   = "authentication.kubernetes.io/pod-uid"
	extraNodeName = "authentication.kubernetes.io/node-name"
)

// TokenReviewer asks Kubernetes about tokens of one audience. It implements
// identity.TokenReviewer and is safe for concurrent use.
type TokenReviewer struct {
	client   kubernetes.Interface
	audience string
}

// TokenReviewer returns a reviewer of tokens of that audience. Reviews are made
// in the node's name, which may make them.
func (c *Cluster) TokenReviewer(audience string) *TokenReviewer {
	return &TokenReviewer{client: c.node, audience: audience}
}

// ReviewToken implements identity.TokenReviewer.
func (r *TokenReviewer) ReviewToken(ctx context.Context, token string) (identity.Caller, error) {
	review, err := r.client.AuthenticationV1().TokenReviews().Create(ctx, &authenticationv1.TokenReview{
		Spec: authenticationv1.TokenReviewSpec{Token: token, Audiences: []string{r.audience}},
	}, metav1.CreateOptions{})
	if err != nil {
		return identity.Caller{}, fmt.Errorf("review a token: %w", err)
	}
	status := review.Status
	if !status.Authenticated {
		return identity.Caller{}, fmt.Errorf("%w: %s", identity.ErrToken, status.Error)
	}
	// An API server that does not know audiences answers without them: the
	// token is then valid for it, and for everybody.
	if !slices.Contains(status.Audiences, r.audience) {
		return identity.Caller{}, fmt.Errorf("%w: it is not of audience %q", identity.ErrToken, r.audience)
	}
	rest, ok := strings.CutPrefix(status.User.Username, "system:serviceaccount:")
	namespace, name, both := strings.Cut(rest, ":")
	if !ok || !both {
		return identity.Caller{}, fmt.Errorf("%w: %q is not a ServiceAccount", identity.ErrToken, status.User.Username)
	}
	return identity.Caller{
		Namespace: namespace, ServiceAccount: name,
		PodName:  first(status.User.Extra[extraPodName]),
		PodUID:   first(status.User.Extra[extraPodUID]),
		NodeName: first(status.User.Extra[extraNodeName]),
	}, nil
}

func first(values authenticationv1.ExtraValue) string {
	if len(values) == 0 {
		return ""
	}
	return values[0]
}

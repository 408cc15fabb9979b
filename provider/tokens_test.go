package provider

import (
	"errors"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"

	"sanfran.dev/internal/identity"
)

func TestReviewToken(t *testing.T) {
	client := fake.NewClientset()
	var answer authenticationv1.TokenReviewStatus
	client.PrependReactor("create", "tokenreviews", func(k8stesting.Action) (bool, runtime.Object, error) {
		return true, &authenticationv1.TokenReview{Status: answer}, nil
	})
	reviewer := testCluster(client).TokenReviewer("sanfran")
	user := authenticationv1.UserInfo{Username: "system:serviceaccount:sanfran:agent", Extra: map[string]authenticationv1.ExtraValue{
		extraPodName: {"agent-x"}, extraPodUID: {"u"}, extraNodeName: {"n"},
	}}
	answer = authenticationv1.TokenReviewStatus{Authenticated: true, Audiences: []string{"sanfran"}, User: user}
	got, err := reviewer.ReviewToken(t.Context(), "x")
	if want := (identity.Caller{Namespace: "sanfran", ServiceAccount: "agent", PodName: "agent-x", PodUID: "u", NodeName: "n"}); err != nil || got != want {
		t.Errorf("got %+v, %v", got, err)
	}
	for name, bad := range map[string]authenticationv1.TokenReviewStatus{
		"not valid":         {Error: "expired"},
		"another audience":  {Authenticated: true, Audiences: []string{"api"}, User: user},
		"no audience":       {Authenticated: true, User: user},
		"not a pod's token": {Authenticated: true, Audiences: []string{"sanfran"}, User: authenticationv1.UserInfo{Username: "admin"}},
	} {
		answer = bad
		if _, err := reviewer.ReviewToken(t.Context(), "x"); !errors.Is(err, identity.ErrToken) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

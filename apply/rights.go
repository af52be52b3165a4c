package apply

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	authorizationclient "k8s.io/client-go/kubernetes/typed/authorization/v1"
	"k8s.io/client-go/rest"
)

// Right is leave to do one thing with the objects of a kind, as RBAC has it.
type Right struct{ Verb, Group, Resource string }

// String is the right as `kubectl auth can-i` takes it.
func (r Right) String() string {
	if r.Group == "" {
		return r.Verb + " " + r.Resource
	}
	return r.Verb + " " + r.Resource + "." + r.Group
}

// Rights are what an Applier has to be allowed in the namespaces where it
// changes something, sorted; manifests/enforce grants them. Looking at the cluster and
// keeping the journal come on top.
func Rights() []Right {
	var out []Right
	for kind, gvr := range kinds {
		verbs := []string{"get", "delete"}
		if kind == secretKind {
			verbs = append(verbs, "patch")
		}
		for _, v := range verbs {
			out = append(out, Right{v, gvr.Group, gvr.Resource})
		}
	}
	slices.SortFunc(out, func(a, b Right) int {
		return cmp.Or(strings.Compare(a.Group, b.Group), strings.Compare(a.Resource, b.Resource), strings.Compare(a.Verb, b.Verb))
	})
	return out
}

// Missing are those of Rights that cfg's user lacks in a namespace, or everywhere
// when that is empty, by SelfSubjectAccessReviews. Where those are not
// allowed, which by default they are for everybody (ClusterRole
// system:basic-user), none is known to be missing.
func Missing(ctx context.Context, cfg *rest.Config, namespace string) ([]Right, error) {
	client, err := authorizationclient.NewForConfig(cfg)
	if err != nil {
		return nil, err
	}
	var out []Right
	for _, r := range Rights() {
		review, err := client.SelfSubjectAccessReviews().Create(ctx, &authorizationv1.SelfSubjectAccessReview{
			Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &authorizationv1.ResourceAttributes{
				Verb: r.Verb, Group: r.Group, Resource: r.Resource, Namespace: namespace,
			}},
		}, metav1.CreateOptions{})
		if apierrors.IsForbidden(err) {
			return nil, nil
		}
		if err != nil {
			return nil, fmt.Errorf("cannot find out whether certherd may %s: %w", r, err)
		}
		if !review.Status.Allowed {
			out = append(out, r)
		}
	}
	return out, nil
}

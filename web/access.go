package web

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/certherd/certherd/api/v1alpha1"
)

// Audience is that of tokens which are good for this page and for nothing else:
// `kubectl create token NAME --audience certherd`.
const Audience = "certherd"

// Rights are those that certherd needs for signing people in and for writing what
// they decide, beyond those that it has anyhow. The last one is needed in its own
// namespace alone.
func Rights() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		{APIGroups: []string{"authentication.k8s.io"}, Resources: []string{"tokenreviews"}, Verbs: []string{"create"}},
		{APIGroups: []string{"authorization.k8s.io"}, Resources: []string{"subjectaccessreviews"}, Verbs: []string{"create"}},
		{APIGroups: []string{v1alpha1.Group}, Resources: []string{v1alpha1.Resource}, Verbs: []string{"get", "patch"}},
		{APIGroups: []string{""}, Resources: []string{"configmaps"}, Verbs: []string{"update"}},
	}
}

// errUnknown says that the API server knows nobody by a token.
var errUnknown = errors.New("the API server does not take this token: it has expired, was revoked, or is of another cluster")

// access asks the API server who people are, and what they may do.
type access struct {
	client            kubernetes.Interface
	namespace, report string
}

// who asks by a TokenReview whom a token is of. The error is errUnknown if it is of
// nobody; any other one says that it is not known.
func (a *access) who(ctx context.Context, token string) (authenticationv1.UserInfo, error) {
	for _, audiences := range [][]string{{Audience}, nil} { // nil is the API server's own
		r, err := a.client.AuthenticationV1().TokenReviews().Create(ctx, &authenticationv1.TokenReview{
			Spec: authenticationv1.TokenReviewSpec{Token: token, Audiences: audiences},
		}, metav1.CreateOptions{})
		if err != nil {
			return authenticationv1.UserInfo{}, fmt.Errorf("the API server could not be asked who you are: %w; certherd needs the rights of manifests/components/web", err)
		}
		// An authenticator that knows no audiences returns none; its tokens are for the
		// API server (k8s.io/api/authentication/v1, TokenReviewStatus.Audiences).
		if r.Status.Authenticated && r.Status.User.Username != "" && (audiences == nil || slices.Contains(r.Status.Audiences, Audience)) {
			return r.Status.User, nil
		}
	}
	return authenticationv1.UserInfo{}, errUnknown
}

// may asks by SubjectAccessReviews whether somebody may do all of what is given.
func (a *access) may(ctx context.Context, who authenticationv1.UserInfo, what ...authorizationv1.ResourceAttributes) (bool, error) {
	extra := map[string]authorizationv1.ExtraValue{}
	for k, v := range who.Extra {
		extra[k] = authorizationv1.ExtraValue(v)
	}
	for i := range what {
		r, err := a.client.AuthorizationV1().SubjectAccessReviews().Create(ctx, &authorizationv1.SubjectAccessReview{
			Spec: authorizationv1.SubjectAccessReviewSpec{User: who.Username, Groups: who.Groups, UID: who.UID, Extra: extra, ResourceAttributes: &what[i]},
		}, metav1.CreateOptions{})
		if err != nil {
			return false, fmt.Errorf("the API server could not be asked what you may do: %w", err)
		}
		if !r.Status.Allowed || r.Status.Denied {
			return false, nil
		}
	}
	return true, nil
}

// ApprovalsName is the ConfigMap that approvals are kept in.
const ApprovalsName = "certherd-approvals"

// approving is what `certherd approve` does, as manifests/operator grants it.
func (a *access) approving() []authorizationv1.ResourceAttributes {
	x := authorizationv1.ResourceAttributes{Namespace: a.namespace, Verb: "get", Resource: "configmaps", Version: "v1", Name: ApprovalsName}
	y := x
	y.Verb = "update"
	return []authorizationv1.ResourceAttributes{x, y}
}

// viewing is to read the report that is kept in the cluster.
func (a *access) viewing() authorizationv1.ResourceAttributes {
	return authorizationv1.ResourceAttributes{Namespace: a.namespace, Verb: "get", Resource: "configmaps", Version: "v1", Name: a.report}
}

// remembering is what `certherd history` does.
func (a *access) remembering() authorizationv1.ResourceAttributes {
	return authorizationv1.ResourceAttributes{Namespace: a.namespace, Verb: "list", Resource: "configmaps", Version: "v1"}
}

// consolidations is a verb on Consolidations; namespace and name are empty for all.
func consolidations(verb, namespace, name string) authorizationv1.ResourceAttributes {
	return authorizationv1.ResourceAttributes{Verb: verb, Group: v1alpha1.Group, Version: v1alpha1.Version, Resource: v1alpha1.Resource, Namespace: namespace, Name: name}
}

// expiry is when a token ends by its own word, zero where it says nothing (RFC 7519
// section 4.1.4). Only a token that the API server has just taken is worth reading.
func expiry(token string) time.Time {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return time.Time{}
	}
	b, err := base64.RawURLEncoding.DecodeString(parts[1])
	var claims struct {
		Exp float64 `json:"exp"`
	}
	if err != nil || json.Unmarshal(b, &claims) != nil || claims.Exp <= 0 {
		return time.Time{}
	}
	return time.Unix(int64(claims.Exp), 0)
}

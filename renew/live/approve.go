package live

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/certherd/certherd/inventory"
	"github.com/certherd/certherd/renew"
)

var requests = schema.GroupVersionResource{Group: inventory.GroupCertManager, Version: "v1", Resource: "certificaterequests"}

// ApproverRights are what an Approver has to be allowed; manifests/approve grants
// them. The right to approve is asked for by cert-manager's webhook, for each issuer
// (its internal/webhook/admission/certificaterequest/approval).
func ApproverRights() []rbacv1.PolicyRule {
	group := []string{inventory.GroupCertManager}
	return []rbacv1.PolicyRule{
		{APIGroups: group, Resources: []string{"certificates"}, Verbs: []string{"get"}},
		{APIGroups: group, Resources: []string{"certificaterequests"}, Verbs: []string{"list", "watch"}},
		{APIGroups: group, Resources: []string{"certificaterequests/status"}, Verbs: []string{"patch"}},
		{APIGroups: group, Resources: []string{"signers"}, ResourceNames: []string{"issuers.cert-manager.io/*", "clusterissuers.cert-manager.io/*"}, Verbs: []string{"approve"}},
	}
}

// ErrPolicies says that somebody else approves requests.
var ErrPolicies = errors.New("approver-policy is installed (policy.cert-manager.io), which approves requests by its policies: certherd must not approve what these would deny. Turn batch.requests.approve off")

// Approver approves CertificateRequests in batches, where cert-manager does not.
type Approver struct {
	objects   dynamic.Interface
	discovery discovery.DiscoveryInterface
	pacing    renew.Pacing
	// Tell is told of each request that was, or could not be, approved, and of how many
	// are held, and until when.
	Tell func(a renew.Approved, err error)
	Held func(n int, until time.Time)
	// Pace is asked for what is due: it returns what is approved now, and when to
	// ask again for the rest; zero where there is none. What is urgent goes in any
	// case.
	Pace func(ctx context.Context, due []renew.Approved) (now []renew.Approved, next time.Time)
}

// NewApprover returns an Approver that acts as cfg's user.
func NewApprover(cfg *rest.Config, p renew.Pacing) (*Approver, error) {
	cfg = rest.CopyConfig(cfg)
	cfg.WarningHandler = rest.NoWarnings{}
	cfg.QPS, cfg.RateLimiter = -1, nil
	a := &Approver{pacing: p, Tell: func(renew.Approved, error) {}, Held: func(int, time.Time) {}}
	a.Pace = func(_ context.Context, due []renew.Approved) ([]renew.Approved, time.Time) { return due, time.Time{} }
	var err error
	if a.objects, err = dynamic.NewForConfig(cfg); err != nil {
		return nil, err
	}
	a.discovery, err = discovery.NewDiscoveryClientForConfig(cfg)
	return a, err
}

// Check returns ErrPolicies where approver-policy is installed.
func (a *Approver) Check() error {
	groups, err := a.discovery.ServerGroups()
	if err != nil {
		return fmt.Errorf("cannot find out whether approver-policy is installed: %w", err)
	}
	for _, g := range groups.Groups {
		if g.Name == inventory.GroupPolicy {
			return ErrPolicies
		}
	}
	return nil
}

// again is how long what is known of a Certificate is taken to be true, and the least
// time between two attempts after a failure.
const again = 10 * time.Second

// Run approves until ctx ends. It returns early with the error of Check, which it
// asks again before each batch.
func (a *Approver) Run(ctx context.Context) error {
	if err := a.Check(); err != nil {
		return err
	}
	changed := make(chan struct{}, 1)
	wake := func(any) {
		select {
		case changed <- struct{}{}:
		default:
		}
	}
	resource := a.objects.Resource(requests)
	store, informer := cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: &cache.ListWatch{
			ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
				return resource.List(ctx, o)
			},
			WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
				return resource.Watch(ctx, o)
			},
		},
		ObjectType: &unstructured.Unstructured{},
		Transform:  slim,
		Handler:    cache.ResourceEventHandlerFuncs{AddFunc: wake, UpdateFunc: func(_, x any) { wake(x) }, DeleteFunc: wake},
	})
	done := make(chan struct{})
	go func() { defer close(done); informer.RunWithContext(ctx) }()
	defer func() { <-done }()
	if !cache.WaitForCacheSync(ctx.Done(), informer.HasSynced) {
		return nil
	}
	known := map[types.UID]known{}
	for {
		next, err := a.pass(ctx, store.List(), known, time.Now())
		if err != nil {
			return err
		}
		wait := time.Minute // clocks are set
		if !next.IsZero() {
			wait = min(wait, max(time.Until(next), 10*time.Millisecond))
		}
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			t.Stop()
			return nil
		case <-t.C:
		case <-changed:
			t.Stop()
		}
	}
}

// slim leaves of a CertificateRequest what an Approver looks at: its certificate and
// its signing request are most of it.
func slim(x any) (any, error) {
	u, ok := x.(*unstructured.Unstructured)
	if !ok {
		return x, nil
	}
	u.SetManagedFields(nil)
	unstructured.RemoveNestedField(u.Object, "spec")
	for _, f := range []string{"ca", "certificate"} {
		unstructured.RemoveNestedField(u.Object, "status", f)
	}
	return u, nil
}

// known is a request with what was found out about it.
type known struct {
	renew.Request
	at time.Time
}

// pass approves what is due, and says when to look again.
func (a *Approver) pass(ctx context.Context, objects []any, memory map[types.UID]known, now time.Time) (next time.Time, err error) {
	byRef := map[inventory.Ref]*unstructured.Unstructured{}
	seen := map[types.UID]bool{}
	var pending []renew.Request
	for _, x := range objects {
		u := x.(*unstructured.Unstructured)
		if decided(u) || u.GetDeletionTimestamp() != nil {
			continue
		}
		seen[u.GetUID()] = true
		k, ok := memory[u.GetUID()]
		if !ok || now.Sub(k.at).Abs() > again {
			if k, err = a.look(ctx, u, now); err != nil {
				// What is not known must not wait for it.
				k = known{Request: renew.Request{Ref: refOf(u), Created: u.GetCreationTimestamp().Time, Certificate: true, Urgent: "its Certificate cannot be read: " + err.Error()}, at: now}
			}
			memory[u.GetUID()] = k
		}
		byRef[k.Ref] = u
		pending = append(pending, k.Request)
	}
	for uid := range memory {
		if !seen[uid] {
			delete(memory, uid)
		}
	}
	approved, next := a.pacing.Due(pending, now)
	if len(approved) > 0 {
		var later time.Time
		if approved, later = a.Pace(ctx, approved); next.IsZero() || !later.IsZero() && later.Before(next) {
			next = later
		}
	}
	a.Held(len(pending)-len(approved), next)
	if len(approved) == 0 {
		return next, nil
	}
	if err := a.Check(); err != nil {
		return time.Time{}, err
	}
	each(len(approved), func(i int) {
		err := a.approve(ctx, byRef[approved[i].Ref], approved[i])
		switch {
		case apierrors.IsNotFound(err), apierrors.IsConflict(err):
			return // its next version comes by the watch
		case ctx.Err() == nil:
			a.Tell(approved[i], err)
		}
	})
	if soon := now.Add(again); next.IsZero() || next.After(soon) {
		next = soon // what could not be approved is tried again
	}
	return next, nil
}

func refOf(u *unstructured.Unstructured) inventory.Ref {
	return inventory.Ref{Group: inventory.GroupCertManager, Kind: "CertificateRequest", Namespace: u.GetNamespace(), Name: u.GetName()}
}

// decided reports whether a request was approved or denied, or is over.
func decided(u *unstructured.Unstructured) bool {
	conditions, _, err := unstructured.NestedSlice(u.Object, "status", "conditions")
	if err != nil {
		return true
	}
	for _, c := range conditions {
		m, _ := c.(map[string]any)
		switch m["type"] {
		case "Approved", "Denied", "InvalidRequest":
			if m["status"] == "True" {
				return true
			}
		case "Ready":
			if m["status"] == "True" || m["reason"] == "Failed" {
				return true
			}
		}
	}
	return false
}

// UrgentAnnotation on a Certificate says that it must not wait, and why: a key that
// is known to others, or a word of a person.
const UrgentAnnotation = "certherd.dev/urgent"

// look finds out what a request is to replace.
func (a *Approver) look(ctx context.Context, u *unstructured.Unstructured, now time.Time) (known, error) {
	k := known{Request: renew.Request{Ref: refOf(u), Created: u.GetCreationTimestamp().Time}, at: now}
	owner := metav1.GetControllerOf(u)
	if owner == nil || owner.Kind != "Certificate" {
		return k, nil // csi-driver and the like: somebody waits for it
	}
	crt, err := a.objects.Resource(certificates).Namespace(u.GetNamespace()).Get(ctx, owner.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return k, nil
	}
	if err != nil {
		return k, err
	}
	k.Certificate = true
	if why := crt.GetAnnotations()[UrgentAnnotation]; why != "" {
		k.Urgent = "its Certificate says so: " + why
	}
	if w, err := renew.ParseWord(crt.GetAnnotations()[renew.Annotation]); err == nil && !k.Created.Before(w.Since.Truncate(time.Second)) && validFrom(crt).Before(w.Since) {
		k.Urgent = "a person wants a new certificate: " + w.Why
	}
	if !hasCondition(crt, "Ready") {
		return k, nil // its Secret is gone, or does not fit: nothing to go on with
	}
	for field, to := range map[string]*time.Time{"notBefore": &k.NotBefore, "notAfter": &k.NotAfter} {
		text, _, _ := unstructured.NestedString(crt.Object, "status", field)
		if t, err := time.Parse(time.RFC3339, text); err == nil {
			*to = t
		}
	}
	return k, nil
}

// hasCondition reports whether a condition is True.
func hasCondition(u *unstructured.Unstructured, kind string) bool {
	conditions, _, _ := unstructured.NestedSlice(u.Object, "status", "conditions")
	for _, c := range conditions {
		if m, ok := c.(map[string]any); ok && m["type"] == kind {
			return m["status"] == "True"
		}
	}
	return false
}

// validFrom is the beginning of the validity of what a Certificate has; zero if nothing
// tells it.
func validFrom(crt *unstructured.Unstructured) time.Time {
	text, _, _ := unstructured.NestedString(crt.Object, "status", "notBefore")
	t, _ := time.Parse(time.RFC3339, text)
	return t
}

// approve adds the condition, if the request is still as it was seen.
func (a *Approver) approve(ctx context.Context, u *unstructured.Unstructured, x renew.Approved) error {
	conditions, _, err := unstructured.NestedSlice(u.Object, "status", "conditions")
	if err != nil {
		return errNoStatus
	}
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": u.GetUID(), "resourceVersion": u.GetResourceVersion()},
		"status": map[string]any{"conditions": append(conditions, map[string]any{
			"type": "Approved", "status": "True", "reason": "certherd.dev",
			"message":            "certherd approved it: " + string(x.Why),
			"lastTransitionTime": time.Now().UTC().Format(time.RFC3339),
		})},
	})
	if err != nil {
		return err
	}
	_, err = a.objects.Resource(requests).Namespace(u.GetNamespace()).Patch(ctx, u.GetName(), types.MergePatchType, patch, metav1.PatchOptions{FieldManager: fieldManager}, "status")
	if apierrors.IsForbidden(err) {
		return fmt.Errorf("%w; manifests/approve grants it", err)
	}
	return err
}

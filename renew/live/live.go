// Package live has certificates renewed in a cluster, all of a batch at nearly one
// time: cert-manager issues anew what has the condition Issuing, as cmctl renew
// does (its pkg/renew/renew.go).
//
// The cluster holds all that there is to remember: a Certificate that has the
// condition, or was issued since, is not in the state that was planned for, and is
// passed over. So whoever is killed in the midst of a batch has triggered some of
// it, and nothing twice.
package live

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"

	"github.com/certherd/certherd/inventory"
	"github.com/certherd/certherd/plan"
)

// fieldManager owns what is written (metadata.managedFields).
const fieldManager = "certherd"

var certificates = schema.GroupVersionResource{Group: inventory.GroupCertManager, Version: "v1", Resource: "certificates"}

// Rights are what a Renewer and a Listener have to be allowed where they renew;
// manifests/renew grants them.
func Rights() []rbacv1.PolicyRule {
	group := []string{inventory.GroupCertManager}
	return []rbacv1.PolicyRule{
		{APIGroups: group, Resources: []string{"certificates"}, Verbs: []string{"get", "list", "watch"}},
		{APIGroups: group, Resources: []string{"certificaterequests"}, Verbs: []string{"list"}},
		{APIGroups: group, Resources: []string{"certificates/status"}, Verbs: []string{"patch"}},
	}
}

// Result is what became of one certificate.
type Result string

// The results.
const (
	Triggered Result = "triggered"
	Dropped   Result = "dropped" // it is not as it was planned for any more
	Failed    Result = "failed"
	Later     Result = "later" // the batch ended before its turn
)

// Renewer triggers renewals.
type Renewer struct {
	objects dynamic.Interface
	// skew is how far this machine's clock is ahead of the API server's, by its last
	// answer.
	skew atomic.Int64
}

const (
	workers = 16
	// maxSkew is how far the clocks of this machine and of the API server may be
	// apart: with a wrong clock, nobody knows what is due.
	maxSkew = 5 * time.Minute
)

// New returns a Renewer that acts as cfg's user. now is the clock that decided
// about the batch.
func New(cfg *rest.Config, now func() time.Time) (*Renewer, error) {
	r := &Renewer{}
	cfg = rest.CopyConfig(cfg)
	cfg.WarningHandler = rest.NoWarnings{}
	cfg.QPS, cfg.RateLimiter = -1, nil // the batch is to be as short as it can
	if cfg.Timeout == 0 {
		cfg.Timeout = 30 * time.Second // of one request
	}
	cfg.Wrap(func(next http.RoundTripper) http.RoundTripper { return &dated{next, now, &r.skew} })
	var err error
	r.objects, err = dynamic.NewForConfig(cfg)
	return r, err
}

// dated notes what time the API server has.
type dated struct {
	next http.RoundTripper
	now  func() time.Time
	skew *atomic.Int64
}

func (d *dated) RoundTrip(q *http.Request) (*http.Response, error) {
	a, err := d.next.RoundTrip(q)
	if err == nil {
		if t, err := http.ParseTime(a.Header.Get("Date")); err == nil {
			d.skew.Store(int64(d.now().Sub(t)))
		}
	}
	return a, err
}

// WrappedRoundTripper lets client-go see what is below.
func (d *dated) WrappedRoundTripper() http.RoundTripper { return d.next }

// Renew has the objects of steps renewed that are in the state that was planned
// for, and calls tell with what became of each, one after the other. It reads all of
// them first, and then writes to all of them, as fast as the API server takes it:
// what cert-manager issues at one time reaches a gateway at one time.
func (r *Renewer) Renew(ctx context.Context, steps []plan.Step, tell func(st plan.Step, result Result, why string)) {
	var mu sync.Mutex
	done := func(st plan.Step, result Result, why string) {
		mu.Lock()
		defer mu.Unlock()
		tell(st, result, why)
	}
	patches := make([][]byte, len(steps))
	each(len(steps), func(i int) {
		patch, result, why := r.prepare(ctx, steps[i], len(steps))
		if result != "" {
			done(steps[i], result, why)
			return
		}
		patches[i] = patch
	})
	if skew := time.Duration(r.skew.Load()); skew.Abs() > maxSkew {
		why := fmt.Sprintf("the clocks of this machine and of the API server are %s apart, so that nobody knows what is due", skew.Abs().Round(time.Second))
		for i, p := range patches {
			if p != nil {
				done(steps[i], Later, why)
			}
		}
		return
	}
	each(len(steps), func(i int) {
		if patches[i] == nil {
			return
		}
		st := steps[i]
		_, err := r.objects.Resource(certificates).Namespace(st.Object.Namespace).Patch(ctx, st.Object.Name, types.MergePatchType, patches[i], metav1.PatchOptions{FieldManager: fieldManager}, "status")
		result, why := judge(ctx, err)
		done(st, result, why)
	})
}

// prepare makes the patch of one step, or says why there is none.
func (r *Renewer) prepare(ctx context.Context, st plan.Step, of int) (patch []byte, result Result, why string) {
	if st.Action != plan.Renew || st.Object != inventory.CertificateRef(st.Object.Namespace, st.Object.Name) {
		return nil, Failed, fmt.Sprintf("%s %s is no renewal of a Certificate", st.Action, st.Object)
	}
	u, err := r.objects.Resource(certificates).Namespace(st.Object.Namespace).Get(ctx, st.Object.Name, metav1.GetOptions{})
	if err != nil {
		result, why = judge(ctx, err)
		return nil, result, why
	}
	switch {
	case string(u.GetUID()) != st.If.UID:
		return nil, Dropped, "it is another object of that name"
	case u.GetResourceVersion() != st.If.ResourceVersion:
		return nil, Dropped, "it has changed since it was looked at"
	case u.GetDeletionTimestamp() != nil:
		return nil, Dropped, "it is being deleted"
	}
	patch, err = issuing(u, fmt.Sprintf("certherd renews %d certificates together before they are due", of), time.Now())
	if err != nil {
		return nil, Failed, err.Error()
	}
	return patch, "", ""
}

// judge says how a request ended.
func judge(ctx context.Context, err error) (Result, string) {
	switch {
	case err == nil:
		return Triggered, ""
	case apierrors.IsNotFound(err):
		return Dropped, "it is gone"
	case apierrors.IsConflict(err):
		return Dropped, "it was changed at this very moment"
	case apierrors.IsForbidden(err):
		return Failed, err.Error() + "; manifests/renew grants it"
	case ctx.Err() != nil:
		return Later, context.Cause(ctx).Error()
	}
	return Failed, err.Error()
}

var errNoStatus = errors.New("its status cannot be read")

// issuing is the patch that has a Certificate issued, on the condition that it is
// still as it was read. A merge patch replaces a list as a whole.
func issuing(u *unstructured.Unstructured, message string, now time.Time) ([]byte, error) {
	conditions, _, err := unstructured.NestedSlice(u.Object, "status", "conditions")
	if err != nil {
		return nil, errNoStatus
	}
	conditions = slices.DeleteFunc(conditions, func(c any) bool {
		m, ok := c.(map[string]any)
		return ok && m["type"] == "Issuing"
	})
	conditions = append(conditions, map[string]any{
		"type": "Issuing", "status": "True", "reason": "ManuallyTriggered",
		"message":            message,
		"lastTransitionTime": now.UTC().Format(time.RFC3339), "observedGeneration": u.GetGeneration(),
	})
	return json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": u.GetUID(), "resourceVersion": u.GetResourceVersion()},
		"status":   map[string]any{"conditions": conditions},
	})
}

// each calls do with 0 to n-1, several at a time.
func each(n int, do func(int)) {
	var next atomic.Int64
	var running sync.WaitGroup
	for range min(n, workers) {
		running.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				do(i)
			}
		})
	}
	running.Wait()
}

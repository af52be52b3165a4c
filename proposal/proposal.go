// Package proposal keeps the Consolidations in the cluster in step with what is
// proposed: it makes, changes and withdraws them, and says which of them a
// person's approval is for. What is being carried out it leaves alone.
package proposal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/pager"

	"github.com/certherd/certherd/api/v1alpha1"
	"github.com/certherd/certherd/consolidate"
)

// ErrNotInstalled is the error of a cluster without the custom resource.
var ErrNotInstalled = errors.New("the custom resource consolidations.certherd.dev is not installed: apply manifests/crd")

// Options are those of a Proposer.
type Options struct {
	// Keep is how long what was withdrawn stays to be read.
	Keep time.Duration
	// Now is the clock.
	Now func() time.Time
}

// Outcome is what became of one Consolidation.
type Outcome struct {
	Namespace, Name string
	Phase           v1alpha1.Phase
	// What says what was done: created, changed, withdrawn, deleted; empty for
	// nothing. An Err is why it was not.
	What string
	Err  error
}

// Proposer writes Consolidations. It needs the verbs list, create, patch and delete
// on consolidations, and patch on consolidations/status; Get needs get.
type Proposer struct {
	objects dynamic.NamespaceableResourceInterface
	o       Options
}

// New returns a Proposer that acts as cfg's user.
func New(cfg *rest.Config, o Options) (*Proposer, error) {
	c, err := dynamic.NewForConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("cannot talk to the API server: %w", err)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Proposer{objects: c.Resource(v1alpha1.GroupVersionResource), o: o}, nil
}

// List returns the Consolidations of all namespaces.
func (p *Proposer) List(ctx context.Context) ([]*v1alpha1.Consolidation, error) {
	var out []*v1alpha1.Consolidation
	list := pager.New(pager.SimplePageFunc(func(o metav1.ListOptions) (runtime.Object, error) { return p.objects.List(ctx, o) }))
	list.PageSize = 50 // each may have a MiB
	err := list.EachListItem(ctx, metav1.ListOptions{}, func(o runtime.Object) error {
		c, err := v1alpha1.FromUnstructured(o.(*unstructured.Unstructured))
		out = append(out, c)
		return err
	})
	if apierrors.IsNotFound(err) {
		return nil, ErrNotInstalled
	}
	if err != nil {
		return nil, fmt.Errorf("cannot list consolidations: %w", err)
	}
	return out, nil
}

// Sync makes the Consolidations of the cluster those of proposals, which have to
// be all that a look at the whole cluster led to. approve says why those
// that nothing stops, and that nobody has rejected, are approved without
// spec.approvedDigest, which is then set; what it returns "" for is not, and nil approves none. The Outcomes are of
// those that are not as they were, and of those that failed; an error says that
// nothing was done.
func (p *Proposer) Sync(ctx context.Context, proposals []consolidate.Proposal, approve func(*consolidate.Proposal) (why string)) ([]Outcome, error) {
	all, err := p.List(ctx)
	if err != nil {
		return nil, err
	}
	type key struct{ namespace, name string }
	there := map[key]*v1alpha1.Consolidation{}
	for _, c := range all {
		there[key{c.Namespace, c.Name}] = c
	}
	var out []Outcome
	note := func(c *v1alpha1.Consolidation, what string, err error) {
		if what != "" || err != nil {
			out = append(out, Outcome{Namespace: c.Namespace, Name: c.Name, Phase: c.Status.Phase, What: what, Err: err})
		}
	}
	for _, x := range proposals {
		if err := ctx.Err(); err != nil {
			return out, err
		}
		want := *x.Consolidation
		k := key{want.Namespace, want.Name}
		old := there[k]
		delete(there, k)
		why := ""
		if approve != nil {
			why = approve(&x)
		}
		what, err := p.propose(ctx, &want, old, why)
		note(&want, what, err)
	}
	for _, c := range all {
		if there[key{c.Namespace, c.Name}] == nil {
			continue
		}
		what, err := p.withdraw(ctx, c)
		note(c, what, err)
	}
	return out, nil
}

// settled reports whether a Consolidation is not to be touched: it is being
// carried out, or it is over and nobody has asked for another attempt.
func settled(c *v1alpha1.Consolidation) bool {
	switch c.Status.Phase {
	case v1alpha1.Done:
		return c.Spec.Undo
	case v1alpha1.RolledBack:
		return c.Spec.ApprovedDigest != "" || c.Spec.Undo
	}
	return c.Status.Phase.Executing()
}

// propose makes old, nil for none, what want is.
func (p *Proposer) propose(ctx context.Context, want, old *v1alpha1.Consolidation, approve string) (what string, err error) {
	want.Spec.Revision = 1
	if old != nil {
		if settled(old) {
			want.Status.Phase = old.Status.Phase
			return "", nil
		}
		want.Spec.Revision = old.Spec.Revision
		if old.Status.Phase.Ended() {
			want.Spec.Revision++
		}
	}
	now := old
	if old == nil || !apiequality.Semantic.DeepEqual(old.Spec.Proposal, want.Spec.Proposal) {
		if now, err = p.applySpec(ctx, want, old); err != nil {
			return "", err
		}
		what = "changed"
		if old == nil {
			what = "created"
		}
	}
	changed, now, err := p.applyStatus(ctx, want, now)
	if err != nil {
		return what, err
	}
	if changed && what == "" {
		what = "changed"
	}
	if approve != "" && now.Status.Phase == v1alpha1.Proposed {
		// Only now: the API server takes no approval of what status does not show.
		if now, err = p.Approve(ctx, now, Author{By: "certherd", Reason: approve}); err != nil {
			return what, err
		}
		if _, now, err = p.applyStatus(ctx, want, now); err != nil {
			return what, err
		}
		what = "changed"
	}
	want.Status.Phase = now.Status.Phase
	return what, nil
}

func (p *Proposer) applySpec(ctx context.Context, want, old *v1alpha1.Consolidation) (*v1alpha1.Consolidation, error) {
	spec := want.Spec
	spec.ApprovedDigest, spec.Rejected, spec.Undo = "", false, false
	body, err := fields(spec)
	if err != nil {
		return nil, err
	}
	u := object(want, old)
	u.Object["spec"] = body
	return p.apply(ctx, u, v1alpha1.ProposalManager)
}

// applyStatus tells what there is to say of now, whose spec is that of want.
func (p *Proposer) applyStatus(ctx context.Context, want, now *v1alpha1.Consolidation) (changed bool, after *v1alpha1.Consolidation, err error) {
	status := p.review(want, now)
	old := now.Status
	old.Execution = nil
	old.Conditions = slices.DeleteFunc(slices.Clone(old.Conditions), func(c metav1.Condition) bool {
		return c.Type != v1alpha1.ConditionApproved && c.Type != v1alpha1.ConditionClear
	})
	if apiequality.Semantic.DeepEqual(old, status) {
		return false, now, nil
	}
	body, err := fields(status)
	if err != nil {
		return false, nil, err
	}
	u := object(want, now)
	u.Object["status"] = body
	after, err = p.apply(ctx, u, v1alpha1.ProposalManager, "status")
	return true, after, err
}

// review is the status of a Consolidation that nobody is carrying out.
func (p *Proposer) review(want, now *v1alpha1.Consolidation) v1alpha1.ConsolidationStatus {
	s := want.Status
	s.Execution = nil
	s.ObservedGeneration = now.Generation
	s.Digest = now.Spec.Digest()
	s.Conditions = nil
	for _, c := range now.Status.Conditions {
		if c.Type == v1alpha1.ConditionApproved || c.Type == v1alpha1.ConditionClear {
			s.Conditions = append(s.Conditions, c)
		}
	}
	condition := func(typ string, yes bool, reason, message string) {
		status := metav1.ConditionFalse
		if yes {
			status = metav1.ConditionTrue
		}
		meta.SetStatusCondition(&s.Conditions, metav1.Condition{Type: typ, Status: status, Reason: reason, Message: message, ObservedGeneration: now.Generation, LastTransitionTime: p.stamp()})
	}
	stopped := s.Phase != v1alpha1.Proposed
	if stopped {
		reason := "Held"
		if s.Phase == v1alpha1.Waiting {
			reason = "Waiting"
		}
		condition(v1alpha1.ConditionClear, false, reason, strings.Join(s.Blockers, "; "))
	} else {
		condition(v1alpha1.ConditionClear, true, "NothingStopsIt", "nothing stops it")
	}
	approved := now.Spec.Approved()
	switch {
	case now.Spec.Rejected:
		condition(v1alpha1.ConditionApproved, false, "Rejected", "a person has rejected it")
	case approved:
		condition(v1alpha1.ConditionApproved, true, "Approved", "a person, or mode enforce, has approved what is proposed")
	case now.Spec.ApprovedDigest != "":
		condition(v1alpha1.ConditionApproved, false, "ChangedSince", "what was approved is another proposal than this one")
	default:
		condition(v1alpha1.ConditionApproved, false, "NotYet", "nobody has approved it")
	}
	switch {
	case now.Spec.Rejected:
		s.Phase, s.Message = v1alpha1.Rejected, "rejected; take spec.rejected back to have it proposed"
	case now.Spec.Undo:
		s.Phase, s.Message = v1alpha1.Rejected, "there is nothing to undo; take spec.undo back to have it proposed"
	case stopped && s.WaitUntil != nil:
		s.Message = "waits until " + s.WaitUntil.UTC().Format("2006-01-02 15:04 MST") + ": " + first(s.Blockers)
	case stopped:
		s.Message = first(s.Blockers)
	case approved:
		s.Phase, s.Message = v1alpha1.Approved, "approved; it begins when mode and windows allow"
	case now.Spec.ApprovedDigest != "":
		s.Message = "changed since it was approved: look again, and approve it"
	default:
		s.Message = "waits for approval"
	}
	return s
}

func first(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return list[0]
}

// withdraw says of a Consolidation that it is proposed no more, and deletes it
// when that was said for long enough.
func (p *Proposer) withdraw(ctx context.Context, c *v1alpha1.Consolidation) (what string, err error) {
	switch {
	case c.Status.Phase.Executing(), c.Status.Phase.Ended():
		return "", nil
	case c.Status.Phase == v1alpha1.Withdrawn:
		since := c.CreationTimestamp.Time
		if x := meta.FindStatusCondition(c.Status.Conditions, v1alpha1.ConditionClear); x != nil {
			since = x.LastTransitionTime.Time
		}
		if c.Spec.Rejected || c.Status.Execution != nil || p.o.Now().Sub(since) < p.o.Keep {
			return "", nil
		}
		uid, version := c.UID, c.ResourceVersion
		err := p.objects.Namespace(c.Namespace).Delete(ctx, c.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid, ResourceVersion: &version}})
		if apierrors.IsNotFound(err) {
			err = nil
		}
		return "deleted", err
	}
	s := v1alpha1.ConsolidationStatus{
		ObservedGeneration: c.Generation, Digest: c.Spec.Digest(), Phase: v1alpha1.Withdrawn,
		Message: "nothing is to be gained by it any more, or not in this way",
		Conditions: []metav1.Condition{
			{Type: v1alpha1.ConditionClear, Status: metav1.ConditionFalse, Reason: "Withdrawn", Message: "it is not proposed any more", ObservedGeneration: c.Generation, LastTransitionTime: p.stamp()},
		},
	}
	body, err := fields(s)
	if err != nil {
		return "", err
	}
	u := object(c, c)
	u.Object["status"] = body
	after, err := p.apply(ctx, u, v1alpha1.ProposalManager, "status")
	if err != nil {
		return "", err
	}
	*c = *after
	return "withdrawn", nil
}

// Approve approves what status.digest of c says, as long as c is as it was read.
func (p *Proposer) Approve(ctx context.Context, c *v1alpha1.Consolidation, who Author) (*v1alpha1.Consolidation, error) {
	return p.decide(ctx, c, Decision{What: DecidedApprove, Author: who, Digest: c.Status.Digest}, map[string]any{"approvedDigest": c.Status.Digest, "rejected": nil, "undo": nil})
}

// Reject rejects c, whatever becomes of it.
func (p *Proposer) Reject(ctx context.Context, c *v1alpha1.Consolidation, who Author) (*v1alpha1.Consolidation, error) {
	return p.decide(ctx, c, Decision{What: DecidedReject, Author: who}, map[string]any{"rejected": true})
}

// Undo asks for the state before c.
func (p *Proposer) Undo(ctx context.Context, c *v1alpha1.Consolidation, who Author) (*v1alpha1.Consolidation, error) {
	return p.decide(ctx, c, Decision{What: DecidedUndo, Author: who}, map[string]any{"undo": true})
}

// Forget takes approval, rejection and undo of c back.
func (p *Proposer) Forget(ctx context.Context, c *v1alpha1.Consolidation, who Author) (*v1alpha1.Consolidation, error) {
	return p.decide(ctx, c, Decision{What: DecidedForget, Author: who}, map[string]any{"approvedDigest": nil, "rejected": nil, "undo": nil})
}

// decide merges what was decided into the spec. It is no apply: what kubectl or
// another tool has set has to give way.
func (p *Proposer) decide(ctx context.Context, c *v1alpha1.Consolidation, d Decision, spec map[string]any) (*v1alpha1.Consolidation, error) {
	d.Time = p.now()
	annotations, err := d.annotation()
	if err != nil {
		return nil, err
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": c.UID, "resourceVersion": c.ResourceVersion, "annotations": annotations}, "spec": spec})
	if err != nil {
		return nil, err
	}
	return get(p.objects.Namespace(c.Namespace).Patch(ctx, c.Name, "application/merge-patch+json", patch, metav1.PatchOptions{FieldManager: v1alpha1.DecisionManager, FieldValidation: metav1.FieldValidationStrict}))
}

// Get reads one Consolidation.
func (p *Proposer) Get(ctx context.Context, namespace, name string) (*v1alpha1.Consolidation, error) {
	c, err := get(p.objects.Namespace(namespace).Get(ctx, name, metav1.GetOptions{}))
	if apierrors.IsNotFound(err) {
		return nil, fmt.Errorf("there is no Consolidation %s in namespace %s: `kubectl get consolidations -A` shows those there are", name, namespace)
	}
	return c, err
}

// object is what names a Consolidation in a write; old, if not nil, is how it was
// read, and the write fails where it has changed since.
func object(want, old *v1alpha1.Consolidation) *unstructured.Unstructured {
	metadata := map[string]any{"namespace": want.Namespace, "name": want.Name}
	if old != nil {
		metadata["uid"], metadata["resourceVersion"] = string(old.UID), old.ResourceVersion
	}
	return &unstructured.Unstructured{Object: map[string]any{"apiVersion": v1alpha1.Group + "/" + v1alpha1.Version, "kind": v1alpha1.Kind, "metadata": metadata}}
}

func (p *Proposer) apply(ctx context.Context, u *unstructured.Unstructured, manager string, subresources ...string) (*v1alpha1.Consolidation, error) {
	force := true
	body, err := json.Marshal(u)
	if err != nil {
		return nil, err
	}
	return get(p.objects.Namespace(u.GetNamespace()).Patch(ctx, u.GetName(), "application/apply-patch+yaml", body,
		metav1.PatchOptions{FieldManager: manager, Force: &force, FieldValidation: metav1.FieldValidationStrict}, subresources...))
}

func get(u *unstructured.Unstructured, err error) (*v1alpha1.Consolidation, error) {
	if err != nil {
		return nil, err
	}
	return v1alpha1.FromUnstructured(u)
}

func fields[T any](x T) (map[string]any, error) {
	return runtime.DefaultUnstructuredConverter.ToUnstructured(&x)
}

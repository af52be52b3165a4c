package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/rest"

	"github.com/certherd/certherd/controller"
	"github.com/certherd/certherd/e2e/scenario"
	"github.com/certherd/certherd/inventory"
	"github.com/certherd/certherd/plan"
)

// event is what tests read of kube-apiserver's audit log (audit.k8s.io/v1 Event).
type event struct {
	Stage, Verb string
	User        struct{ Username string }
	ObjectRef   *struct{ Resource, APIGroup, Namespace, Name string }
}

func auditLog(t *testing.T, w *world) (events []event) {
	t.Helper()
	file, err := os.Open(w.stack.AuditLog)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	decoder := json.NewDecoder(file)
	for {
		var e event
		// The last line may be only half written.
		if err := decoder.Decode(&e); errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return events
		} else if err != nil {
			t.Fatal(err)
		}
		events = append(events, e)
	}
}

func TestAuditWritesNothing(t *testing.T) {
	w := cluster(t)
	w.audit(t)
	w.run(t, append([]string{"explain", "secret/web/www-tls"}, now...)...)
	w.run(t, "dump")
	lists, writesOfOthers := map[string]int{}, 0
	for _, e := range auditLog(t, w) {
		switch {
		case e.User.Username != account:
			if slices.Contains([]string{"create", "update", "patch", "delete"}, e.Verb) {
				writesOfOthers++
			}
		case e.Verb == "list":
			if e.ObjectRef == nil {
				t.Fatalf("%+v lists nothing", e)
			}
			lists[e.ObjectRef.Resource]++
		case e.Verb == "get" && e.ObjectRef == nil:
			// Discovery: /api and /apis are no resources.
		default:
			t.Errorf("%s did %s %+v", account, e.Verb, e.ObjectRef)
		}
	}
	// Otherwise the log or the filter would be broken.
	for _, resource := range []string{"secrets", "certificates", "ingresses", "configmaps", "edgeproxies"} {
		if lists[resource] == 0 {
			t.Errorf("the log does not show that %s listed %s", account, resource)
		}
	}
	if writesOfOthers == 0 {
		t.Error("the log shows no write at all")
	}
}

func TestManifestsGiveNoMoreThanList(t *testing.T) {
	for _, folder := range []string{"../manifests/cli", "../manifests/cli-no-secrets"} {
		text, err := scenario.Kustomize(folder)
		if err != nil {
			t.Fatal(err)
		}
		roles := 0
		decoder := yaml.NewYAMLOrJSONDecoder(strings.NewReader(text), 4096)
		for {
			var role rbacv1.ClusterRole
			if err := decoder.Decode(&role); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatal(err)
			}
			if role.Kind != "ClusterRole" {
				continue
			}
			roles++
			for _, rule := range role.Rules {
				if !slices.Equal(rule.Verbs, []string{"list"}) {
					t.Errorf("%s: verbs %v on %v", folder, rule.Verbs, rule.Resources)
				}
				if folder == "../manifests/cli-no-secrets" && (slices.Contains(rule.APIGroups, "*") ||
					slices.Contains(rule.APIGroups, "") && (slices.Contains(rule.Resources, "secrets") || slices.Contains(rule.Resources, "*"))) {
					t.Errorf("%s: groups %v, resources %v include Secrets", folder, rule.APIGroups, rule.Resources)
				}
			}
		}
		if roles != 1 {
			t.Errorf("%s has %d ClusterRoles", folder, roles)
		}
	}
}

// allowed asks the API server what a user may do.
func allowed(t *testing.T, w *world, user, verb, group, resource, subresource string) bool {
	t.Helper()
	review, err := w.cluster.Typed.AuthorizationV1().SubjectAccessReviews().Create(context.Background(), &authorizationv1.SubjectAccessReview{
		Spec: authorizationv1.SubjectAccessReviewSpec{User: user, Groups: []string{"system:serviceaccounts", "system:authenticated"}, ResourceAttributes: &authorizationv1.ResourceAttributes{
			Verb: verb, Group: group, Resource: resource, Subresource: subresource, Namespace: scenario.Shop,
		}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return review.Status.Allowed
}

func TestAccountMayListAndNothingElse(t *testing.T) {
	w := cluster(t)
	for _, kind := range listable(t, w) {
		if !allowed(t, w, account, "list", kind.Group, kind.Resource, "") {
			t.Errorf("may not list %s", kind)
		}
		for _, verb := range []string{"create", "update", "patch", "delete", "deletecollection", "get", "watch", "impersonate", "bind", "escalate"} {
			if allowed(t, w, account, verb, kind.Group, kind.Resource, "") {
				t.Errorf("may %s %s", verb, kind)
			}
		}
	}
	for _, way := range [][2]string{{"pods", "exec"}, {"pods", "attach"}, {"pods", "log"}, {"pods", "proxy"}, {"services", "proxy"}, {"nodes", "proxy"}, {"serviceaccounts", "token"}} {
		for _, verb := range []string{"get", "create"} {
			if allowed(t, w, account, verb, "", way[0], way[1]) {
				t.Errorf("may %s %s/%s", verb, way[0], way[1])
			}
		}
	}
}

// until waits for a change that the API server has been asked for.
func until(t *testing.T, what string, reached func() bool) {
	t.Helper()
	for range 600 {
		if reached() {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Fatalf("waited too long for %s", what)
}

// listable are all kinds that the API server lists, in their preferred versions.
func listable(t *testing.T, w *world) (kinds []schema.GroupResource) {
	t.Helper()
	lists, err := w.cluster.Typed.Discovery().ServerPreferredResources()
	if err != nil {
		t.Fatal(err)
	}
	for _, list := range lists {
		gv, err := schema.ParseGroupVersion(list.GroupVersion)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range list.APIResources {
			if slices.Contains(r.Verbs, "list") {
				kinds = append(kinds, schema.GroupResource{Group: gv.Group, Resource: r.Name})
			}
		}
	}
	if len(kinds) < 60 {
		t.Fatalf("the API server lists %d kinds only", len(kinds))
	}
	return kinds
}

// neverRead are kinds that cannot refer to a Secret, by their definition.
var neverRead = []schema.GroupResource{
	{Resource: "events"}, {Group: "events.k8s.io", Resource: "events"},
	{Resource: "endpoints"}, {Group: "discovery.k8s.io", Resource: "endpointslices"},
	{Group: "coordination.k8s.io", Resource: "leases"}, {Resource: "componentstatuses"},
}

// TestEveryKindCounts takes the permission to list one kind away, each kind in
// its turn. Nothing may then be called unused.
func TestEveryKindCounts(t *testing.T) {
	w := cluster(t)
	kinds := listable(t, w)
	user := func(without schema.GroupResource) string { return "without:" + without.String() }
	roles, bindings := w.cluster.Typed.RbacV1().ClusterRoles(), w.cluster.Typed.RbacV1().ClusterRoleBindings()
	inParallel(t, kinds, func(without schema.GroupResource) error {
		name := user(without)
		role := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name}}
		for _, kind := range kinds {
			if kind != without {
				role.Rules = append(role.Rules, rbacv1.PolicyRule{Verbs: []string{"list"}, APIGroups: []string{kind.Group}, Resources: []string{kind.Resource}})
			}
		}
		if _, err := roles.Create(t.Context(), role, metav1.CreateOptions{}); err != nil {
			return err
		}
		_, err := bindings.Create(t.Context(), &rbacv1.ClusterRoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: name},
			Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: name}},
		}, metav1.CreateOptions{})
		return err
	})
	t.Cleanup(func() {
		for _, kind := range kinds {
			bindings.Delete(context.Background(), user(kind), metav1.DeleteOptions{})
			roles.Delete(context.Background(), user(kind), metav1.DeleteOptions{})
		}
	})
	// The authorizer learns of roles by a watch.
	for _, without := range kinds {
		other := kinds[0]
		if other == without {
			other = kinds[1]
		}
		until(t, "the role of "+user(without), func() bool { return allowed(t, w, user(without), "list", other.Group, other.Resource, "") })
	}
	inParallel(t, kinds, func(without schema.GroupResource) error {
		config := rest.CopyConfig(w.admin)
		config.Impersonate = rest.ImpersonationConfig{UserName: user(without), Groups: []string{"system:authenticated"}}
		s, err := look(t.Context(), config)
		if err != nil {
			return fmt.Errorf("without %s: %w", without, err)
		}
		if slices.Contains(neverRead, without) {
			if len(s.Gaps) > 0 {
				return fmt.Errorf("%s cannot be listed, and is not read, but is a gap: %v", without, s.Gaps)
			}
			return nil
		}
		if len(s.Gaps) != 1 {
			return fmt.Errorf("without %s: gaps %v", without, s.Gaps)
		}
		for _, ref := range judged(s) {
			if s.Judge(ref).Verdict == inventory.Unused {
				return fmt.Errorf("without %s: %s is called unused", without, ref)
			}
		}
		_, p, err := controller.RunOnce(s, options())
		if err != nil {
			return err
		}
		for _, f := range p.Findings {
			if f.Verdict == inventory.Unused {
				return fmt.Errorf("without %s: %s of %s is called unused", without, f.Reason, f.Object)
			}
		}
		return nil
	})
}

// inParallel calls do for every item, a few at a time.
func inParallel[T any](t *testing.T, items []T, do func(T) error) {
	t.Helper()
	const atOnce = 4
	slots := make(chan struct{}, atOnce)
	var wg sync.WaitGroup
	for _, item := range items {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			if err := do(item); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
}

// TestWithoutSecrets audits under manifests/cli-no-secrets: what needs no
// Secret is still found, and nothing is called unused.
func TestWithoutSecrets(t *testing.T) {
	w := cluster(t)
	if err := w.cluster.Install(t.Context(), "../manifests/cli-no-secrets"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.cluster.Install(context.Background(), "../manifests/cli"); err != nil {
			t.Error(err)
		}
		until(t, "the role to allow Secrets", func() bool { return allowed(t, w, account, "list", "", "secrets", "") })
	})
	until(t, "the role to forbid Secrets", func() bool { return !allowed(t, w, account, "list", "", "secrets", "") })
	r := w.audit(t)
	var gaps []string
	for _, g := range r.Gaps {
		gaps = append(gaps, g.Kind)
	}
	// The demo's own kind is in no list of groups.
	for _, kind := range []string{"secret", "edgeproxy.edge.example.com"} {
		if !slices.Contains(gaps, kind) {
			t.Errorf("%s is no gap, only %v are", kind, gaps)
		}
	}
	for _, f := range r.Findings {
		if f.Verdict == string(inventory.Unused) {
			t.Errorf("%s of %s is called unused", f.Reason, f.Object)
		}
	}
	// As docs/rbac.md says.
	for reason, found := range map[plan.Reason]bool{
		plan.SharedSecretName: true, plan.DuplicateCertificate: true, plan.CoveredCertificate: true,
		plan.OrphanedCertificate: true, plan.RequestResidue: true, plan.ExpiredUnused: true,
		plan.Consolidatable: true, plan.NotConsolidatable: true, plan.DrainHazard: true,
		plan.SupersededCertificate: false, plan.OrphanedSecret: false, plan.UnrenewedSecret: false, plan.MissingSecret: false,
	} {
		if n := r.Summary.Findings[string(reason)]; (n > 0) != found {
			t.Errorf("%d findings of %s without Secrets", n, reason)
		}
	}
}

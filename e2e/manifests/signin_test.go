package manifests_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/certherd/certherd/api/v1alpha1"
	"github.com/certherd/certherd/web"
)

// token is one of a ServiceAccount in namespace monitoring, for an audience.
func (s *site) token(account string, audiences ...string) string {
	s.Helper()
	seconds := int64(600)
	r, err := s.core.CoreV1().ServiceAccounts("monitoring").CreateToken(s.Context(), account,
		&authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{Audiences: audiences, ExpirationSeconds: &seconds}}, metav1.CreateOptions{})
	s.must(err)
	return r.Status.Token
}

// decides sends a decision with a token, and returns what is answered.
func (p *pod) decides(token, do, what string) (int, string) {
	p.s.Helper()
	r, err := http.NewRequestWithContext(p.s.Context(), http.MethodPost, "http://"+p.Address+"/decide", strings.NewReader(url.Values{"do": {do}, "what": {what}, "reason": {"CHG-4f1"}}.Encode()))
	p.s.must(err)
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("Authorization", "Bearer "+token)
	x, err := http.DefaultClient.Do(r)
	p.s.must(err)
	defer x.Body.Close()
	b, err := io.ReadAll(x.Body)
	p.s.must(err)
	return x.StatusCode, string(b)
}

// signsIn has people with tokens of the real API server approve and reject on the page
// of a follower, and of the leader. shop is where a Consolidation is proposed.
func signsIn(s *site, shop string) {
	s.Helper()
	more, objects := webGrants(s, "enforce")
	for _, o := range objects {
		s.must(s.apply(o, false))
	}
	role := func(namespace, name, account string) {
		s.must(s.apply(s.parse(fmt.Sprintf("{apiVersion: v1, kind: ServiceAccount, metadata: {name: %s, namespace: monitoring}}", account))[0], false))
		if name != "" {
			s.must(s.apply(s.parse(fmt.Sprintf("{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {name: %[2]s-%[3]s, namespace: %[1]s}, roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: %[2]s}, subjects: [{kind: ServiceAccount, name: %[3]s, namespace: monitoring}]}", namespace, name, account))[0], false))
		}
	}
	role("certherd", "certherd-approver", "page-approver")
	role(shop, "certherd-decide", "page-decider")
	role("", "", "page-nobody")

	s.tls(shop, "asked-4f1", time.Time{}) // nobody uses it
	kubeconfig := s.account("certherd", "certherd")
	s.configure("maxShare: 100%\ngc: {mode: propose, schedule: '0 0 1 1 *', minAge: 0s, requestAge: 0s}\nconsolidate: {mode: propose, schedule: '0 0 1 1 *'}\n")
	first := s.start("certherd-8", kubeconfig, objects)
	s.await("it leads", func() bool { return first.Metric("certherd_leader") == 1 })
	second := s.start("certherd-9", kubeconfig, objects)
	seen := len(s.requests("certherd", "certherd"))

	// Changes wait, in the report that is in the cluster.
	waiting := func() (tokens []string) {
		for _, c := range first.report().Changes {
			if c.Digest != "" && c.Wildcard == "" {
				tokens = append(tokens, c.ID+"@"+c.Digest)
			}
		}
		return tokens
	}
	s.await("changes wait", func() bool { return len(waiting()) > 0 })
	s.await("the ConfigMap of approvals is there", func() bool { return s.there("", "v1", "configmaps", "certherd", "certherd-approvals") })
	change := waiting()[0]
	approver := s.token("page-approver", web.Audience)
	expect := func(p *pod, token, do, what string, code int, says string) {
		s.Helper()
		var got int
		var text string
		// RBAC is told to the API server's authorizer by watches, which take a moment.
		for end := time.Now().Add(2 * time.Minute); ; time.Sleep(200 * time.Millisecond) {
			if got, text = p.decides(token, do, what); got == code || time.Now().After(end) || code != 200 || got != 403 {
				break
			}
		}
		if got != code || !strings.Contains(text, says) {
			s.Errorf("%s %s: %d %s; want %d with %q", do, what, got, text, code, says)
		}
	}

	// Nobody without a token that the API server takes, and nobody without the right.
	old, err := s.core.CoreV1().ServiceAccounts("monitoring").Create(s.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "page-gone"}}, metav1.CreateOptions{})
	s.must(err)
	gone := s.token(old.Name)
	s.must(s.core.CoreV1().ServiceAccounts("monitoring").Delete(s.Context(), old.Name, metav1.DeleteOptions{}))
	s.await("the token of an account that is gone is not taken", func() bool { code, _ := second.decides(gone, "approve", change); return code == 401 })
	expect(second, "not.a.token", "approve", change, 401, "does not take this token")
	expect(second, approver[:len(approver)-8]+"AAAAAAAA", "approve", change, 401, "does not take this token")
	expect(second, s.token("page-approver", "https://elsewhere.example.test"), "approve", change, 401, "does not take this token")
	expect(second, s.token("page-nobody", web.Audience), "approve", change, 403, "system:serviceaccount:monitoring:page-nobody may not")
	expect(second, s.token("page-decider", web.Audience), "approve", change, 403, "certherd-approvals")
	expect(second, s.token("page-nobody", web.Audience), "resume", time.Now().UTC().Format(time.RFC3339), 403, "may not")

	// Another state is refused, and the right one is taken, by a follower too.
	id, _, _ := strings.Cut(change, "@")
	expect(second, approver, "approve", id+"@0123456789", 409, "not in the state that you looked at")
	expect(second, approver, "approve-all", "0123456789", 409, "not what you looked at")
	expect(second, approver, "resume", time.Now().UTC().Format(time.RFC3339), 409, "nothing is stopped")
	expect(second, approver, "approve", change, 200, "Approved "+change)
	// A token of the API server itself is taken, too.
	own := s.token("page-approver")
	s.await("it was taken", func() bool { code, _ := first.decides(own, "approve", id+"@0123456789"); return code == 409 })

	// A Consolidation, by who may patch it.
	var object *unstructured.Unstructured
	s.await("a Consolidation is proposed", func() bool {
		list, err := s.dynamic.Resource(v1alpha1.GroupVersionResource).Namespace(shop).List(s.Context(), metav1.ListOptions{})
		s.must(err)
		i := slices.IndexFunc(list.Items, func(u unstructured.Unstructured) bool {
			phase, _, _ := unstructured.NestedString(u.Object, "status", "phase")
			return phase == string(v1alpha1.Proposed)
		})
		if i >= 0 {
			object = &list.Items[i]
		}
		return object != nil
	})
	digest, _, _ := unstructured.NestedString(object.Object, "status", "digest")
	name, decider := shop+"/"+object.GetName(), s.token("page-decider", web.Audience)
	expect(second, approver, "reject-consolidation", name+"@"+digest, 403, "patch consolidations.certherd.dev")
	expect(second, decider, "reject-consolidation", name+"@0123456789", 409, "not in the state that you looked at")
	expect(second, decider, "approve-consolidation", name+"@0123456789", 409, "not in the state that you looked at")
	expect(second, decider, "reject-consolidation", name+"@"+digest, 200, "Rejected "+name)
	s.await("it is rejected", func() bool {
		x, err := s.dynamic.Resource(v1alpha1.GroupVersionResource).Namespace(shop).Get(s.Context(), object.GetName(), metav1.GetOptions{})
		s.must(err)
		yes, _, _ := unstructured.NestedBool(x.Object, "spec", "rejected")
		return yes && strings.Contains(fmt.Sprint(x.GetAnnotations()), "system:serviceaccount:monitoring:page-decider")
	})

	// Who it was is in the journal, in the words of the API server.
	viewer := s.account("certherd", "certherd")
	s.await("the journal has both", func() bool {
		out, err := s.run(viewer, "history")
		return err == nil && strings.Contains(out, "approve by system:serviceaccount:monitoring:page-approver") && strings.Contains(out, "reject by system:serviceaccount:monitoring:page-decider") && strings.Contains(out, "CHG-4f1")
	})
	for _, p := range []*pod{first, second} {
		if code, b := p.Get("/"); code != 200 || strings.Contains(string(b), "page-approver") || !strings.Contains(string(b), "Sign in") {
			s.Errorf("the page for everybody: %d\n%s", code, b)
		}
	}
	// No token was written down.
	for _, p := range []*pod{first, second} {
		logs, err := json.Marshal(p.Lines())
		s.must(err)
		for _, t := range []string{approver, own, decider, gone} {
			if strings.Contains(string(logs), t) || strings.Contains(string(logs), t[strings.LastIndex(t, ".")+1:]) {
				s.Errorf("the log of %s has a token", p.Name)
			}
		}
	}
	asked := s.requests("certherd", "certherd")[seen:]
	for _, g := range more {
		if !slices.ContainsFunc(asked, g.covers) {
			s.Errorf("granted by components/web, and not used: %s", g)
		}
	}
	all := grants(s, objects, "certherd", "certherd")
	for _, r := range asked {
		if !asking(r) && !slices.ContainsFunc(all, func(g grant) bool { return g.covers(r) }) {
			s.Errorf("used, and not granted: %s %+v", r.Verb, *r.ObjectRef)
		}
	}
	first.end()
	second.end()
	s.uninstall(slices.DeleteFunc(objects, func(o *unstructured.Unstructured) bool { return o.GetName() != "certherd-web" }))
}

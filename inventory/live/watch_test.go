package live

import (
	"bytes"
	"context"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/certherd/certherd/inventory"
)

// TestWatch: what changes after a look is told, also what changed before Watch began,
// and no key comes with it.
func TestWatch(t *testing.T) {
	c := needCluster(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	list := rbacv1.PolicyRule{APIGroups: []string{"*"}, Resources: []string{"*"}, Verbs: []string{"list"}}
	c.grant(t, "looker", list)
	c.grant(t, "follower", list, rbacv1.PolicyRule{APIGroups: []string{"*"}, Resources: []string{"*"}, Verbs: []string{"watch"}})
	c.create(t, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "watched"}})
	ingress := func(name string) *networkingv1.Ingress {
		return &networkingv1.Ingress{ObjectMeta: metav1.ObjectMeta{Namespace: "watched", Name: name}, Spec: networkingv1.IngressSpec{
			TLS:            []networkingv1.IngressTLS{{Hosts: []string{name + ".example.test"}, SecretName: name + "-tls"}},
			DefaultBackend: &networkingv1.IngressBackend{Service: &networkingv1.IngressServiceBackend{Name: "x", Port: networkingv1.ServiceBackendPort{Number: 80}}},
		}}
	}
	ingresses, secrets := c.core.NetworkingV1().Ingresses("watched"), c.core.CoreV1().Secrets("watched")
	c.create(t, ingress("old"))
	_, stats, err := Look(ctx, c.as("follower"), Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := Watch(ctx, c.as("looker"), stats.Versions, func(inventory.Change) {}); err == nil || !strings.Contains(err.Error(), "watch ") || !strings.Contains(err.Error(), "looker") {
		t.Errorf("without the right to watch: %v", err)
	}
	c.create(t, ingress("early")) // before anybody watches
	changes := make(chan inventory.Change, 100)
	watching, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() {
		ended <- Watch(watching, c.as("follower"), stats.Versions, func(x inventory.Change) { changes <- x })
	}()
	await := func(ref inventory.Ref, gone bool) []byte {
		t.Helper()
		for {
			select {
			case x := <-changes:
				if x.Ref == ref && (x.Doc == nil) == gone {
					return x.Doc
				}
				if x.Ref.Namespace == "watched" {
					t.Logf("passing over %s", x.Ref)
				}
			case err := <-ended:
				t.Fatalf("it has ended: %v", err)
			case <-ctx.Done():
				t.Fatalf("%s (gone: %t) was not told", ref, gone)
			}
		}
	}
	ing := func(name string) inventory.Ref {
		return inventory.Ref{Group: inventory.GroupNetworking, Kind: "Ingress", Namespace: "watched", Name: name}
	}
	if doc := await(ing("early"), false); !bytes.Contains(doc, []byte("early-tls")) {
		t.Errorf("early: %s", doc)
	}
	if err := ingresses.Delete(ctx, "old", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	await(ing("old"), true)
	const key = "0123456789abcdefkey"
	s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "watched", Name: "early-tls", Annotations: map[string]string{
		corev1.LastAppliedConfigAnnotation: `{"data":{"tls.key":"` + key + `"}}`, "cert-manager.io/certificate-name": "early",
	}}, Type: corev1.SecretTypeTLS, Data: map[string][]byte{corev1.TLSCertKey: []byte("x"), corev1.TLSPrivateKeyKey: []byte(key)}}
	c.create(t, s)
	doc := await(inventory.SecretRef("watched", "early-tls"), false)
	if bytes.Contains(doc, []byte(key)) || bytes.Contains(doc, []byte(`"data"`)) || !bytes.Contains(doc, []byte("kubernetes.io/tls")) || !bytes.Contains(doc, []byte("certificate-name")) {
		t.Errorf("a Secret: %s", doc)
	}
	if err := secrets.Delete(ctx, "early-tls", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	await(inventory.SecretRef("watched", "early-tls"), true)
	c.create(t, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "watched", Name: "opaque"}, Type: corev1.SecretTypeOpaque})
	if doc := await(inventory.SecretRef("watched", "opaque"), false); bytes.Contains(doc, []byte("kubernetes.io/tls")) {
		t.Errorf("another Secret: %s", doc)
	}
	stop()
	if err := <-ended; err != nil {
		t.Errorf("its end is an error: %v", err)
	}
	// What is forgotten is an error, and no silence: an API server that was started anew
	// does not know what was before.
	if err := c.stack.Signal("kube-apiserver", syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := ingresses.List(ctx, metav1.ListOptions{}); err == nil {
			break
		} else if ctx.Err() != nil {
			t.Fatal(err)
		}
		time.Sleep(100 * time.Millisecond)
	}
	for f := range stats.Versions {
		stats.Versions[f] = "1"
	}
	// As somebody whose rights need no authorizer that has read them.
	if err := Watch(ctx, c.cfg, stats.Versions, func(inventory.Change) {}); err == nil || !strings.Contains(err.Error(), "too old") {
		t.Errorf("it goes on from what is forgotten: %v", err)
	}
}

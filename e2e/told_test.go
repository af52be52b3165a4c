package e2e

import (
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/certherd/certherd/gateway"
)

// TestGatewayTellsThatItIsWorse: Kourier passes on what is in a Secret, Envoy
// rejects a certificate that is none, and a reading with no more than the right to
// list shows it.
func TestGatewayTellsThatItIsWorse(t *testing.T) {
	w := cluster(t)
	cfg, err := clientcmd.BuildConfigFromFlags("", w.kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	page := "http://" + w.stack.EnvoyAdmin + "/stats/prometheus"
	r, err := gateway.New(cfg, gateway.Options{Pages: []string{page}, Pods: []gateway.Pods{gateway.Kourier()}})
	if err != nil {
		t.Fatal(err)
	}
	secrets := kubernetes.NewForConfigOrDie(w.admin).CoreV1()
	ingresses, err := dynamic.NewForConfigOrDie(w.admin).Resource(schema.GroupVersionResource{Group: "networking.internal.knative.dev", Version: "v1alpha1", Resource: "ingresses"}).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	before := r.Read(t.Context())
	if len(before.Unread) > 0 || len(before.Envoys) != 1 || before.Envoys[page].Uptime == 0 || before.Objects < len(ingresses.Items) {
		t.Fatalf("with %d Knative Ingresses it reads %+v", len(ingresses.Items), before)
	}
	namespace, name := served(t, ingresses.Items, before)
	secret, err := secrets.Secrets(namespace).Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	broken, good := secret.DeepCopy(), secret.Data
	broken.Data["tls.crt"] = []byte("-----BEGIN CERTIFICATE-----\nbm9uZQ==\n-----END CERTIFICATE-----\n")
	if _, err := secrets.Secrets(namespace).Update(t.Context(), broken, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	var worse []string
	until(t, "Envoy to reject a certificate that is none", func() bool {
		worse = r.Read(t.Context()).Worse(before, gateway.Defaults())
		return len(worse) > 0
	})
	t.Logf("%q", worse)
	if !strings.Contains(worse[0], page+": envoy_listener_manager_lds_update_rejected +") {
		t.Errorf("it says %q", worse)
	}

	// Back to what it was. cert-manager may have issued again meanwhile.
	if secret, err = secrets.Secrets(namespace).Get(t.Context(), name, metav1.GetOptions{}); err != nil {
		t.Fatal(err)
	}
	if string(secret.Data["tls.crt"]) == string(broken.Data["tls.crt"]) {
		secret.Data = good
		if _, err := secrets.Secrets(namespace).Update(t.Context(), secret, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	until(t, "Envoy to accept everything again", func() bool {
		now := r.Read(t.Context())
		_, worse, err := r.Await(t.Context(), now, gateway.Defaults(), 2*time.Second)
		return err == nil && len(worse) == 0 && len(r.Read(t.Context()).NotReady(before)) == 0
	})
}

// served is a Secret that a Knative Ingress which is Ready names.
func served(t *testing.T, ingresses []unstructured.Unstructured, now gateway.Reading) (namespace, name string) {
	for _, x := range ingresses {
		tls, _, _ := unstructured.NestedSlice(x.Object, "spec", "tls")
		if _, unready := now.Unready["KIngress/"+x.GetNamespace()+"/"+x.GetName()]; unready || len(tls) == 0 {
			continue
		}
		entry := tls[0].(map[string]any)
		namespace, _ = entry["secretNamespace"].(string)
		name, _ = entry["secretName"].(string)
		if namespace == x.GetNamespace() {
			return namespace, name
		}
	}
	t.Fatal("no Knative Ingress is served with a Secret")
	return "", ""
}

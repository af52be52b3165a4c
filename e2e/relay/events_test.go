package relay

import (
	"cmp"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/certherd/certherd/e2e/stack"
)

// TestRejectionMakesAnEvent lets a real Envoy reject a listener, since its port is
// taken in its pod, with the relay as a sidecar that has the component's rights at
// an API server with RBAC.
func TestRejectionMakesAnEvent(t *testing.T) {
	w := stackWithRelay(t)
	ctx := t.Context()
	w.serve(t, named("refused", 1), "")
	const ns = "kourier-system"
	_, _, sidecar := kinds(t)
	admin, err := w.stack.RESTConfig()
	if err != nil {
		t.Fatal(err)
	}
	w.mayWriteEvents(t, admin, "relay")
	token := w.mayWriteEvents(t, admin, "relay-sidecar") // whose binding replaces the other
	file := filepath.Join(t.TempDir(), "kubeconfig")
	config := clientcmdapi.NewConfig()
	config.Clusters["stack"] = &clientcmdapi.Cluster{Server: "https://" + address + "1:6443", CertificateAuthority: admin.CAFile, CertificateAuthorityData: admin.CAData}
	config.AuthInfos["relay"] = &clientcmdapi.AuthInfo{Token: token}
	config.Contexts["x"] = &clientcmdapi.Context{Cluster: "stack", AuthInfo: "relay"}
	config.CurrentContext = "x"
	if err := clientcmd.WriteToFile(*config, file); err != nil {
		t.Fatal(err)
	}
	const pod = "3scale-kourier-gateway-refuses"
	w.run(t, "refuses", sidecar, func(c *stack.Container) {
		if c.Name == "relay" {
			c.Args = append(c.Args, "--local=:8443", "--kubeconfig="+file)
			c.Env = []string{"POD_NAMESPACE=" + ns, "POD_NAME=" + pod, "POD_UID=2a5ad0d4-0000-4000-8000-000000000000"}
		}
	})
	for _, reason := range []string{"Rejected", "FellBack"} {
		until(t, "an Event "+reason, func() error {
			events, err := w.typed.CoreV1().Events(ns).List(ctx, metav1.ListOptions{FieldSelector: "involvedObject.name=" + pod + ",reason=" + reason})
			if err != nil {
				return err
			}
			if len(events.Items) > 0 {
				e := &events.Items[0]
				if e.Type != corev1.EventTypeWarning || e.InvolvedObject.Kind != "Pod" || e.InvolvedObject.UID == "" || e.Source.Component != "certherd-relay" {
					return fmt.Errorf("an Event of another form: %+v", e)
				}
				if strings.Contains(e.Message, "listener_8443") && strings.Contains(e.Message, "cannot bind") {
					t.Logf("%s: %s", e.Reason, e.Message)
					return nil
				}
				return errors.New(e.Message)
			}
			return errors.New("there is none")
		})
	}
}

// mayWriteEvents gives the pods of a component its rights, makes sure that those are
// for Events and for nothing else, and returns a token of them.
func (w *world) mayWriteEvents(t *testing.T, admin *rest.Config, component string) string {
	t.Helper()
	ctx := t.Context()
	const ns = "kourier-system"
	gateway, _, all := documents(t, component)
	pods := gateway.Spec.Template.Spec
	for _, o := range all {
		if o.GetName() != "certherd-relay" {
			continue
		}
		if o.GetKind() == "Deployment" {
			var relay appsv1.Deployment
			if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, &relay); err != nil {
				t.Fatal(err)
			}
			pods = relay.Spec.Template.Spec
		}
		resource := map[string]string{"ServiceAccount": "serviceaccounts", "Role": "roles", "RoleBinding": "rolebindings"}[o.GetKind()]
		if resource == "" {
			continue
		}
		if _, err := w.dynamic.Resource(o.GroupVersionKind().GroupVersion().WithResource(resource)).Namespace(ns).Apply(ctx, o.GetName(), &o, metav1.ApplyOptions{FieldManager: "test", Force: true}); err != nil {
			t.Fatal(err)
		}
	}
	account := cmp.Or(pods.ServiceAccountName, "default")
	token, err := w.typed.CoreV1().ServiceAccounts(ns).CreateToken(ctx, account, &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	client, err := kubernetes.NewForConfig(&rest.Config{Host: admin.Host, TLSClientConfig: rest.TLSClientConfig{CAData: admin.CAData, CAFile: admin.CAFile}, BearerToken: token.Status.Token})
	if err != nil {
		t.Fatal(err)
	}
	event := func(ns string) error {
		_, err := client.CoreV1().Events(ns).Create(ctx, &corev1.Event{ObjectMeta: metav1.ObjectMeta{GenerateName: component + "-"}, InvolvedObject: corev1.ObjectReference{Namespace: ns}}, metav1.CreateOptions{})
		return err
	}
	until(t, component+" to be let write Events", func() error { return event(ns) })
	if err := event("default"); !apierrors.IsForbidden(err) {
		t.Errorf("%s may write Events anywhere: %v", component, err)
	}
	if _, err := client.CoreV1().Secrets(ns).List(ctx, metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("%s may list Secrets: %v", component, err)
	}
	if _, err := client.CoreV1().Events(ns).List(ctx, metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("%s may list Events: %v", component, err)
	}
	return token.Status.Token
}

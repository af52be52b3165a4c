package relay

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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
	const ns, account = "kourier-system", "certherd-relay"
	_, _, sidecar := kinds(t)
	_, _, all := documents(t, "relay")
	for _, o := range all {
		if o.GetName() != account {
			continue
		}
		resource := map[string]string{"ServiceAccount": "serviceaccounts", "Role": "roles", "RoleBinding": "rolebindings"}[o.GetKind()]
		if resource == "" {
			continue
		}
		if _, err := w.dynamic.Resource(o.GroupVersionKind().GroupVersion().WithResource(resource)).Namespace(ns).Apply(ctx, account, &o, metav1.ApplyOptions{FieldManager: "test"}); err != nil {
			t.Fatal(err)
		}
	}
	token, err := w.typed.CoreV1().ServiceAccounts(ns).CreateToken(ctx, account, &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	admin, err := w.stack.RESTConfig()
	if err != nil {
		t.Fatal(err)
	}
	// The rights are for Events, and for nothing else.
	may, err := kubernetes.NewForConfig(&rest.Config{Host: admin.Host, TLSClientConfig: rest.TLSClientConfig{CAData: admin.CAData, CAFile: admin.CAFile}, BearerToken: token.Status.Token})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := may.CoreV1().Secrets(ns).List(ctx, metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("the relay may list Secrets: %v", err)
	}
	if _, err := may.CoreV1().Events(ns).List(ctx, metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("the relay may list Events: %v", err)
	}
	if _, err := may.CoreV1().Events("default").Create(ctx, &corev1.Event{ObjectMeta: metav1.ObjectMeta{Name: "x"}, InvolvedObject: corev1.ObjectReference{Namespace: "default"}}, metav1.CreateOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("the relay may make Events anywhere: %v", err)
	}

	file := filepath.Join(t.TempDir(), "kubeconfig")
	config := clientcmdapi.NewConfig()
	config.Clusters["stack"] = &clientcmdapi.Cluster{Server: "https://" + address + "1:6443", CertificateAuthority: admin.CAFile, CertificateAuthorityData: admin.CAData}
	config.AuthInfos["relay"] = &clientcmdapi.AuthInfo{Token: token.Status.Token}
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
			for _, e := range events.Items {
				if e.Type != corev1.EventTypeWarning || e.InvolvedObject.Kind != "Pod" || e.InvolvedObject.UID == "" || e.Source.Component != account {
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

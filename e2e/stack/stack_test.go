package stack

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
)

// start starts a stack that the test's end stops.
func start(t *testing.T, options Options) *Stack {
	t.Helper()
	options.Out = os.Stderr
	s, err := Start(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if s.Supervisor.alive() {
			s.Stop()
		}
	})
	return s
}

// connect makes clients for a stack from outside.
func connect(t *testing.T, s *Stack) *cluster {
	t.Helper()
	config, err := s.RESTConfig()
	if err != nil {
		t.Fatal(err)
	}
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		t.Fatal(err)
	}
	c, err := newCluster(config, client)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// eventually repeats a check until it succeeds.
func eventually(t *testing.T, what string, check func(context.Context) error) {
	t.Helper()
	deadline := time.Now().Add(5 * time.Minute)
	for {
		err := check(t.Context())
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %v", what, err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

const scenario = `
apiVersion: serving.knative.dev/v1
kind: Service
metadata: {name: hello, namespace: demo}
spec: {template: {spec: {containers: [{image: dev.local/hello}]}}}
---
apiVersion: serving.knative.dev/v1beta1
kind: DomainMapping
metadata: {name: hello.example.org, namespace: demo}
spec: {ref: {apiVersion: serving.knative.dev/v1, kind: Service, name: hello}}
---
apiVersion: cert-manager.io/v1
kind: Certificate
metadata: {name: by-http01, namespace: demo}
spec: {secretName: by-http01, dnsNames: [one.example.test], issuerRef: {kind: ClusterIssuer, name: acme-http01}}
---
apiVersion: cert-manager.io/v1
kind: Certificate
metadata: {name: by-dns01, namespace: demo}
spec: {secretName: by-dns01, dnsNames: ["*.demo.example.test"], issuerRef: {kind: ClusterIssuer, name: acme-dns01}}
`

func TestStackFull(t *testing.T) {
	if testing.Short() {
		t.Skip("starts the whole stack")
	}
	s := start(t, Options{Level: Full})
	c := connect(t, s)
	if err := c.namespace(t.Context(), "demo"); err != nil {
		t.Fatal(err)
	}
	objects, err := decode([]byte(scenario))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.apply(t.Context(), objects...); err != nil {
		t.Fatal(err)
	}
	for _, object := range objects {
		eventually(t, object.GetKind()+" "+object.GetName(), func(ctx context.Context) error {
			resource, err := c.resource(object)
			if err != nil {
				return err
			}
			now, err := resource.Get(ctx, object.GetName(), metav1.GetOptions{})
			if err != nil {
				return err
			}
			return ready(now)
		})
	}

	const host = "hello.demo.example.test"
	t.Run("Envoy serves each host with a certificate of the cluster's CA", func(t *testing.T) {
		roots := pool(t, secret(t, c, "cert-manager", "stack-ca").Data["ca.crt"])
		for _, host := range []string{host, "hello.example.org"} {
			checkGateway(t, s, host, roots)
		}
	})
	t.Run("Envoy's admin interface lists the certificate", func(t *testing.T) {
		if body := get(t, http.DefaultClient, "http://"+s.EnvoyAdmin+"/certs"); !strings.Contains(body, host) {
			t.Errorf("/certs does not name %s:\n%s", host, body)
		}
	})
	t.Run("Pebble issues by HTTP-01 and DNS-01", func(t *testing.T) {
		root := get(t, stackClient(t, s), "https://"+s.PebbleManagement+"/roots/0")
		intermediate := get(t, stackClient(t, s), "https://"+s.PebbleManagement+"/intermediates/0")
		options := x509.VerifyOptions{Roots: pool(t, []byte(root)), Intermediates: pool(t, []byte(intermediate))}
		for name, host := range map[string]string{"by-http01": "one.example.test", "by-dns01": "any.demo.example.test"} {
			keyPair := secret(t, c, "demo", name)
			pair, err := tls.X509KeyPair(keyPair.Data[corev1.TLSCertKey], keyPair.Data[corev1.TLSPrivateKeyKey])
			if err != nil {
				t.Fatal(err)
			}
			options.DNSName = host
			if _, err := pair.Leaf.Verify(options); err != nil {
				t.Errorf("certificate %s: %v", name, err)
			}
		}
	})
	t.Run("the gateway's Deployment has a memory limit", func(t *testing.T) {
		deployment, err := c.typed.AppsV1().Deployments("kourier-system").Get(t.Context(), "3scale-kourier-gateway", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if limit := deployment.Spec.Template.Spec.Containers[0].Resources.Limits.Memory(); limit.IsZero() {
			t.Error("no memory limit")
		}
	})
	t.Run("the audit log tells users apart", func(t *testing.T) { checkAuditLog(t, s) })
	t.Run("a program that ends is started again", func(t *testing.T) {
		if err := s.Signal("envoy", syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		roots := pool(t, secret(t, c, "cert-manager", "stack-ca").Data["ca.crt"])
		eventually(t, "Envoy to serve again", func(context.Context) error {
			conn, err := tls.Dial("tcp", s.GatewayTLS, &tls.Config{ServerName: host, RootCAs: roots})
			if err == nil {
				conn.Close()
			}
			return err
		})
		if err := s.Signal("nothing", syscall.SIGKILL); err == nil {
			t.Error("no error for a program that does not exist")
		}
	})
	checkStop(t, s)
}

func secret(t *testing.T, c *cluster, namespace, name string) *corev1.Secret {
	t.Helper()
	found, err := c.typed.CoreV1().Secrets(namespace).Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func pool(t *testing.T, pem []byte) *x509.CertPool {
	t.Helper()
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		t.Fatalf("no certificate in %q", pem)
	}
	return roots
}

// checkGateway asks for https://host/ at the gateway; crypto/tls verifies the
// chain up to roots and the name.
func checkGateway(t *testing.T, s *Stack, host string, roots *x509.CertPool) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots},
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, s.GatewayTLS)
		},
	}}
	defer client.CloseIdleConnections()
	if body := get(t, client, "https://"+host+"/"); !strings.Contains(body, "Hello") {
		t.Errorf("%s answers %q", host, body)
	}
}

// stackClient trusts the stack's own CA, which signed Pebble's server certificate.
func stackClient(t *testing.T, s *Stack) *http.Client {
	t.Helper()
	config, err := s.RESTConfig()
	if err != nil {
		t.Fatal(err)
	}
	return &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool(t, config.CAData)}}}
}

func get(t *testing.T, client *http.Client, url string) string {
	t.Helper()
	response, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	if response.StatusCode != http.StatusOK {
		t.Fatalf("GET %s: %s\n%s", url, response.Status, body)
	}
	return string(body)
}

func checkAuditLog(t *testing.T, s *Stack) {
	t.Helper()
	content, err := os.ReadFile(s.AuditLog)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for line := range strings.Lines(string(content)) {
		if !strings.HasSuffix(line, "\n") {
			break // still being written
		}
		var event struct {
			Verb, Level string
			User        struct{ Username string }
		}
		if err := json.Unmarshal([]byte(line), &event); err != nil {
			t.Fatal(err)
		}
		if event.Level != "Metadata" || event.Verb == "" || event.User.Username == "" {
			t.Fatalf("audit event without level, verb or user: %s", line)
		}
		seen[event.User.Username] = true
	}
	for part, user := range users {
		if part != "cert-manager-webhook" && !seen[user] {
			t.Errorf("no request of %s in the audit log", user)
		}
	}
}

// processesIn lists the processes that live in namespaces, which are named as the
// links below /proc/<pid>/ns name them.
func processesIn(t *testing.T, namespaces []string) (pids []string) {
	t.Helper()
	for _, kind := range []string{"pid", "net", "mnt"} {
		links, err := filepath.Glob("/proc/[0-9]*/ns/" + kind)
		if err != nil {
			t.Fatal(err)
		}
		for _, link := range links {
			// Processes may end between the two calls.
			if target, err := os.Readlink(link); err == nil && slices.Contains(namespaces, target) {
				pids = append(pids, strings.Split(link, "/")[2])
			}
		}
	}
	return pids
}

// checkStop stops a stack and looks for anything that is left of it.
func checkStop(t *testing.T, s *Stack) {
	t.Helper()
	namespaces := namespacesOf(t, s.Supervisor)
	if before := processesIn(t, namespaces); len(before) < 3 {
		t.Errorf("only %d processes in the stack's namespaces", len(before))
	}
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	checkGone(t, s, namespaces)
	if _, err := os.Stat(s.Dir); !os.IsNotExist(err) {
		t.Errorf("%s is left: %v", s.Dir, err)
	}
}

func namespacesOf(t *testing.T, p Process) (links []string) {
	t.Helper()
	for _, kind := range []string{"pid", "net", "mnt"} {
		link, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", p.PID, kind))
		if err != nil {
			t.Fatal(err)
		}
		links = append(links, link)
	}
	return links
}

func checkGone(t *testing.T, s *Stack, namespaces []string) {
	t.Helper()
	if left := processesIn(t, namespaces); len(left) > 0 {
		t.Errorf("processes left: %v", left)
	}
	for _, endpoint := range endpoints(s, false) {
		if conn, err := net.Dial("tcp", *endpoint.outer); err == nil {
			conn.Close()
			t.Errorf("somebody still listens on %s (%s inside)", *endpoint.outer, endpoint.inner)
		}
	}
}

func TestTwoStacksSideBySide(t *testing.T) {
	if testing.Short() {
		t.Skip("starts two control planes")
	}
	stacks := []*Stack{start(t, Options{}), start(t, Options{})}
	for i, s := range stacks {
		if err := connect(t, s).namespace(t.Context(), fmt.Sprintf("only-in-%d", i)); err != nil {
			t.Fatal(err)
		}
	}
	for i, s := range stacks {
		list, err := connect(t, s).typed.CoreV1().Namespaces().List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, namespace := range list.Items {
			names = append(names, namespace.Name)
		}
		if !slices.Contains(names, fmt.Sprintf("only-in-%d", i)) || slices.Contains(names, fmt.Sprintf("only-in-%d", 1-i)) {
			t.Errorf("stack %d has namespaces %v", i, names)
		}
	}
	checkStop(t, stacks[0])
	if _, err := connect(t, stacks[1]).typed.CoreV1().Namespaces().Get(t.Context(), "only-in-1", metav1.GetOptions{}); err != nil {
		t.Errorf("the second stack does not survive the end of the first: %v", err)
	}
	checkStop(t, stacks[1])
}

// TestEndsWithItsParent kills a process that has started a stack.
func TestEndsWithItsParent(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a control plane")
	}
	const variable = "CERTHERD_STACK_TEST_PARENT"
	if os.Getenv(variable) != "" {
		s, err := Start(t.Context(), Options{Out: os.Stderr})
		if err != nil {
			t.Fatal(err)
		}
		json.NewEncoder(os.Stdout).Encode(s)
		select {}
	}
	parent := exec.Command(os.Args[0], "-test.run=^TestEndsWithItsParent$")
	parent.Env = append(os.Environ(), variable+"=1")
	parent.Stderr = os.Stderr
	stdout, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	var s Stack
	err = json.NewDecoder(stdout).Decode(&s)
	if err != nil {
		parent.Process.Kill()
		t.Fatal(err)
	}
	namespaces := namespacesOf(t, s.Supervisor)
	parent.Process.Kill()
	parent.Wait()
	eventually(t, "the stack to end", func(context.Context) error {
		if left := processesIn(t, namespaces); len(left) > 0 {
			return fmt.Errorf("processes left: %v", left)
		}
		return nil
	})
	checkGone(t, &s, namespaces)
	if _, err := os.Stat(s.Dir); !os.IsNotExist(err) {
		t.Errorf("%s is left: %v", s.Dir, err)
	}
}

// TestDetached starts a stack that another process could end.
func TestDetached(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a control plane")
	}
	dir := filepath.Join(t.TempDir(), "run")
	if _, err := Load(dir); !errors.Is(err, ErrNotRunning) {
		t.Errorf("Load of nothing: %v", err)
	}
	s := start(t, Options{Dir: dir, Detached: true})
	namespaces := namespacesOf(t, s.Supervisor)
	if _, err := Start(t.Context(), Options{Dir: dir}); err == nil || !strings.Contains(err.Error(), "already running") {
		t.Errorf("a second stack in the same folder: %v", err)
	}
	loaded, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := connect(t, loaded).namespace(t.Context(), "somewhere"); err != nil {
		t.Error(err)
	}
	if err := Remove(dir); err != nil {
		t.Fatal(err)
	}
	checkGone(t, s, namespaces)
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("%s is left: %v", dir, err)
	}
}

// TestForeignProcess has state of a stack whose process id is now another's.
func TestForeignProcess(t *testing.T) {
	dir := t.TempDir()
	self, err := identify(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	self.StartTime++
	content, err := json.Marshal(Stack{Dir: dir, Supervisor: self})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, stateFile), content, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(dir); !errors.Is(err, ErrNotRunning) {
		t.Errorf("Load: %v", err)
	}
	if err := Remove(dir); err != nil { // had it signalled the process, this test would not go on
		t.Errorf("Remove: %v", err)
	}
}

// TestRemoveForeignFolder must not delete what is not a stack's.
func TestRemoveForeignFolder(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "letter.txt")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Remove(dir); err == nil || !strings.Contains(err.Error(), "letter.txt") {
		t.Errorf("Remove: %v", err)
	}
	if _, err := os.Stat(file); err != nil {
		t.Error(err)
	}
}

// Package manifests_test proves that what manifests/ and the Dockerfile make works:
// on a real API server with RBAC, and from the image's own root file system.
package manifests_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"

	"github.com/certherd/certherd/e2e/replica"
	"github.com/certherd/certherd/e2e/scenario"
	"github.com/certherd/certherd/e2e/stack"
	"github.com/certherd/certherd/e2e/suite"
	"github.com/certherd/certherd/report"
)

// prometheusOperator has the CRDs of ServiceMonitor and PrometheusRule. sum is
// what go.sum would say of it.
const (
	prometheusOperator    = "github.com/prometheus-operator/prometheus-operator@v0.85.0"
	prometheusOperatorSum = "h1:M5xLCLEoaW2IJfnuCwFzzpL+jSVQu3KGT84Pye+fW8s="
)

func TestMain(m *testing.M) { os.Exit(suite.Run(m)) }

// site is a cluster that certherd is installed in.
type site struct {
	*testing.T
	stack    *stack.Stack
	admin    *rest.Config
	core     *kubernetes.Clientset
	dynamic  *dynamic.DynamicClient
	mapper   *restmapper.DeferredDiscoveryRESTMapper
	scenario *scenario.Cluster
	certherd string // the program
}

func newSite(t *testing.T) *site {
	if testing.Short() {
		t.Skip("starts a control plane")
	}
	s := &site{T: t}
	var err error
	s.certherd, err = suite.Program("certherd")
	s.must(err)
	// An API server with the feature WatchList streams what a watch begins with; one
	// without it has to be asked for a list, which is a right of its own.
	s.stack, err = suite.Start(stack.Options{Level: stack.ControlPlane, ExtraAPIServerArgs: []string{"--feature-gates=WatchList=false"}})
	s.must(err)
	s.admin, err = s.stack.RESTConfig()
	s.must(err)
	s.admin.WarningHandler = rest.NoWarnings{}
	s.core = kubernetes.NewForConfigOrDie(s.admin)
	s.dynamic = dynamic.NewForConfigOrDie(s.admin)
	s.mapper = restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(s.core.Discovery()))
	s.scenario, err = scenario.Connect(s.admin, io.Discard)
	s.must(err)
	s.define()
	return s
}

func (s *site) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

// await tries until a condition holds. The time is only there to end a test that
// has failed.
func (s *site) await(what string, holds func() bool) {
	s.Helper()
	begun := time.Now()
	for end := begun.Add(2 * time.Minute); !holds(); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			s.Fatalf("after two minutes still not: %s", what)
		}
	}
	s.Logf("%4.1f s until %s", time.Since(begun).Seconds(), what)
}

// define applies CRDs as their projects publish them.
func (s *site) define() {
	s.Helper()
	crds := map[string][]string{}
	for module, files := range map[string][]string{
		"github.com/cert-manager/cert-manager": {"deploy/crds/*.yaml"},
		"knative.dev/networking":               {"config/certificate.yaml", "config/ingress.yaml"},
		"knative.dev/serving":                  {"config/core/300-resources/route.yaml", "config/core/300-resources/domain-mapping.yaml"},
		"sigs.k8s.io/gateway-api":              {"config/crd/standard/gateway.networking.k8s.io_gateways.yaml", "config/crd/standard/gateway.networking.k8s.io_listenersets.yaml"},
	} {
		dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", module).Output()
		s.must(err)
		crds[strings.TrimSpace(string(dir))] = files
	}
	download := exec.Command("go", "mod", "download", "-json", prometheusOperator)
	download.Dir = s.TempDir() // in no module
	out, err := download.Output()
	if err != nil {
		s.Fatalf("go mod download %s: %v\n%s", prometheusOperator, err, out)
	}
	var module struct{ Dir, Sum string }
	s.must(json.Unmarshal(out, &module))
	if module.Sum != prometheusOperatorSum {
		s.Fatalf("%s has the sum %s", prometheusOperator, module.Sum)
	}
	crds[module.Dir] = []string{"example/prometheus-operator-crd/monitoring.coreos.com_servicemonitors.yaml", "example/prometheus-operator-crd/monitoring.coreos.com_prometheusrules.yaml"}
	for dir, patterns := range crds {
		for _, pattern := range patterns {
			files, err := filepath.Glob(filepath.Join(dir, pattern))
			if err != nil || len(files) == 0 {
				s.Fatalf("there is no %s", filepath.Join(dir, pattern))
			}
			for _, file := range files {
				b, err := os.ReadFile(file)
				s.must(err)
				for _, o := range s.parse(string(b)) {
					if o.GetKind() == "CustomResourceDefinition" {
						s.must(s.apply(o, false))
					}
				}
			}
		}
	}
}

func (s *site) parse(text string) (objects []*unstructured.Unstructured) {
	s.Helper()
	for d := yaml.NewYAMLOrJSONDecoder(strings.NewReader(text), 4096); ; {
		o := &unstructured.Unstructured{}
		if err := d.Decode(&o.Object); errors.Is(err, io.EOF) {
			return objects
		} else if err != nil {
			s.Fatalf("%v in:\n%s", err, text)
		}
		if len(o.Object) > 0 {
			objects = append(objects, o)
		}
	}
}

// render builds a folder of manifests/.
func (s *site) render(folder string) []*unstructured.Unstructured {
	s.Helper()
	text, err := scenario.Kustomize("../../manifests/" + folder)
	s.must(err)
	return s.parse(text)
}

func (s *site) resource(o *unstructured.Unstructured) (dynamic.ResourceInterface, error) {
	gvk := o.GroupVersionKind()
	m, err := s.mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
	for try := 0; meta.IsNoMatchError(err) && try < 100; try++ { // its CRD is new
		time.Sleep(100 * time.Millisecond)
		s.mapper.Reset()
		m, err = s.mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
	}
	if err != nil {
		return nil, err
	}
	if m.Scope.Name() == meta.RESTScopeNameRoot {
		return s.dynamic.Resource(m.Resource), nil
	}
	if o.GetNamespace() == "" { // kubectl would take that of its context
		return nil, fmt.Errorf("%s %s names no namespace", o.GetKind(), o.GetName())
	}
	return s.dynamic.Resource(m.Resource).Namespace(o.GetNamespace()), nil
}

// apply is `kubectl apply --server-side --validate=strict`.
func (s *site) apply(o *unstructured.Unstructured, dryRun bool) error {
	api, err := s.resource(o)
	if err != nil {
		return err
	}
	b, err := json.Marshal(o)
	if err != nil {
		return err
	}
	force := true
	options := metav1.PatchOptions{FieldManager: "kubectl", Force: &force, FieldValidation: metav1.FieldValidationStrict}
	if dryRun {
		options.DryRun = []string{metav1.DryRunAll}
	}
	made, err := api.Patch(s.Context(), o.GetName(), types.ApplyPatchType, b, options)
	if err != nil {
		return fmt.Errorf("apply %s %s/%s: %w", o.GetKind(), o.GetNamespace(), o.GetName(), err)
	}
	o.SetUID(made.GetUID())
	return nil
}

// install applies a folder of manifests/.
func (s *site) install(folder string) []*unstructured.Unstructured {
	s.Helper()
	objects := s.render(folder)
	for _, o := range objects {
		s.must(s.apply(o, false))
	}
	return objects
}

// uninstall is `kubectl delete -k`.
func (s *site) uninstall(objects []*unstructured.Unstructured) {
	s.Helper()
	for _, o := range slices.Backward(objects) {
		api, err := s.resource(o)
		s.must(err)
		if err := api.Delete(s.Context(), o.GetName(), metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			s.Fatal(err)
		}
	}
	for _, o := range objects {
		if kind := o.GetKind(); kind == "Namespace" || kind == "CustomResourceDefinition" {
			api, err := s.resource(o)
			s.must(err)
			s.await(o.GetName()+" is gone", func() bool {
				_, err := api.Get(s.Context(), o.GetName(), metav1.GetOptions{})
				return apierrors.IsNotFound(err)
			})
		}
	}
}

// create makes the objects of a YAML text, with their status.
func (s *site) create(namespace, text string) (made []*unstructured.Unstructured) {
	s.Helper()
	for _, o := range s.parse(strings.ReplaceAll(text, "NS", namespace)) {
		if o.GetNamespace() == "" && namespace != "" {
			o.SetNamespace(namespace)
		}
		api, err := s.resource(o)
		s.must(err)
		x, err := api.Create(s.Context(), o, metav1.CreateOptions{})
		if err != nil {
			s.Fatalf("create %s %s: %v", o.GetKind(), o.GetName(), err)
		}
		if status, ok := o.Object["status"]; ok {
			x.Object["status"] = status
			x, err = api.UpdateStatus(s.Context(), x, metav1.UpdateOptions{})
			s.must(err)
		}
		made = append(made, x)
	}
	return made
}

// there reports whether an object exists.
func (s *site) there(group, version, resource, namespace, name string) bool {
	s.Helper()
	_, err := s.dynamic.Resource(gvr(group, version, resource)).Namespace(namespace).Get(s.Context(), name, metav1.GetOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		s.Fatal(err)
	}
	return err == nil
}

// account writes a kubeconfig with a token of a ServiceAccount.
func (s *site) account(namespace, name string) string {
	s.Helper()
	path := filepath.Join(s.TempDir(), name)
	s.must(s.scenario.ServiceAccount(s.Context(), s.admin, namespace, name, path))
	return path
}

// run runs certherd with a kubeconfig, and returns what it prints.
func (s *site) run(kubeconfig string, args ...string) (string, error) {
	command := exec.CommandContext(s.Context(), s.certherd, args...)
	command.Env = []string{"KUBECONFIG=" + kubeconfig}
	var out, log bytes.Buffer
	command.Stdout, command.Stderr = &out, &log
	err := command.Run()
	if err != nil {
		err = fmt.Errorf("certherd %s: %w: %s", strings.Join(args, " "), err, &log)
	}
	return out.String(), err
}

// pod is a replica: certherd as a process, started as the Deployment says, with
// the ServiceAccount's token.
type pod struct {
	*replica.Process
	s *site
}

// start starts a replica of the Deployment among objects.
func (s *site) start(name, kubeconfig string, objects []*unstructured.Unstructured) *pod {
	s.Helper()
	var d appsv1.Deployment
	i := slices.IndexFunc(objects, func(o *unstructured.Unstructured) bool { return o.GetKind() == "Deployment" })
	s.must(runtime.DefaultUnstructuredConverter.FromUnstructured(objects[i].Object, &d))
	c := d.Spec.Template.Spec.Containers[0]
	// The port of the Pod is not free on this machine, nor anybody else's business.
	args := append(slices.Clone(c.Args), "--listen=127.0.0.1:0")
	cmd := exec.Command(s.certherd, args...)
	// In a Pod, the token and the address come from files and the environment; here
	// they come from a kubeconfig. The rest is as the Deployment says.
	cmd.Env = []string{"KUBECONFIG=" + kubeconfig}
	for _, e := range c.Env {
		value := e.Value
		if e.ValueFrom != nil {
			switch e.ValueFrom.FieldRef.FieldPath {
			case "metadata.namespace":
				value = d.Namespace
			case "metadata.name":
				value = name
			default:
				s.Fatalf("the test does not know %s", e.ValueFrom.FieldRef.FieldPath)
			}
		}
		cmd.Env = append(cmd.Env, e.Name+"="+value)
	}
	ctx, cancel := context.WithTimeout(s.Context(), 2*time.Minute)
	defer cancel()
	run, err := replica.Run(ctx, name, cmd)
	p := &pod{run, s}
	s.Cleanup(func() {
		run.Kill()
		if crash := run.Crash(); crash != nil {
			s.Errorf("%s has written what is no line of a log: %s", name, crash[0].Message)
		}
		if s.Failed() {
			for _, l := range run.Lines() {
				s.Log(name, l.Message, l.Fields)
			}
		}
	})
	s.must(err)
	// The probes of the Deployment.
	for _, probe := range []*corev1.Probe{c.LivenessProbe, c.ReadinessProbe} {
		s.await(name+" answers at "+probe.HTTPGet.Path, func() bool { code, _ := p.Get(probe.HTTPGet.Path); return code == 200 })
	}
	return p
}

// said is the last line of the log with a message, nil if there is none.
func (p *pod) said(message string) map[string]any {
	lines := p.Said(message)
	if len(lines) == 0 {
		return nil
	}
	return lines[len(lines)-1].Fields
}

func (p *pod) report() (r report.Report) {
	p.s.Helper()
	code, b := p.Get("/report.json")
	if code != 200 {
		p.s.Fatalf("/report.json of %s: %d %s", p.Name, code, b)
	}
	p.s.must(json.Unmarshal(b, &r))
	return r
}

// end stops a replica as the kubelet does.
func (p *pod) end() {
	p.s.Helper()
	if err := p.End(); err != nil {
		p.s.Errorf("%s ended with %v", p.Name, err)
	}
}

// configure sets config.yaml of the ConfigMap that the manifests made.
func (s *site) configure(text string) {
	s.Helper()
	patch, err := json.Marshal(map[string]any{"data": map[string]string{"config.yaml": text}})
	s.must(err)
	_, err = s.core.CoreV1().ConfigMaps("certherd").Patch(s.Context(), "certherd", types.MergePatchType, patch, metav1.PatchOptions{})
	s.must(err)
}

// event is an Event of certherd, nil if there is none.
func (s *site) event(namespace, reason string) *corev1.Event {
	s.Helper()
	list, err := s.core.CoreV1().Events(namespace).List(s.Context(), metav1.ListOptions{})
	s.must(err)
	for i, e := range list.Items {
		if e.Reason == reason && e.Source.Component == "certherd" {
			return &list.Items[i]
		}
	}
	return nil
}

// request is one line of kube-apiserver's audit log (audit.k8s.io/v1 Event).
type request struct {
	Stage, Verb, RequestURI string
	User                    struct{ Username string }
	ObjectRef               *struct{ Resource, Subresource, APIGroup, Namespace, Name string }
	ResponseStatus          struct{ Code int }
}

// requests are those of a ServiceAccount to resources so far.
func (s *site) requests(namespace, name string) (out []request) {
	s.Helper()
	f, err := os.Open(s.stack.AuditLog)
	s.must(err)
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var r request
		if json.Unmarshal(lines.Bytes(), &r) == nil && r.User.Username == "system:serviceaccount:"+namespace+":"+name && r.ObjectRef != nil {
			out = append(out, r)
		}
	}
	s.must(lines.Err())
	return out
}

func (s *site) namespace(names ...string) {
	s.Helper()
	for _, n := range names {
		_, err := s.core.CoreV1().Namespaces().Create(context.Background(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: n}}, metav1.CreateOptions{})
		s.must(err)
	}
}

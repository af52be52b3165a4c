// Package replica installs certherd in a real cluster by its manifests, and runs its
// replicas as processes with the rights of their ServiceAccount and no others.
package replica

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/certherd/certherd/api/v1alpha1"
	"github.com/certherd/certherd/config"
	"github.com/certherd/certherd/e2e/scenario"
	"github.com/certherd/certherd/e2e/stack"
)

// Namespace and account are those of the manifests.
const (
	Namespace = "certherd"
	account   = "certherd"
)

// Options say what is run.
type Options struct {
	Program       string // certherd, built
	Manifests     string // the folder manifests
	Folder        string // gets the kubeconfig
	Configuration string // config.yaml
	Replicas      int
	Args          []string // further ones of `certherd run`
}

// A Set is replicas that run.
type Set struct {
	// Kubeconfig is that of the ServiceAccount.
	Kubeconfig string

	replicas []*Process
}

// Start installs certherd with the right to collect, to consolidate and to renew, and
// returns when every replica has started. The stack has no kubelet: the Deployment is
// scaled to 0, and processes on this machine take the place of its pods.
func Start(ctx context.Context, s *stack.Stack, c *scenario.Cluster, o Options) (*Set, error) {
	if _, err := config.Parse([]byte(o.Configuration)); err != nil {
		return nil, err
	}
	for _, folder := range []string{"enforce", "carry", "renew"} {
		if err := c.Install(ctx, filepath.Join(o.Manifests, folder)); err != nil {
			return nil, fmt.Errorf("install manifests/%s: %w", folder, err)
		}
	}
	if _, err := c.Typed.AppsV1().Deployments(Namespace).UpdateScale(ctx, "certherd", &autoscalingv1.Scale{
		ObjectMeta: metav1.ObjectMeta{Name: "certherd", Namespace: Namespace}}, metav1.UpdateOptions{}); err != nil {
		return nil, err
	}
	for end := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		_, err := c.Dynamic.Resource(v1alpha1.GroupVersionResource).List(ctx, metav1.ListOptions{})
		if err == nil {
			break
		} else if ctx.Err() != nil || time.Now().After(end) {
			return nil, fmt.Errorf("the custom resource is not served: %w", err)
		}
	}
	object, err := yaml.Marshal(map[string]any{"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"name": config.ConfigMapName, "namespace": Namespace},
		"data": map[string]any{config.ConfigMapKey: o.Configuration}})
	if err != nil {
		return nil, err
	}
	if err := c.Apply(ctx, string(object), nil); err != nil {
		return nil, err
	}
	admin, err := s.RESTConfig()
	if err != nil {
		return nil, err
	}
	set := &Set{Kubeconfig: filepath.Join(o.Folder, "service.kubeconfig")}
	if err := c.ServiceAccount(ctx, admin, Namespace, account, set.Kubeconfig); err != nil {
		return nil, err
	}
	for i := range o.Replicas {
		if err := set.start(ctx, o, fmt.Sprintf("certherd-%d", i)); err != nil {
			return nil, errors.Join(err, set.Stop())
		}
	}
	return set, nil
}

func (s *Set) start(ctx context.Context, o Options, name string) error {
	cmd := exec.Command(o.Program, append([]string{"run", "--kubeconfig", s.Kubeconfig, "--namespace", Namespace, "--identity", name, "--listen", "127.0.0.1:0"}, o.Args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // the terminal's Ctrl-C is not for it
	p, err := Run(ctx, name, cmd)
	if err != nil {
		return err
	}
	s.replicas = append(s.replicas, p)
	return nil
}

// Lines are what all replicas have logged, as it came.
func (s *Set) Lines() []Line {
	var all []Line
	for _, p := range s.replicas {
		all = append(all, p.Lines()...)
	}
	slices.SortStableFunc(all, func(a, b Line) int { return a.At.Compare(b.At) })
	return all
}

// Err says which replica has ended by itself.
func (s *Set) Err() error {
	for _, p := range s.replicas {
		if p.Ended() {
			return fmt.Errorf("%s has ended: %s", p.Name, p.last())
		}
	}
	return nil
}

// Leader asks the replica that leads for a path, nil if none leads.
func (s *Set) Leader(path string) ([]byte, error) {
	i := slices.IndexFunc(s.replicas, (*Process).Leads)
	if i < 0 {
		return nil, nil
	}
	code, text := s.replicas[i].Get(path)
	if code != http.StatusOK {
		return nil, fmt.Errorf("%s of %s: status %d", path, s.replicas[i].Name, code)
	}
	return text, nil
}

// Stop ends the replicas as a kubelet does.
func (s *Set) Stop() error {
	errs := make([]error, len(s.replicas))
	var all sync.WaitGroup
	for i, p := range s.replicas {
		all.Go(func() { errs[i] = p.End() })
	}
	all.Wait()
	return errors.Join(errs...)
}

// Package replica installs certherd in a real cluster by its manifests, and runs its
// replicas as processes with the rights of their ServiceAccount and no others.
package replica

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
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

	replicas []*process
	mu       sync.Mutex
	lines    []Line
}

// A Line is one of a replica's log.
type Line struct {
	At      time.Time
	Replica string
	Message string
	Fields  map[string]any
}

// Text is a field, empty if it is not text.
func (l Line) Text(field string) string {
	s, _ := l.Fields[field].(string)
	return s
}

type process struct {
	name    string
	cmd     *exec.Cmd
	address string
	ended   chan struct{}
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
	p := &process{name: name, ended: make(chan struct{})}
	p.cmd = exec.Command(o.Program, append([]string{"run", "--kubeconfig", s.Kubeconfig, "--namespace", Namespace, "--identity", name, "--listen", "127.0.0.1:0"}, o.Args...)...)
	// It ends with this process, however that ends, and not by the terminal's Ctrl-C.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	out, err := p.cmd.StderrPipe()
	if err != nil {
		return err
	}
	if err := p.cmd.Start(); err != nil {
		return err
	}
	s.replicas = append(s.replicas, p)
	started := make(chan string, 1)
	go s.read(p, out, started)
	select {
	case p.address = <-started:
		return nil
	case <-p.ended:
		return fmt.Errorf("%s has ended: %s", name, s.last(name))
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *Set) read(p *process, out io.Reader, started chan<- string) {
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		l := Line{At: time.Now(), Replica: p.name}
		if json.Unmarshal(lines.Bytes(), &l.Fields) != nil {
			l.Fields = map[string]any{"msg": lines.Text()}
		}
		l.Message = l.Text("msg")
		s.mu.Lock()
		s.lines = append(s.lines, l)
		s.mu.Unlock()
		if l.Message == "started" {
			started <- l.Text("address")
		}
	}
	_ = p.cmd.Wait() // a signal has ended it, or its log says why it has
	close(p.ended)
}

func (s *Set) last(name string) string {
	for _, l := range slices.Backward(s.Lines()) {
		if l.Replica == name {
			return fmt.Sprint(l.Fields)
		}
	}
	return "it wrote no log"
}

// Lines are what all replicas have logged, as it came.
func (s *Set) Lines() []Line {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.lines)
}

// Err says which replica has ended by itself.
func (s *Set) Err() error {
	for _, p := range s.replicas {
		select {
		case <-p.ended:
			return fmt.Errorf("%s has ended: %s", p.name, s.last(p.name))
		default:
		}
	}
	return nil
}

// Leader asks the replica that leads for a path, nil if none leads.
func (s *Set) Leader(ctx context.Context, path string) ([]byte, error) {
	for _, p := range s.replicas {
		metrics, err := get(ctx, "http://"+p.address+"/metrics")
		if err == nil && strings.Contains(string(metrics), "\ncertherd_leader 1\n") {
			return get(ctx, "http://"+p.address+path)
		}
	}
	return nil, nil
}

func get(ctx context.Context, url string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", url, answer.Status)
	}
	return io.ReadAll(answer.Body)
}

// Stop ends the replicas as a kubelet does: SIGTERM, and SIGKILL after 30 s.
func (s *Set) Stop() error {
	for _, p := range s.replicas {
		_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	}
	patience := time.After(30 * time.Second)
	var errs []error
	for _, p := range s.replicas {
		select {
		case <-p.ended:
		case <-patience:
			_ = p.cmd.Process.Kill()
			<-p.ended
			errs = append(errs, fmt.Errorf("%s did not end in 30 s", p.name))
		}
	}
	return errors.Join(errs...)
}

// Package envoy runs one real Envoy that is told its listener by a file, as an
// ingress controller would tell it by xDS.
package envoy

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/certherd/certherd/e2e/stack"
)

const (
	bootstrap = `
node: {id: a, cluster: a}
admin: {address: {socket_address: {address: 127.0.0.1, port_value: 0}}}
dynamic_resources:
  lds_config: {path_config_source: {path: %s/listeners.yaml}, resource_api_version: V3}
`
	listener = `
resources:
- "@type": type.googleapis.com/envoy.config.listener.v3.Listener
  name: web
  stat_prefix: web%d
  address: {socket_address: {address: 127.0.0.1, port_value: 0}}
  filter_chains:
%s`
	chain = `
  - filter_chain_match: {%s}
    filters:
    - name: envoy.filters.network.http_connection_manager
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
        stat_prefix: ingress_http
        http_filters: [{name: envoy.filters.http.router, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}]
        route_config:
          virtual_hosts: [{name: all, domains: ["*"], routes: [{match: {path: /failing}, direct_response: {status: 503}}, {match: {prefix: /}, direct_response: {status: 200}}]}]
`
)

// Envoy is one that runs.
type Envoy struct {
	// Page is the URL of its Prometheus page. Web is where it listens, and answers
	// 503 to /failing and 200 to everything else; host:port.
	Page, Web string

	dir, admin string
	updates    int
}

// Start runs an Envoy until the test ends. It is skipped with -short.
func Start(t *testing.T) *Envoy {
	t.Helper()
	if testing.Short() {
		t.Skip("starts Envoy")
	}
	if err := stack.Build(t.Context(), os.Stderr, stack.Envoy); err != nil {
		t.Fatal(err)
	}
	cache, err := stack.CacheDir()
	if err != nil {
		t.Fatal(err)
	}
	programs, err := filepath.Glob(filepath.Join(cache, "envoy-*", "bin", "envoy"))
	if err != nil || len(programs) == 0 {
		t.Fatalf("there is no Envoy in %s: %v", cache, err)
	}
	e := &Envoy{dir: t.TempDir()}
	e.write(t, "envoy.yaml", fmt.Sprintf(bootstrap, e.dir))
	e.write(t, "listeners.yaml", fmt.Sprintf(listener, 0, fmt.Sprintf(chain, "")))
	address := filepath.Join(e.dir, "admin")
	process := exec.Command(programs[len(programs)-1], "-c", filepath.Join(e.dir, "envoy.yaml"), "--admin-address-path", address, "--disable-hot-restart", "--concurrency", "1")
	if err := process.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = process.Process.Kill(); _ = process.Wait() })
	e.until(t, "Envoy listens", func() bool {
		b, err := os.ReadFile(address)
		if err != nil {
			return false
		}
		e.admin = "http://" + string(b)
		e.Page = e.admin + "/stats/prometheus"
		text, err := get(t.Context(), e.admin+"/listeners")
		_, e.Web, _ = strings.Cut(strings.TrimSpace(text), "web::")
		return err == nil && e.Web != ""
	})
	return e
}

// Reject gives it a listener with two filter chains for the same name, which it
// rejects, and waits until it has.
func (e *Envoy) Reject(t *testing.T) {
	t.Helper()
	was := e.count(t, "update_rejected")
	e.updates++
	same := fmt.Sprintf(chain, "server_names: [a.example.test]")
	e.write(t, "listeners.yaml", fmt.Sprintf(listener, e.updates, same+same))
	e.until(t, "Envoy rejects a listener", func() bool { return e.count(t, "update_rejected") != was })
}

// Accept gives it a listener that it accepts, and waits until it has.
func (e *Envoy) Accept(t *testing.T) {
	t.Helper()
	was := e.count(t, "update_success")
	e.updates++
	e.write(t, "listeners.yaml", fmt.Sprintf(listener, e.updates, fmt.Sprintf(chain, "")))
	e.until(t, "Envoy accepts a listener", func() bool { return e.count(t, "update_success") != was })
}

func (e *Envoy) count(t *testing.T, what string) string {
	text, err := get(t.Context(), e.admin+"/stats?filter=^listener_manager.lds."+what+"$")
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// write puts a file where Envoy reads it: it watches for files that are moved
// there.
func (e *Envoy) write(t *testing.T, name, text string) {
	t.Helper()
	fresh := filepath.Join(e.dir, "new")
	if err := os.WriteFile(fresh, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(fresh, filepath.Join(e.dir, name)); err != nil {
		t.Fatal(err)
	}
}

func (e *Envoy) until(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !holds(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("after a minute still not: %s", what)
		}
	}
}

func get(ctx context.Context, url string) (string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	b, err := io.ReadAll(response.Body)
	return string(b), err
}

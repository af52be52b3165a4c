package manifests_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/certherd/certherd/api/v1alpha1"
)

// helmed installs, upgrades and uninstalls certherd by Helm. That the chart has the
// same objects as manifests/ is tested in tools/chart.
func helmed(s *site, team string) {
	s.Helper()
	dir := s.TempDir()
	program := filepath.Join(dir, "helm")
	build := exec.Command("go", "build", "-o", program, "helm.sh/helm/v4/cmd/helm")
	build.Dir, build.Stderr = "../../tools/chart", os.Stderr
	s.must(build.Run())
	helm := func(args ...string) (string, error) {
		c := exec.CommandContext(s.Context(), program, append(args, "--namespace=certherd", "--kubeconfig="+s.stack.Kubeconfig)...)
		c.Env = []string{"HOME=" + dir}
		var out, log bytes.Buffer
		c.Stdout, c.Stderr = &out, &log
		if err := c.Run(); err != nil {
			return "", fmt.Errorf("helm %s: %w: %s", strings.Join(args, " "), err, &log)
		}
		return out.String(), nil
	}
	must := func(args ...string) string {
		s.Helper()
		out, err := helm(args...)
		s.must(err)
		return out
	}
	const chart = "../../charts/certherd"

	must("install", "certherd", chart, "--create-namespace", "--server-side=true")
	objects := s.parse(must("get", "manifest", "certherd"))
	p := s.start("certherd-3", s.account("certherd", "certherd"), objects)
	s.await("it leads", func() bool { return p.Metric("certherd_leader") == 1 })

	// A bad upgrade is refused before anything changes.
	for _, bad := range []string{"mode=all", "carry=true", "page=closed", "config.gc.schedule=never"} {
		if _, err := helm("upgrade", "certherd", chart, "--set", bad); err == nil {
			s.Errorf("helm upgrade --set %s is taken", bad)
		}
	}
	must("upgrade", "certherd", chart, "--set", "mode=enforce,carry=true,renew=true,approve=true,operator=true,prometheus.enabled=true,grafana.enabled=true,page=sign-in",
		"--set", "config.gc.mode=enforce,config.gc.gracePeriod=168h,config.gc.minAge=0s")
	s.await("the new configuration is in force", func() bool { l := p.said("configuration taken over"); return l != nil && l["gc"] == "enforce" })
	upgraded := s.parse(must("get", "manifest", "certherd"))
	// The rights are there: those of carry are on top of all.
	if g := grants(s, upgraded, "certherd", "certherd"); !slices.Contains(g, grant{"", "patch", "networking.k8s.io", "ingresses"}) {
		s.Errorf("what it may do: %v", g)
	}
	more, _ := webGrants(s, "audit")
	for _, g := range more {
		if !slices.Contains(grants(s, upgraded, "certherd", "certherd"), g) {
			s.Errorf("page: sign-in does not let it %s", g)
		}
	}
	p.end()

	// A Secret that is marked when certherd goes, and one that is in use.
	s.tls(team, "marked-4f1", time.Now().Add(time.Hour))
	api := s.dynamic.Resource(v1alpha1.GroupVersionResource)
	s.leavesAlone(team, func() { must("uninstall", "certherd") })
	if marked, there := s.mark(team, "marked-4f1"); !marked || !there {
		s.Errorf("marked-4f1: there %v, marked %v", there, marked)
	}
	for _, o := range upgraded {
		if r, err := s.resource(o); err != nil {
			s.Error(err)
		} else if _, err := r.Get(s.Context(), o.GetName(), metav1.GetOptions{}); o.GetKind() == "CustomResourceDefinition" {
			s.must(err) // it is kept, with what there is of it
			_, err = api.List(s.Context(), metav1.ListOptions{})
			s.must(err)
		} else if !apierrors.IsNotFound(err) {
			s.Errorf("%s %s is left: %v", o.GetKind(), o.GetName(), err)
		}
	}
}

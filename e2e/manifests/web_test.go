package manifests_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/certherd/certherd/e2e/scenario"
	"github.com/certherd/certherd/web"
)

// with builds a folder of manifests/ with a component, as an overlay does.
func (s *site) with(folder, component string) []*unstructured.Unstructured {
	s.Helper()
	here := s.TempDir()
	relative := func(path string) string {
		absolute, err := filepath.Abs("../../manifests/" + path)
		s.must(err)
		r, err := filepath.Rel(here, absolute)
		s.must(err)
		return r
	}
	text, err := yaml.Marshal(map[string]any{"resources": []string{relative(folder)}, "components": []string{relative("components/" + component)}})
	s.must(err)
	s.must(os.WriteFile(filepath.Join(here, "kustomization.yaml"), text, 0o600))
	built, err := scenario.Kustomize(here)
	s.must(err)
	return s.parse(built)
}

// webGrants are what components/web grants beyond a folder.
func webGrants(s *site, folder string) (more []grant, objects []*unstructured.Unstructured) {
	s.Helper()
	objects = s.with(folder, "web")
	before := grants(s, s.render(folder), "certherd", "certherd")
	for _, g := range grants(s, objects, "certherd", "certherd") {
		if !slices.Contains(before, g) {
			more = append(more, g)
		}
	}
	return more, objects
}

// TestWebGrantsWhatItNeeds: no more, and no less, than web.Rights lists.
func TestWebGrantsWhatItNeeds(t *testing.T) {
	s := &site{T: t}
	got, objects := webGrants(s, "audit")
	n := 0
	for _, r := range web.Rights() {
		for _, verb := range r.Verbs {
			n++
			where := ""
			if r.APIGroups[0] == "" {
				where = "certherd"
			}
			if g := (grant{where, verb, r.APIGroups[0], r.Resources[0]}); !slices.Contains(got, g) {
				t.Errorf("used, and not granted: %s", g)
			}
		}
	}
	if n != len(got) {
		t.Errorf("%d rights are used, and granted are %v", n, got)
	}
	i := slices.IndexFunc(objects, func(o *unstructured.Unstructured) bool { return o.GetKind() == "Deployment" })
	if text := fmt.Sprint(objects[i].Object); !strings.Contains(text, "[run --page=sign-in]") {
		t.Errorf("the Deployment is %s", text)
	}
}

package live

import (
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// A Gateway is Ready when its controller says so of the Gateway as it is, and of the
// listeners concerned.
func TestReadyOfListeners(t *testing.T) {
	const good = `
metadata: {generation: 2}
status:
  conditions: [{type: Accepted, status: "False", observedGeneration: 1}, {type: Programmed, status: "True", observedGeneration: 2}]
  listeners:
  - {name: a, conditions: [{type: ResolvedRefs, status: "True", observedGeneration: 2}, {type: Programmed, status: "True", observedGeneration: 2}]}
  - {name: b, conditions: [{type: ResolvedRefs, status: "True", observedGeneration: 2}]}
  - {name: c, conditions: [{type: ResolvedRefs, status: "False", observedGeneration: 2, reason: InvalidCertificateRef}]}
`
	for _, tc := range []struct {
		name, text string
		listeners  []string
		why        string
	}{
		{"all is well", good, []string{"a", "b"}, ""},
		{"of no listener", good, nil, ""},
		{"another listener is not well", good, []string{"a", "c"}, "listener c: ResolvedRefs is False: InvalidCertificateRef"},
		{"a listener is new", good, []string{"d"}, "listener d: its controller has not said"},
		{"nobody serves it", "metadata: {generation: 1}", nil, "has not said whether it is Programmed"},
		{"it was changed", strings.Replace(good, "generation: 2", "generation: 3", 1), nil, "has not looked at it yet"},
		{"a listener was looked at before", strings.Replace(good, `"True", observedGeneration: 2}, {type: Programmed, status: "True", observedGeneration: 2}]}`, `"True", observedGeneration: 1}]}`, 1), []string{"a"}, "listener a: its controller has not looked"},
		{"it is not programmed", strings.Replace(good, `{type: Programmed, status: "True"`, `{type: Programmed, message: no address, status: "False"`, 1), []string{"a"}, "Programmed is False: no address"},
		{"a listener is not programmed", strings.Replace(good, `2}, {type: Programmed, status: "True"`, `2}, {type: Programmed, status: "Unknown"`, 1), []string{"a"}, "Programmed is Unknown"},
	} {
		var x listening
		if err := yaml.Unmarshal([]byte(tc.text), &x); err != nil {
			t.Fatal(err)
		}
		ok, why := x.ready(tc.listeners)
		if ok != (tc.why == "") || !strings.Contains(why, tc.why) {
			t.Errorf("%s: %v, %q; want %q", tc.name, ok, why, tc.why)
		}
	}
}

// A tool that prunes what has its labels and is not in its manifests would take a
// wildcard away that has a member's.
func TestLabelsOfAToolAreNotCopied(t *testing.T) {
	for label, want := range map[string]bool{
		"argocd.argoproj.io/instance": true, "app.kubernetes.io/instance": true, "app.kubernetes.io/managed-by": true, "kustomize.toolkit.fluxcd.io/name": true,
		"helm.toolkit.fluxcd.io/namespace": true, "applyset.kubernetes.io/part-of": true, "helm.sh/chart": true, "olm.owner": true, "serving.knative.dev/domainMappingUID": true,
		"app.kubernetes.io/name": false, "dns": false, "example.com/solver": false,
	} {
		if owned(label) != want {
			t.Errorf("%s: %v", label, !want)
		}
	}
}

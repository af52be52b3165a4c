package consolidate

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/certherd/certherd/inventory"
)

// operation is one of a JSON patch (RFC 6902).
type operation struct {
	Op    string `json:"op"`
	Path  string `json:"path"`
	Value any    `json:"value"`
}

// patch is a switch of one object for somebody else to make.
type patch struct {
	object    inventory.Ref
	version   string
	managedBy string
	ignored   bool
	ops       []operation
}

// versions are those of the kinds that are switched, and their resources.
var versions = map[[2]string][2]string{
	{inventory.GroupNetworking, "Ingress"}:    {"v1", "ingresses.networking.k8s.io"},
	{inventory.GroupGateway, "Gateway"}:       {"v1", "gateways.gateway.networking.k8s.io"},
	{inventory.GroupGateway, "ListenerSet"}:   {"v1", "listenersets.gateway.networking.k8s.io"},
	{inventory.GroupServing, "DomainMapping"}: {"v1beta1", "domainmappings.serving.knative.dev"},
}

// Patches are the switches of proposals as a Component of kustomize, whose comments
// have the same for kubectl: of what a tool or a person has to change, or of
// everything. Each tests first that the object is as it was looked at. What
// Knative serves has none: there a label makes the switch. It is empty when there
// is nothing to patch.
func Patches(s *inventory.Snapshot, proposals []Proposal, all bool) ([]byte, error) {
	var b bytes.Buffer
	for _, x := range proposals {
		list := patches(s, x, all)
		if len(list) == 0 {
			continue
		}
		if b.Len() == 0 {
			b.WriteString("apiVersion: kustomize.config.k8s.io/v1alpha1\nkind: Component\npatches:\n")
		}
		spec := x.Consolidation.Spec
		fmt.Fprintf(&b, "# %s in namespace %s: only once Secret %s is there and covers all hosts\n", strings.Join(spec.Wildcards, ", "), x.Consolidation.Namespace, spec.SecretName)
		for _, p := range list {
			if err := p.write(&b); err != nil {
				return nil, err
			}
		}
		for _, m := range spec.Members {
			if m.ManagedBy != "" {
				fmt.Fprintf(&b, "# Afterwards take %s %s out of what %s applies.\n", m.Kind, m.Name, m.ManagedBy)
			}
		}
	}
	return b.Bytes(), nil
}

// patches are those of one proposal, sorted.
func patches(s *inventory.Snapshot, x Proposal, all bool) []patch {
	from := map[inventory.Ref]bool{}
	for _, m := range x.Consolidation.Spec.Members {
		from[inventory.SecretRef(x.Consolidation.Namespace, m.SecretName)] = true
	}
	var out []patch
	seen := map[inventory.Ref]bool{}
	for _, st := range x.Change.Steps {
		c := s.Consumer(st.Object)
		if c == nil || seen[st.Object] || c.ManagedBy == "" && !s.Ignored(&c.Meta) && !all {
			continue
		}
		v, ok := versions[[2]string{c.Ref.Group, c.Ref.Kind}]
		if !ok {
			continue
		}
		seen[st.Object] = true
		p := patch{object: c.Ref, version: v[0], managedBy: c.ManagedBy, ignored: s.Ignored(&c.Meta)}
		for _, t := range c.TLS {
			if from[t.Secret] {
				p.ops = append(p.ops, operation{"test", t.Pointer(), t.Secret.Name}, operation{"replace", t.Pointer(), x.Consolidation.Spec.SecretName})
			}
		}
		if len(p.ops) == 0 { // a DomainMapping that Knative has a certificate for
			p.ops = []operation{{"add", "/spec/tls", map[string]string{"secretName": x.Consolidation.Spec.SecretName}}}
		}
		out = append(out, p)
	}
	slices.SortFunc(out, func(a, b patch) int { return a.object.Compare(b.object) })
	return out
}

func (p patch) write(b *bytes.Buffer) error {
	ops, err := json.Marshal(p.ops)
	if err != nil {
		return err
	}
	switch {
	case p.managedBy != "":
		fmt.Fprintf(b, "# %s, managed by %s\n", p.object, p.managedBy)
	case p.ignored:
		fmt.Fprintf(b, "# %s, opted out by %s\n", p.object, inventory.IgnoreAnnotation)
	}
	fmt.Fprintf(b, "#   kubectl patch %s %s -n %s --type json -p '%s'\n", versions[[2]string{p.object.Group, p.object.Kind}][1], p.object.Name, p.object.Namespace, ops)
	text, err := yaml.Marshal(p.ops)
	if err != nil {
		return err
	}
	fmt.Fprintf(b, "- target:\n    group: %s\n    version: %s\n    kind: %s\n    name: %s\n    namespace: %s\n  patch: |-\n", p.object.Group, p.version, p.object.Kind, p.object.Name, p.object.Namespace)
	for line := range strings.Lines(string(text)) {
		b.WriteString("    " + line)
	}
	return nil
}

package inventory

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// The tests of this file build an object for a path and look whether what it
// names there comes out as unused.

// build returns the value at the end of a path of keys and "[]", wrapped in
// what the path leads through; beside, if not nil, stands beside the last key.
func build(path []string, value any, beside map[string]any) any {
	if len(path) == 0 {
		return value
	}
	if path[0] == "[]" {
		return []any{build(path[1:], value, beside)}
	}
	o := map[string]any{path[0]: build(path[1:], value, beside)}
	last := len(path) == 1 || len(path) == 2 && path[1] == "[]"
	if last {
		for k, v := range beside {
			if k != path[0] {
				o[k] = v
			}
		}
	}
	return o
}

// object wraps what build makes into an API object.
func object(namespace, name string, path []string, value any, beside map[string]any) []byte {
	o := build(path, value, beside).(map[string]any)
	m, ok := o["metadata"].(map[string]any)
	if !ok {
		m = map[string]any{}
		o["metadata"] = m
	}
	m["name"] = name
	m["uid"] = "f9b1c8e2-0000-4000-8000-000000000001"
	if namespace != "" {
		m["namespace"] = namespace
	}
	b, err := json.Marshal(o)
	if err != nil {
		panic(err)
	}
	return b
}

// judge gives the verdict on Secret a/name beside one object of a kind. Where
// the object's kind is one that gets a verdict, it is added like one.
func judge(t testing.TB, secret string, group, kind string, doc []byte, more ...string) Judgement {
	t.Helper()
	c := NewCollector()
	add := func(group, kind string, doc []byte) {
		t.Helper()
		if _, err := c.Add(group, kind, doc); err != nil {
			t.Fatalf("%s: %v", doc, err)
		}
	}
	add("", "Secret", []byte(`{"metadata":{"namespace":"a","name":"`+secret+`","uid":"s"},"type":"kubernetes.io/tls"}`))
	for _, name := range more {
		add("", "Secret", []byte(`{"metadata":{"namespace":"b","name":"`+name+`","uid":"m"},"type":"kubernetes.io/tls"}`))
	}
	first := slices.ContainsFunc(JudgedKinds, func(k KindName) bool { return k.Group == group && k.Kind == kind })
	if first {
		add(group, kind, doc)
	}
	c.Freeze()
	if !first {
		if !AlwaysScanned(group, kind) && !c.Mentions(doc) {
			// A source does not scan it then.
			return c.Snapshot(time.Time{}).Judge(SecretRef("a", secret))
		}
		if _, err := c.Add(group, kind, doc); err != nil && !strings.Contains(err.Error(), "cannot unmarshal") {
			t.Fatal(err)
		}
		if err := c.Scan(group, kind, doc); err != nil {
			t.Fatalf("%s: %v", doc, err)
		}
	}
	return c.Snapshot(time.Time{}).Judge(SecretRef("a", secret))
}

// openshiftGroups are the groups of the kinds that the list of CRD paths gives
// by OpenShift's version alone.
var openshiftGroups = map[string]string{
	"apiserver": "config.openshift.io", "ingress": "config.openshift.io", "oauth": "config.openshift.io",
	"buildconfig": "build.openshift.io", "buildrequest": "build.openshift.io", "deploymentconfig": "apps.openshift.io",
	"consoleplugin": "console.openshift.io", "ingresscontroller": "operator.openshift.io",
	"oauthclient": "oauth.openshift.io", "route": "route.openshift.io", "sharedsecret": "sharedresource.openshift.io",
	"templateinstance": "template.openshift.io", "azuremachineproviderspec": "machine.openshift.io",
	"gcpmachineproviderspec": "machine.openshift.io", "nutanixmachineproviderconfig": "machine.openshift.io",
	"powervsmachineproviderconfig": "machine.openshift.io", "vspheremachineproviderspec": "machine.openshift.io",
}

type crdPath struct {
	group, kind, path string
	namespaced        bool // a namespace field stands beside
	hasKind           bool
}

func crdPaths(t testing.TB) []crdPath {
	t.Helper()
	f, err := os.Open("testdata/crd-secret-paths.tsv")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	// The list has kinds in lower case; what the code knows by kind is spelled
	// as Kubernetes does.
	spelled := map[string]string{}
	for _, r := range references {
		spelled[strings.ToLower(r.kind)] = r.kind
	}
	for k := range harmlessPaths {
		spelled[strings.ToLower(k[1])] = k[1]
	}
	for k := range secretSelectors {
		spelled[strings.ToLower(k[1])] = k[1]
	}
	for k := range readKinds {
		spelled[strings.ToLower(k[1])] = k[1]
	}
	delete(spelled, "")
	var out []crdPath
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if strings.HasPrefix(lines.Text(), "#") {
			continue
		}
		col := strings.Split(lines.Text(), "\t")
		if len(col) != 3 {
			t.Fatalf("not three columns: %q", lines.Text())
		}
		dir, file := col[0][:strings.LastIndex(col[0], "/")], col[0][strings.LastIndex(col[0], "/")+1:]
		kind := file[:strings.LastIndex(file, "_")]
		group := dir
		if strings.HasPrefix(dir, "openshift/") {
			var ok bool
			if kind, group, ok = strings.Cut(kind, "_"); !ok { // newer versions say the group
				if group = openshiftGroups[kind]; group == "" {
					t.Errorf("%s: not known of which group", col[0])
				}
			}
		}
		if s, ok := spelled[kind]; ok {
			kind = s
		} else {
			kind = strings.ToUpper(kind[:1]) + kind[1:]
		}
		out = append(out, crdPath{group, kind, col[1], col[2] == "ns", col[2] == "kind"})
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	return out
}

// TestEveryCRDPath: whatever field of a real CRD names a Secret, the Secret is
// not unused. The list has no path below .status or .metadata of an object:
// what it has with these words (.spec.status of HetznerBareMetalHost,
// .spec.metadataPool of CephFilesystem, .spec.metadata of a Dapr Component) is
// below .spec, and counts.
func TestEveryCRDPath(t *testing.T) {
	paths := crdPaths(t)
	if len(paths) != 5731 {
		t.Errorf("%d paths, want 5731", len(paths))
	}
	objects := 0
	for _, p := range paths {
		path := splitPath(p.path)
		if ignoredPath(path) {
			t.Errorf("%s %s %s: the path is ignored", p.group, p.kind, p.path)
			continue
		}
		type variant struct {
			name, namespace, value string
			beside                 map[string]any
			more                   []string
		}
		variants := []variant{
			{"in its namespace", "a", "web-tls", nil, nil},
			{"in its namespace, with the kind", "a", "web-tls", map[string]any{"kind": "Secret"}, nil},
			{"as namespace/name from elsewhere", "b", "a/web-tls", nil, nil},
			{"as name.namespace from elsewhere", "b", "web-tls.a", nil, nil},
			{"as a URL from elsewhere", "b", "kubernetes://a/web-tls", nil, nil},
			{"from a cluster-scoped object", "", "web-tls", nil, nil},
		}
		if p.namespaced {
			in := map[string]any{"namespace": "a"}
			variants = append(variants,
				variant{"with a namespace beside", "b", "web-tls", in, nil},
				variant{"with a namespace beside, and a Secret of the name at hand", "b", "web-tls", in, []string{"web-tls"}},
				variant{"with its own namespace beside", "a", "web-tls", in, nil})
		}
		for _, v := range variants {
			if p.kind == "Certificate" && p.group == GroupCertManager && v.namespace == "" {
				continue // a Certificate has a namespace
			}
			objects++
			doc := object(v.namespace, "thing", path, v.value, v.beside)
			j := judge(t, "web-tls", p.group, p.kind, doc, v.more...)
			if j.Verdict == Unused {
				t.Errorf("%s %s %s %s: unused\n%s", p.group, p.kind, p.path, v.name, doc)
			}
			// The same object says nothing about a Secret of another name: so the
			// check above can fail.
			if j := judge(t, "other", p.group, p.kind, doc, v.more...); j.Verdict != Unused {
				t.Errorf("%s %s %s %s: another Secret is %s: %v", p.group, p.kind, p.path, v.name, j.Verdict, j.Evidence)
			}
		}
	}
	t.Logf("%d objects for %d paths", objects, len(paths))
}

// concrete returns a path that a pattern of the table of references matches.
func concrete(pattern []string) []string {
	var out []string
	for _, p := range pattern {
		switch {
		case p == "**":
			out = append(out, "spec", "deep", "[]", "deeper")
		case p == "*":
			out = append(out, "some")
		case strings.HasPrefix(p, "*"):
			out = append(out, "some"+p[1:])
		default:
			out = append(out, p)
		}
	}
	return out
}

// TestEveryReference: each row of the table makes its Secret used, by its field,
// in the namespace that its scope says, and nowhere else.
func TestEveryReference(t *testing.T) {
	for _, r := range references {
		kinds := [][2]string{{r.group, r.kind}}
		if r.group == "*" {
			kinds = [][2]string{{"apps", r.kind}, {"example.com", r.kind}}
		} else if strings.HasPrefix(r.group, "*") {
			kinds[0][0] = "some." + strings.TrimPrefix(r.group[1:], ".")
		}
		for _, k := range kinds {
			if k[1] == "" {
				k[1] = "Thing"
			}
			path := concrete(r.path)
			if !pathMatches(r.path, path) {
				t.Fatalf("%v does not match its own pattern %v", path, r.path)
			}
			name := r.name
			if name == "" {
				name = "thing"
			}
			t.Run(fmt.Sprintf("%s/%s/%s", k[0], k[1], fieldPath(path)), func(t *testing.T) {
				used := func(what, namespace, value string, beside map[string]any) {
					t.Helper()
					j := judge(t, "web-tls", k[0], k[1], object(namespace, name, path, value, beside))
					if j.Verdict != Used || j.Evidence[0].Via != Field || j.Evidence[0].From.Namespace != namespace || j.Evidence[0].Field != fieldPath(path) && j.Evidence[0].Field != "copy of" {
						t.Errorf("%s: %s %v, want it used by field %s", what, j.Verdict, j.Evidence, fieldPath(path))
					}
				}
				notUsed := func(what, namespace, value string, beside map[string]any) {
					t.Helper()
					if j := judge(t, "web-tls", k[0], k[1], object(namespace, name, path, value, beside)); j.Verdict == Used {
						t.Errorf("%s: %s %v", what, j.Verdict, j.Evidence)
					}
				}
				switch r.scope {
				case own:
					used("same namespace", "a", "web-tls", nil)
					notUsed("another namespace", "b", "web-tls", nil)
				case beside:
					used("same namespace", "a", "web-tls", nil)
					used("namespace/name", "b", "a/web-tls", nil)
					notUsed("another namespace", "b", "web-tls", nil)
					if path[0] != "metadata" {
						used("namespace beside", "b", "web-tls", map[string]any{"namespace": "a"})
						if k[1] != "Ingress" { // which has no such field
							notUsed("another namespace beside", "a", "web-tls", map[string]any{"namespace": "c"})
						}
					}
				case workload:
					used("same namespace", "a", "web-tls", nil)
					used("another namespace", "b", "web-tls", nil)
				case certificate:
					c := NewCollector()
					if _, err := c.Add(GroupCertManager, "Certificate", []byte(`{"metadata":{"namespace":"a","name":"web"},"spec":{"secretName":"x"}}`)); err != nil {
						t.Fatal(err)
					}
					c.Freeze()
					if err := c.Scan(k[0], k[1], object("", name, path, "a/web", nil)); err != nil {
						t.Fatal(err)
					}
					j := c.Snapshot(time.Time{}).Judge(CertificateRef("a", "web"))
					if j.Verdict != Used || j.Evidence[0].Field != fieldPath(path) {
						t.Errorf("%s %v, want it used by field", j.Verdict, j.Evidence)
					}
				}
				notUsed("another name", "a", "web-tls2", nil)
			})
		}
	}
}

package live

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	quantity "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/randfill"

	"github.com/certherd/certherd/inventory"
)

// kinds are all built-in kinds that an API server can list.
func kinds() []schema.GroupVersionKind {
	var out []schema.GroupVersionKind
	for gvk := range scheme.Scheme.AllKnownTypes() {
		if _, err := scheme.Scheme.New(schema.GroupVersionKind{Group: gvk.Group, Version: gvk.Version, Kind: gvk.Kind + "List"}); err != nil {
			continue
		}
		if o, _ := scheme.Scheme.New(gvk); o != nil {
			if _, ok := o.(metav1.Object); ok {
				out = append(out, gvk)
			}
		}
	}
	slices.SortFunc(out, func(a, b schema.GroupVersionKind) int { return strings.Compare(a.String(), b.String()) })
	return out
}

func TestEveryBuiltInKindCanBeDecoded(t *testing.T) {
	n := 0
	for _, gvk := range kinds() {
		o, err := scheme.Scheme.New(gvk)
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := o.(message); !ok {
			t.Errorf("%s has no protobuf form", gvk)
		}
		n++
	}
	if n < 100 {
		t.Errorf("only %d kinds", n)
	}
}

// random returns an object with random fields.
func random(r *rand.Rand, o runtime.Object, list int) {
	f := randfill.New().RandSource(rand.NewSource(r.Int63())).NilChance(.2).NumElements(list, list+1).MaxDepth(14).Funcs(
		func(m *metav1.TypeMeta, c randfill.Continue) {},
		func(x *metav1.Time, c randfill.Continue) { x.Time = time.Unix(r.Int63n(1<<32), 0).UTC() },
		func(x *metav1.MicroTime, c randfill.Continue) { x.Time = time.Unix(r.Int63n(1<<32), 0).UTC() },
		func(x *quantity.Quantity, c randfill.Continue) {
			*x = *quantity.NewQuantity(r.Int63n(1000), quantity.DecimalSI)
		},
		func(x *runtime.RawExtension, c randfill.Continue) {
			x.Raw, _ = json.Marshal(map[string]any{"spec": map[string]any{"a": []string{text(r, "b")}}})
		},
		func(x *metav1.FieldsV1, c randfill.Continue) { x.SetRawBytes([]byte(`{"f:data":{}}`)) },
		func(x *intstr.IntOrString, c randfill.Continue) {
			*x = intstr.FromInt32(r.Int31n(9))
			if r.Intn(2) == 0 {
				*x = intstr.FromString(text(r, "http"))
			}
		},
		// An empty value of a map of bytes comes back in another form.
		func(b *[]byte, c randfill.Continue) { *b = []byte(text(r, "b") + "c") },
		func(s *string, c randfill.Continue) { *s = text(r, "x") },
	)
	f.Fill(o)
}

// text is a string, often one that is easily taken for something else.
func text(r *rand.Rand, word string) string {
	switch r.Intn(8) {
	case 0:
		return ""
	case 1: // a message with a string
		return "\n" + string(rune(len(word))) + word
	case 2: // a message with a number, and more
		return "\b\x01" + word
	case 3:
		return "a\n" + word + "\nb"
	case 4:
		return "z" + word
	case 5:
		return "ä " + word + " é"
	case 6:
		return strings.Repeat("lorem ipsum ", r.Intn(30)) + word
	}
	return word
}

// plant puts text into n random strings of an object: fields, elements, keys and values of maps.
func plant(r *rand.Rand, o any, planted string, n int) int {
	var set []func(string)
	var visit func(v reflect.Value, depth int)
	visit = func(v reflect.Value, depth int) {
		switch v.Kind() {
		case reflect.Pointer, reflect.Interface:
			if !v.IsNil() {
				visit(v.Elem(), depth)
			}
		case reflect.Struct:
			switch v.Interface().(type) {
			case metav1.TypeMeta, metav1.Time, metav1.MicroTime, quantity.Quantity, metav1.FieldsV1, runtime.RawExtension, metav1.Duration:
				return
			case intstr.IntOrString:
				if v.FieldByName("Type").Int() == int64(intstr.Int) {
					return
				}
			}
			for i := range v.NumField() {
				if v.Type().Field(i).IsExported() {
					visit(v.Field(i), depth+1)
				}
			}
		case reflect.Slice:
			if v.Type().Elem().Kind() == reflect.Uint8 {
				return
			}
			for i := range v.Len() {
				visit(v.Index(i), depth+1)
			}
		case reflect.Map:
			if v.Type().Key().Kind() != reflect.String || v.Len() == 0 {
				return
			}
			value := v.MapIndex(v.MapKeys()[0])
			set = append(set, func(s string) { v.SetMapIndex(reflect.ValueOf(s).Convert(v.Type().Key()), value) })
			if v.Type().Elem().Kind() == reflect.String {
				set = append(set, func(s string) {
					v.SetMapIndex(reflect.ValueOf("planted").Convert(v.Type().Key()), reflect.ValueOf(s).Convert(v.Type().Elem()))
				})
			}
		case reflect.String:
			if v.CanSet() {
				set = append(set, v.SetString)
			}
		}
	}
	visit(reflect.ValueOf(o), 0)
	r.Shuffle(len(set), func(i, j int) { set[i], set[j] = set[j], set[i] })
	n = min(n, len(set))
	for _, f := range set[:n] {
		f(planted)
	}
	return n
}

// mentioned walks the JSON of an object: whether any of its strings that
// inventory.Scan may look at mentions what the collector looks for.
func mentioned(c *inventory.Collector, v any, path ...string) bool {
	switch v := v.(type) {
	case map[string]any:
		for k, x := range v {
			p := append(slices.Clone(path), k)
			if len(p) == 2 && p[0] == "metadata" && slices.Contains([]string{"name", "generateName", "namespace", "selfLink", "resourceVersion", "ownerReferences", "finalizers", "managedFields"}, k) {
				continue
			}
			if c.Mentions([]byte(k)) || mentioned(c, x, p...) {
				return true
			}
		}
	case []any:
		for _, x := range v {
			if mentioned(c, x, append(slices.Clone(path), "[]")...) {
				return true
			}
		}
	case string:
		return c.Mentions([]byte(v))
	case json.Number:
		return c.Mentions([]byte(v.String()))
	}
	return false
}

func collectorFor(t testing.TB, name string) *inventory.Collector {
	t.Helper()
	c := inventory.NewCollector()
	doc := fmt.Sprintf(`{"metadata":{"namespace":"a","name":%q,"labels":{"team.example.com/red":"yes"},"ownerReferences":[{"apiVersion":"example.com/v1","kind":"Thing","name":"x","uid":"0d6a8f3c-owner"}]},"type":"kubernetes.io/tls"}`, name)
	if _, err := c.Add("", "Secret", []byte(doc)); err != nil {
		t.Fatal(err)
	}
	c.Freeze()
	return c
}

// wireFinds asks the question by which an object is decoded or passed over.
func wireFinds(t testing.TB, c *inventory.Collector, raw []byte) bool {
	t.Helper()
	hit := false
	if err := leaves(raw, func(text []byte) bool { hit = c.Mentions(text); return !hit }); err != nil {
		t.Fatal(err)
	}
	return hit
}

// holds checks, for one random object, that the walk over the wire format finds
// whatever the walk over JSON finds. It returns whether that was anything.
func holds(t *testing.T, r *rand.Rand, gvk schema.GroupVersionKind, c *inventory.Collector, planted string) bool {
	o, err := scheme.Scheme.New(gvk)
	if err != nil {
		t.Fatal(err)
	}
	random(r, o, 1+r.Intn(2))
	plant(r, o, planted, r.Intn(3))
	raw, err := o.(interface{ Marshal() ([]byte, error) }).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	decoded, err := decode(resourceOf(gvk), raw)
	if err != nil {
		t.Fatal(err)
	}
	if decoded.Size() != len(raw) {
		t.Errorf("%s: decoded size %d, encoded %d", gvk, decoded.Size(), len(raw))
	}
	doc, err := json.Marshal(decoded)
	if err != nil {
		t.Fatal(err)
	}
	var tree any
	dec := json.NewDecoder(bytes.NewReader(doc))
	dec.UseNumber()
	if err := dec.Decode(&tree); err != nil {
		t.Fatal(err)
	}
	found := mentioned(c, tree)
	if found && !wireFinds(t, c, raw) {
		t.Errorf("%s: the wire walk misses %q in %s", gvk, planted, doc)
	}
	return found
}

func resourceOf(gvk schema.GroupVersionKind) resource {
	return resource{Group: gvk.Group, Version: gvk.Version, Kind: gvk.Kind}
}

// spellings are ways in which a string can hold a name.
var spellings = []string{"web-tls", "a/web-tls", "\n\x07web-tls", "\n\tweb-tls\n", "x\nweb-tls\ny", "\x12\x09--web-tls", "ü:web-tls", "--cert=web-tls,other", "team.example.com/red", "team.example.com/red=yes", "0d6a8f3c-owner", "web-tls\x00", "2\x07web-tls2", "\x0aweb-tls"}

func TestWireWalkMissesNothing(t *testing.T) {
	c := collectorFor(t, "web-tls")
	rounds := 8
	if testing.Short() {
		rounds = 2
	}
	all, found := kinds(), 0
	for i, gvk := range all {
		for n := range rounds {
			r := rand.New(rand.NewSource(int64(i*1000 + n)))
			if holds(t, r, gvk, c, spellings[r.Intn(len(spellings))]) {
				found++
			}
		}
	}
	if found < len(all)*rounds/4 {
		t.Errorf("only %d of %d objects mention anything", found, len(all)*rounds)
	}
}

func FuzzWireWalk(f *testing.F) {
	all := kinds()
	for i, s := range spellings {
		f.Add(int64(i), uint(i*17), s)
	}
	c := collectorFor(f, "web-tls")
	f.Fuzz(func(t *testing.T, seed int64, kind uint, planted string) {
		// The API server keeps valid UTF-8 only.
		planted = strings.ToValidUTF8(planted, "?")
		holds(t, rand.New(rand.NewSource(seed)), all[kind%uint(len(all))], c, planted)
	})
}

// The quick question and the full scan must agree where it matters: whenever
// Scan finds an edge, the object must not have been passed over.
func TestWhatScanFindsTheWireWalkFinds(t *testing.T) {
	for name, o := range map[string]message{
		"Ingress": &networkingv1.Ingress{Spec: networkingv1.IngressSpec{TLS: []networkingv1.IngressTLS{{SecretName: "web-tls"}}}},
		"Pod": &corev1.Pod{Spec: corev1.PodSpec{Volumes: []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{
			Secret: &corev1.SecretVolumeSource{SecretName: "web-tls"}}}}}},
		"ConfigMap key":    &corev1.ConfigMap{Data: map[string]string{"web-tls": ""}},
		"ConfigMap text":   &corev1.ConfigMap{Data: map[string]string{"c.yaml": "tls:\n  secret: web-tls\n"}},
		"ConfigMap binary": &corev1.ConfigMap{BinaryData: map[string][]byte{"c.bin": []byte("\xff\xfeweb-tls\xff")}},
		"annotation":       &corev1.Service{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{"x": "web-tls"}}},
		"revision": &appsv1.ControllerRevision{Data: runtime.RawExtension{Raw: []byte(
			`{"spec":{"template":{"spec":{"volumes":[{"secret":{"secretName":"web-tls"}}]}}}}`)}},
		"owner": &corev1.Service{ObjectMeta: metav1.ObjectMeta{UID: "0d6a8f3c-owner"}},
	} {
		t.Run(name, func(t *testing.T) {
			o.SetNamespace("a")
			o.SetName("x")
			gvks, _, err := scheme.Scheme.ObjectKinds(o)
			if err != nil {
				t.Fatal(err)
			}
			raw, err := o.(interface{ Marshal() ([]byte, error) }).Marshal()
			if err != nil {
				t.Fatal(err)
			}
			l := &look{c: collectorFor(t, "web-tls")}
			if !wireFinds(t, l.c, raw) {
				t.Error("passed over")
			}
			item := l.fromProtobuf(resourceOf(gvks[0]), func(err error) { t.Error(err) })
			if err := item(raw); err != nil {
				t.Fatal(err)
			}
			if j := l.c.Snapshot(time.Unix(0, 0)).Judge(inventory.SecretRef("a", "web-tls")); j.Verdict == inventory.Unused {
				t.Error("unused")
			}
		})
	}
}

// A name may be a number, which is none in JSON alone.
func TestNumbersAreLookedAt(t *testing.T) {
	o := &corev1.Service{Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 8443}}}}
	raw, err := o.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{"8443": true, "8080": false} {
		if got := wireFinds(t, collectorFor(t, name), raw); got != want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// A newer API server knows fields that this program does not.
func TestUnknownFieldsAreLookedAt(t *testing.T) {
	o := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "x"}}
	raw, err := o.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	raw = append(raw, 0xca, 0x3e, 11, '\n', 9, 0x0a, 7) // field 1001 with a message in a message
	raw = append(raw, "web-tls"...)
	l := &look{c: collectorFor(t, "web-tls")}
	if err := l.fromProtobuf(resource{Version: "v1", Kind: "Service"}, func(err error) { t.Error(err) })(raw); err != nil {
		t.Fatal(err)
	}
	j := l.c.Snapshot(time.Unix(0, 0)).Judge(inventory.SecretRef("a", "web-tls"))
	if j.Verdict != inventory.Unknown {
		t.Errorf("verdict %s", j.Verdict)
	}
}

func TestWhatIsNoMessageIsAnError(t *testing.T) {
	l := &look{c: collectorFor(t, "web-tls")}
	for _, raw := range []string{"\xff", "\n\x05ab", "\x0b"} {
		broken := false
		if err := l.fromProtobuf(resource{Version: "v1", Kind: "Service"}, func(error) { broken = true })([]byte(raw)); err != nil {
			t.Fatal(err)
		}
		if !broken {
			t.Errorf("%q was taken for an object", raw)
		}
	}
}

func TestTrimMeta(t *testing.T) {
	m := metav1.ObjectMeta{
		Name: "x", Namespace: "a", UID: "u",
		Annotations: map[string]string{"k": "v", lastApplied: `{"data":{"tls.key":"S0VZ"}}`},
		ManagedFields: []metav1.ManagedFieldsEntry{
			{Manager: "m", Operation: metav1.ManagedFieldsOperationApply, APIVersion: "v1", Time: &metav1.Time{Time: time.Unix(1790000000, 0)}, FieldsType: "FieldsV1", FieldsV1: metav1.NewFieldsV1("{}")},
			{Manager: "n", Subresource: "status"},
		},
	}
	raw, err := m.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	trimmed, err := trimMeta(nil, raw)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(trimmed, []byte("S0VZ")) {
		t.Error("the manifest is still there")
	}
	var got metav1.ObjectMeta
	if err := got.Unmarshal(trimmed); err != nil {
		t.Fatal(err)
	}
	m.ManagedFields[0] = metav1.ManagedFieldsEntry{Manager: "m", Time: m.ManagedFields[0].Time}
	delete(m.Annotations, lastApplied)
	if !reflect.DeepEqual(m, got) {
		t.Errorf("got %+v, want %+v", got, m)
	}
}

// Names spelled with JSON's escapes must not be passed over.
func TestEscapes(t *testing.T) {
	for doc, want := range map[string]bool{
		`{"a":"b"}`:                   false,
		`{"a":"b\nc\"d\\e\tf"}`:       false,
		`{"a":"\u003cb\u003e\u0026"}`: false,
		`{"a":"we\u0062"}`:            true,
		`{"a":"team.example.com\/x"}`: true,
		`{"a":"\\u0062"}`:             false,
	} {
		if got := escapes([]byte(doc)); got != want {
			t.Errorf("escapes(%s) = %v", doc, got)
		}
	}
}

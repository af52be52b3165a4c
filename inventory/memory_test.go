package inventory

import (
	"fmt"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"
	"unsafe"

	cm "github.com/cert-manager/cert-manager/pkg/apis/certmanager/v1"
	cmmeta "github.com/cert-manager/cert-manager/pkg/apis/meta/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// collect records n Certificates and their Secrets as Knative makes them. cut
// makes every string of the objects.
func collect(n int, cut func(string) string) *Collector {
	c := NewCollector()
	for i := range n {
		ns, name := fmt.Sprintf("team-%03d", i%300), fmt.Sprintf("route-%08d-0000-4000-8000-000000000000", i)
		host := fmt.Sprintf("service-%d.%s.example.com", i, ns)
		id := fmt.Sprintf("%08d-1111-4000-8000-000000000000", i)
		m := metav1.ObjectMeta{
			Namespace: cut(ns), Name: cut(name), UID: types.UID(cut("c" + id)), ResourceVersion: cut(fmt.Sprint(i)),
			OwnerReferences: []metav1.OwnerReference{{APIVersion: cut("networking.internal.knative.dev/v1alpha1"), Kind: cut("Certificate"), Name: cut(name), UID: types.UID(cut("k" + id)), Controller: new(true)}},
			Labels:          map[string]string{cut("networking.knative.dev/certificate-type"): cut("external-domain")},
		}
		c.AddObject(&cm.Certificate{ObjectMeta: m, Spec: cm.CertificateSpec{
			SecretName: cut(name), DNSNames: []string{cut(host)}, IssuerRef: cmmeta.IssuerReference{Name: cut("letsencrypt"), Kind: cut("ClusterIssuer")},
			SecretTemplate: &cm.CertificateSecretTemplate{Labels: map[string]string{"networking.internal.knative.dev/certificate-uid": id}},
		}})
		m.OwnerReferences = nil
		m.UID = types.UID(cut("s" + id))
		m.Labels = map[string]string{cut(cm.PartOfCertManagerControllerLabelKey): cut("true"), cut("networking.internal.knative.dev/certificate-uid"): cut(id)}
		m.Annotations = map[string]string{
			cm.CertificateNameKey: cut(name), cm.AltNamesAnnotationKey: cut(host), cm.CommonNameAnnotationKey: cut(host),
			cm.IssuerNameAnnotationKey: cut("letsencrypt"), cm.IssuerKindAnnotationKey: cut("ClusterIssuer"),
		}
		c.AddSecret(&m, cut("kubernetes.io/tls"), nil, time.Time{})
	}
	c.Freeze()
	return c
}

// BenchmarkSnapshot makes a Snapshot of 50,000 Certificates and their Secrets, and
// judges them all. B/record is what stays of one Certificate with its Secret,
// and B/collecting what the Collector holds besides until it is let go.
func BenchmarkSnapshot(b *testing.B) {
	const n = 50_000
	var before, during, after runtime.MemStats
	for b.Loop() {
		runtime.GC()
		runtime.ReadMemStats(&before)
		c := collect(n, strings.Clone)
		s := c.Snapshot(time.Time{})
		unused := 0
		for i := range s.Certificates {
			if s.Judge(s.Certificates[i].Ref).Verdict == Unused {
				unused++
			}
		}
		if unused != n {
			b.Fatalf("%d unused, want %d", unused, n)
		}
		runtime.GC()
		runtime.ReadMemStats(&during)
		runtime.KeepAlive(c)
		c = nil
		runtime.GC()
		runtime.ReadMemStats(&after)
		runtime.KeepAlive(s)
	}
	b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/n, "B/record")
	b.ReportMetric(float64(during.HeapAlloc-after.HeapAlloc)/n, "B/collecting")
}

// TestNoRecordKeepsAPage: a decoder may cut its strings out of a page of a
// megabyte, which then lives as long as any of them. No string of a Snapshot is
// one of those.
func TestNoRecordKeepsAPage(t *testing.T) {
	var b strings.Builder
	b.Grow(1 << 20)
	cut := func(s string) string {
		from := b.Len()
		if from+len(s) > 1<<20 {
			t.Fatal("the page is full")
		}
		b.WriteString(s)
		return b.String()[from:]
	}
	c := collect(20, cut)
	page := b.String()
	start := uintptr(unsafe.Pointer(unsafe.StringData(page)))
	inPage := func(s string) bool {
		p := uintptr(unsafe.Pointer(unsafe.StringData(s)))
		return len(s) > 0 && p >= start && p < start+1<<20
	}
	if !inPage(page[5:6]) || inPage("elsewhere") {
		t.Fatal("the test does not know its page")
	}
	s := c.Snapshot(time.Time{})
	strs := 0
	seen := map[unsafe.Pointer]bool{}
	var look func(where string, v reflect.Value)
	look = func(where string, v reflect.Value) {
		switch v.Kind() {
		case reflect.String:
			strs++
			if inPage(v.String()) {
				t.Errorf("%s keeps the page alive: %q", where, v.String())
			}
		case reflect.Struct:
			for i := range v.NumField() {
				look(where+"."+v.Type().Field(i).Name, v.Field(i))
			}
		case reflect.Slice, reflect.Array:
			for i := range v.Len() {
				look(where+"[]", v.Index(i))
			}
		case reflect.Map:
			for _, k := range v.MapKeys() {
				look(where+" key", k)
				look(where+"[]", v.MapIndex(k))
			}
		case reflect.Pointer:
			if p := v.UnsafePointer(); p != nil && !seen[p] {
				seen[p] = true
				look(where, v.Elem())
			}
		}
	}
	look("Snapshot", reflect.ValueOf(s))
	look("Collector", reflect.ValueOf(c))
	if strs < 500 {
		t.Errorf("only %d strings were looked at", strs)
	}
}

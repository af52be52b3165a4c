package live

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"

	"github.com/certherd/certherd/inventory"
)

// server answers like an API server of a few kinds, and shows the faults that a
// real one cannot be made to show. The real one is in live_test.go.
type server struct {
	// fault, when set, may answer a request in its stead.
	fault func(w http.ResponseWriter, r *http.Request) bool

	mu   sync.Mutex
	seen []string // path and query of every list
}

type marshaler interface{ Marshal() ([]byte, error) }

// things are custom resources of the server.
const things = `{"apiVersion":"example.com/v1","kind":"ThingList","metadata":{},"items":[{"apiVersion":"example.com/v1","kind":"Thing","metadata":{"name":"t","namespace":"a","uid":"t1"}}]}`

// configMaps come in two pages.
var configMaps = []corev1.ConfigMap{
	{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "one", UID: "c1"}, Data: map[string]string{"x": "nothing"}},
	{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "two", UID: "c2"}, Data: map[string]string{"x": "nothing"}},
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.seen = append(s.seen, r.URL.RequestURI())
	s.mu.Unlock()
	if s.fault != nil && s.fault(w, r) {
		return
	}
	verbs := metav1.Verbs{"list"}
	switch r.URL.Path {
	case "/api":
		writeJSON(w, metav1.APIVersions{Versions: []string{"v1"}})
	case "/apis":
		var groups metav1.APIGroupList
		for _, g := range []string{"example.com", "metrics.k8s.io"} {
			v := metav1.GroupVersionForDiscovery{GroupVersion: g + "/v1", Version: "v1"}
			groups.Groups = append(groups.Groups, metav1.APIGroup{Name: g, Versions: []metav1.GroupVersionForDiscovery{v}, PreferredVersion: v})
		}
		writeJSON(w, groups)
	case "/api/v1":
		writeJSON(w, metav1.APIResourceList{GroupVersion: "v1", APIResources: []metav1.APIResource{
			{Name: "secrets", Kind: "Secret", Namespaced: true, Verbs: verbs},
			{Name: "configmaps", Kind: "ConfigMap", Namespaced: true, Verbs: verbs},
			{Name: "services", Kind: "Service", Namespaced: true, Verbs: verbs},
			{Name: "events", Kind: "Event", Namespaced: true, Verbs: verbs},
			{Name: "bindings", Kind: "Binding", Namespaced: true, Verbs: metav1.Verbs{"create"}},
			{Name: "pods/log", Kind: "Pod", Namespaced: true, Verbs: metav1.Verbs{"get", "list"}},
		}})
	case "/apis/example.com/v1":
		writeJSON(w, metav1.APIResourceList{GroupVersion: "example.com/v1", APIResources: []metav1.APIResource{{Name: "things", Kind: "Thing", Namespaced: true, Verbs: verbs}}})
	case "/apis/metrics.k8s.io/v1":
		writeJSON(w, metav1.APIResourceList{GroupVersion: "metrics.k8s.io/v1", APIResources: []metav1.APIResource{{Name: "pods", Kind: "PodMetrics", Namespaced: true, Verbs: verbs}}})
	case "/api/v1/secrets":
		list := &metav1.PartialObjectMetadataList{}
		if r.FormValue("fieldSelector") == "type=kubernetes.io/tls" {
			list.Items = []metav1.PartialObjectMetadata{{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "web-tls", UID: "s1"}}}
		}
		writeProtobuf(w, "meta.k8s.io/v1", "PartialObjectMetadataList", list)
	case "/api/v1/configmaps":
		writeConfigMaps(w, r)
	case "/api/v1/services":
		writeProtobuf(w, "v1", "ServiceList", &corev1.ServiceList{})
	case "/apis/example.com/v1/things":
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, things)
	default:
		http.NotFound(w, r)
	}
}

func writeConfigMaps(w http.ResponseWriter, r *http.Request) {
	list := &corev1.ConfigMapList{Items: configMaps[:1]}
	list.Continue = "second"
	if r.FormValue("continue") != "" {
		list.Items, list.Continue = configMaps[1:], ""
	}
	writeProtobuf(w, "v1", "ConfigMapList", list)
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}

func writeProtobuf(w http.ResponseWriter, version, kind string, list marshaler) {
	w.Header().Set("Content-Type", asProtobuf)
	_, _ = w.Write(envelope(version, kind, list))
}

func envelope(version, kind string, list marshaler) []byte {
	raw, err := list.Marshal()
	if err != nil {
		panic(err)
	}
	body, err := (&runtime.Unknown{TypeMeta: runtime.TypeMeta{APIVersion: version, Kind: kind}, Raw: raw}).Marshal()
	if err != nil {
		panic(err)
	}
	return append([]byte(magic), body...)
}

func refuse(w http.ResponseWriter, code int, reason metav1.StatusReason, message, token string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(metav1.Status{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, ListMeta: metav1.ListMeta{Continue: token},
		Status: metav1.StatusFailure, Code: int32(code), Reason: reason, Message: message})
}

func lookAt(t *testing.T, s *server, o Options) (*inventory.Snapshot, Stats, error) {
	t.Helper()
	h := httptest.NewServer(s)
	defer h.Close()
	o.Proof = true
	return Look(context.Background(), &rest.Config{Host: h.URL}, o)
}

var webTLS = inventory.SecretRef("a", "web-tls")

func TestWithoutFaultsTheSecretIsUnused(t *testing.T) {
	s, stats, err := lookAt(t, &server{}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if j := s.Judge(webTLS); j.Verdict != inventory.Unused {
		t.Errorf("verdict %+v, gaps %v", j, s.Gaps)
	}
	if stats.Objects["configmap"] != 2 || stats.Objects["secret"] != 1 || stats.Objects["thing.example.com"] != 1 {
		t.Errorf("objects %v", stats.Objects)
	}
}

// Whatever goes wrong with one kind is a Gap of that kind, in the API server's
// words, and nothing is unused.
func TestAFailedListIsAGap(t *testing.T) {
	half := envelope("v1", "ConfigMapList", &corev1.ConfigMapList{Items: configMaps})
	for name, tc := range map[string]struct {
		path, gap, words string
		answer           func(w http.ResponseWriter, r *http.Request)
	}{
		"forbidden": {"/api/v1/configmaps", "configmap", "you may not", func(w http.ResponseWriter, _ *http.Request) {
			refuse(w, 403, metav1.StatusReasonForbidden, "you may not", "")
		}},
		"gone since discovery": {"/api/v1/configmaps", "configmap", "could not find", func(w http.ResponseWriter, r *http.Request) { http.NotFound(w, r) }},
		"not to be listed": {"/api/v1/configmaps", "configmap", "does not allow", func(w http.ResponseWriter, _ *http.Request) {
			refuse(w, 405, metav1.StatusReasonMethodNotAllowed, "the server does not allow this method", "")
		}},
		"broken": {"/api/v1/configmaps", "configmap", "etcd is tired", func(w http.ResponseWriter, _ *http.Request) {
			refuse(w, 500, metav1.StatusReasonInternalError, "etcd is tired", "")
		}},
		"broken at the second page": {"/api/v1/configmaps", "configmap", "after 1 objects: etcd is tired", func(w http.ResponseWriter, r *http.Request) {
			if r.FormValue("continue") == "" {
				writeConfigMaps(w, r)
				return
			}
			refuse(w, 500, metav1.StatusReasonInternalError, "etcd is tired", "")
		}},
		"half a page, as if whole": {"/api/v1/configmaps", "configmap", "unexpected EOF", func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write(half[:len(half)-20])
		}},
		"half a page, cut off": {"/api/v1/configmaps", "configmap", "unexpected EOF", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", fmt.Sprint(len(half)))
			_, _ = w.Write(half[:len(half)-20])
		}},
		"half a page of JSON": {"/apis/example.com/v1/things", "thing.example.com", "unexpected EOF", func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write([]byte(things[:len(things)-3]))
		}},
		"an error page": {"/apis/example.com/v1/things", "thing.example.com", "", func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, "<html>Bad gateway</html>")
		}},
		"no list": {"/apis/example.com/v1/things", "thing.example.com", "not a list", func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, `{"kind":"Status","status":"Success"}`)
		}},
		"no list in protobuf": {"/api/v1/services", "service", "not a list", func(w http.ResponseWriter, _ *http.Request) {
			writeProtobuf(w, "v1", "Status", &metav1.Status{Status: metav1.StatusSuccess})
		}},
		"an object that is none": {"/api/v1/configmaps", "configmap", "not a message", func(w http.ResponseWriter, _ *http.Request) {
			// List message with one item of three bytes that end within a field.
			body, _ := (&runtime.Unknown{TypeMeta: runtime.TypeMeta{APIVersion: "v1", Kind: "ConfigMapList"}, Raw: []byte{0x0a, 0, 0x12, 3, 0x0a, 9, 'a'}}).Marshal()
			_, _ = w.Write(append([]byte(magic), body...))
		}},
		"no answer": {"/api/v1/services", "service", "no answer within", func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }},
		"half an answer, then none": {"/api/v1/configmaps", "configmap", "no answer within", func(w http.ResponseWriter, r *http.Request) {
			_, _ = w.Write(half[:len(half)-20])
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		}},
		"a page again and again": {"/api/v1/configmaps", "configmap", "same page twice", func(w http.ResponseWriter, r *http.Request) {
			list := &corev1.ConfigMapList{}
			list.Continue = "again"
			writeProtobuf(w, "v1", "ConfigMapList", list)
		}},
		"expired for good": {"/api/v1/configmaps", "configmap", "too old", func(w http.ResponseWriter, r *http.Request) {
			if r.FormValue("continue") == "" {
				writeConfigMaps(w, r)
				return
			}
			refuse(w, 410, metav1.StatusReasonExpired, "too old", "")
		}},
		"expired again and again": {"/api/v1/configmaps", "configmap", "too old", func(w http.ResponseWriter, r *http.Request) {
			if r.FormValue("continue") == "" {
				writeConfigMaps(w, r)
				return
			}
			refuse(w, 410, metav1.StatusReasonExpired, "too old", "another")
		}},
		"Secrets forbidden": {"/api/v1/secrets", "secret", "you may not", func(w http.ResponseWriter, r *http.Request) {
			if strings.HasPrefix(r.FormValue("fieldSelector"), "type=") {
				(&server{}).ServeHTTP(w, r)
				return
			}
			refuse(w, 403, metav1.StatusReasonForbidden, "you may not", "")
		}},
		"a group that cannot be asked": {"/apis/example.com/v1", "*.example.com", "its server is down", func(w http.ResponseWriter, _ *http.Request) {
			refuse(w, 503, metav1.StatusReasonServiceUnavailable, "its server is down", "")
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv := &server{fault: func(w http.ResponseWriter, r *http.Request) bool {
				if r.URL.Path != tc.path {
					return false
				}
				tc.answer(w, r)
				return true
			}}
			s, _, err := lookAt(t, srv, Options{Timeout: 2 * time.Second})
			if err != nil {
				t.Fatal(err)
			}
			if !slices.ContainsFunc(s.Gaps, func(g inventory.Gap) bool { return g.Kind == tc.gap && strings.Contains(g.Reason, tc.words) }) {
				t.Errorf("gaps %+v, want %s: %s", s.Gaps, tc.gap, tc.words)
			}
			if j := s.Judge(webTLS); j.Verdict != inventory.Unknown {
				t.Errorf("verdict %+v", j)
			}
		})
	}
}

// A list that expires goes on where it was: each object is seen once.
func TestAnExpiredListGoesOn(t *testing.T) {
	srv := &server{}
	srv.fault = func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == "/api/v1/configmaps" && r.FormValue("continue") == "second" {
			refuse(w, 410, metav1.StatusReasonExpired, "too old", "second, but later")
			return true
		}
		return false
	}
	s, stats, err := lookAt(t, srv, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Gaps) > 0 || stats.Objects["configmap"] != 2 {
		t.Errorf("gaps %v, objects %v", s.Gaps, stats.Objects)
	}
	if !slices.ContainsFunc(srv.seen, func(p string) bool { return strings.Contains(p, "continue=second%2C+but+later") }) {
		t.Errorf("requests %v", srv.seen)
	}
}

// An aggregated API server without protobuf is read as JSON.
func TestWithoutProtobuf(t *testing.T) {
	srv := &server{fault: func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path != "/api/v1/services" {
			return false
		}
		if r.Header.Get("Accept") != asJSON {
			refuse(w, 406, metav1.StatusReasonNotAcceptable, "only JSON", "")
		} else {
			writeJSON(w, corev1.ServiceList{Items: []corev1.Service{{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "s", UID: "u", Annotations: map[string]string{"x": "web-tls"}}}}})
		}
		return true
	}}
	s, _, err := lookAt(t, srv, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if j := s.Judge(webTLS); j.Verdict != inventory.Unknown || len(j.Evidence) != 1 || len(s.Gaps) > 0 {
		t.Errorf("verdict %+v, gaps %v", j, s.Gaps)
	}
}

// Figures refer to nothing, and their server is often down.
func TestMetricsMayBeMissing(t *testing.T) {
	srv := &server{fault: func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path != "/apis/metrics.k8s.io/v1" {
			return false
		}
		refuse(w, 503, metav1.StatusReasonServiceUnavailable, "down", "")
		return true
	}}
	s, _, err := lookAt(t, srv, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Gaps) > 0 {
		t.Errorf("gaps %v", s.Gaps)
	}
}

func TestNothingAtAll(t *testing.T) {
	for name, fault := range map[string]func(w http.ResponseWriter, r *http.Request) bool{
		"unauthorised": func(w http.ResponseWriter, r *http.Request) bool {
			refuse(w, 401, metav1.StatusReasonUnauthorized, "who are you?", "")
			return true
		},
		"no list is allowed": func(w http.ResponseWriter, r *http.Request) bool {
			if strings.Count(r.URL.Path, "/") < 3 || strings.HasSuffix(r.URL.Path, "/v1") {
				return false
			}
			refuse(w, 403, metav1.StatusReasonForbidden, "you may not", "")
			return true
		},
		"not an API server": func(w http.ResponseWriter, r *http.Request) bool {
			http.NotFound(w, r)
			return true
		},
	} {
		t.Run(name, func(t *testing.T) {
			if _, _, err := lookAt(t, &server{fault: fault}, Options{}); err == nil {
				t.Error("no error")
			}
		})
	}
	t.Run("unreachable", func(t *testing.T) {
		if _, _, err := Look(context.Background(), &rest.Config{Host: "127.0.0.1:1"}, Options{}); err == nil {
			t.Error("no error")
		}
	})
	t.Run("cancelled", func(t *testing.T) {
		h := httptest.NewServer(&server{})
		defer h.Close()
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		if _, _, err := Look(ctx, &rest.Config{Host: h.URL}, Options{}); err == nil {
			t.Error("no error")
		}
	})
}

func TestWithoutProofNothingIsUnused(t *testing.T) {
	h := httptest.NewServer(&server{})
	defer h.Close()
	s, _, err := Look(context.Background(), &rest.Config{Host: h.URL}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	want := []inventory.Gap{{Kind: "service", Reason: "not scanned: --proof=false"}, {Kind: "thing.example.com", Reason: "not scanned: --proof=false"}}
	if !slices.Equal(s.Gaps, want) {
		t.Errorf("gaps %v, want %v", s.Gaps, want)
	}
	if j := s.Judge(webTLS); j.Verdict != inventory.Unknown {
		t.Errorf("verdict %+v", j)
	}
}

// Kinds that cannot refer to a Secret are read when one of their objects may own a judged one.
func TestAnIrrelevantKindMayBeAnOwner(t *testing.T) {
	srv := &server{}
	srv.fault = func(w http.ResponseWriter, r *http.Request) bool {
		switch r.URL.Path {
		case "/api/v1/secrets":
			list := &metav1.PartialObjectMetadataList{}
			if r.FormValue("fieldSelector") == "type=kubernetes.io/tls" {
				list.Items = []metav1.PartialObjectMetadata{{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "web-tls", UID: "s1",
					OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Event", Name: "e", UID: "e1-event"}}}}}
			}
			writeProtobuf(w, "meta.k8s.io/v1", "PartialObjectMetadataList", list)
		case "/api/v1/events":
			writeProtobuf(w, "v1", "EventList", &corev1.EventList{Items: []corev1.Event{{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "e", UID: "e1-event"}}}})
		default:
			return false
		}
		return true
	}
	s, _, err := lookAt(t, srv, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if j := s.Judge(webTLS); j.Verdict != inventory.Unknown || len(j.Evidence) != 1 || j.Evidence[0].Via != inventory.Owner {
		t.Errorf("verdict %+v", j)
	}
}

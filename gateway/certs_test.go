package gateway

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/certherd/certherd/cost"
	"github.com/certherd/certherd/inventory"

	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
)

// answer is what an Envoy 1.40 answers, with a chain of two and an entry that holds
// no more than a CA.
const answer = `{"certificates": [
 {"ca_cert": [], "cert_chain": [
  {"path": "<inline>", "serial_number": "0a4D", "subject_alt_names": [{"dns": "B.example.test"}, {"dns": "a.example.test"}, {"ip_address": "10.0.0.1"}], "days_until_expiration": "89", "valid_from": "2026-11-23T18:07:31Z", "expiration_time": "2027-02-21T18:07:31Z"},
  {"path": "<inline>", "serial_number": "ff", "subject_alt_names": [], "days_until_expiration": "900", "valid_from": "2026-11-23T18:07:31Z", "expiration_time": "2029-02-21T18:07:31Z"}]},
 {"ca_cert": [], "cert_chain": [{"path": "<inline>", "serial_number": "a4d", "subject_alt_names": [{"dns": "a.example.test"}], "expiration_time": "2027-02-21T18:07:31Z"}]},
 {"ca_cert": [{"path": "ca", "serial_number": "1"}], "cert_chain": []}
]}`

func TestParseCertificates(t *testing.T) {
	got, err := ParseCertificates(strings.NewReader(answer))
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 1 || got[0].Serial != "a4d" || got[0].Copies != 2 || !slices.Equal(got[0].DNS, []string{"a.example.test", "b.example.test"}) ||
		!got[0].NotAfter.Equal(time.Date(2027, 2, 21, 18, 7, 31, 0, time.UTC)) {
		t.Errorf("%+v", got)
	}
	for _, bad := range []string{"", "<html>", "[]", "{}", `{"certificates": 1}`} {
		if _, err := ParseCertificates(strings.NewReader(bad)); err == nil {
			t.Errorf("%q is taken for an answer", bad)
		}
	}
	if got, err := ParseCertificates(strings.NewReader(`{"certificates": []}`)); err != nil || len(got) != 0 {
		t.Errorf("of a gateway without certificates: %v, %v", got, err)
	}
}

func TestCertificatesOfSeveralEnvoys(t *testing.T) {
	page := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/one/certs", "/two/certs":
			fmt.Fprint(w, answer)
		default:
			http.NotFound(w, r)
		}
	}))
	defer page.Close()
	r, err := New(nil, Options{Pages: []string{page.URL + "/one/stats/prometheus", page.URL + "/two/stats/prometheus", page.URL + "/three/stats/prometheus", page.URL + "/metrics"}})
	if err != nil {
		t.Fatal(err)
	}
	got, unread := r.Certificates(t.Context())
	if len(got) != 1 || got[0].Copies != 2 {
		t.Errorf("two replicas have loaded %+v", got)
	}
	if len(unread) != 2 || !strings.Contains(unread[0], "does not end in /stats/prometheus") || !strings.Contains(unread[1], "404") {
		t.Errorf("unread are %q", unread)
	}
}

func TestSerials(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	crt := func(serial int64) string {
		c := &x509.Certificate{SerialNumber: big.NewInt(serial)}
		der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
		if err != nil {
			t.Fatal(err)
		}
		return base64.StdEncoding.EncodeToString(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	}
	var s Serials
	request := func(certificate, revision, crt string) {
		doc, _ := json.Marshal(map[string]any{
			"metadata": map[string]any{"namespace": "a", "name": certificate + "-" + revision, "annotations": map[string]string{"cert-manager.io/certificate-name": certificate, "cert-manager.io/certificate-revision": revision}},
			"status":   map[string]any{"certificate": crt},
		})
		s.Object(inventory.GroupCertManager, "v1", "CertificateRequest", doc)
	}
	request("web", "10", crt(0x10))
	request("web", "9", crt(0x9)) // older, although it comes later
	request("web", "11", "")      // not signed yet
	request("one", "1", crt(1))
	request("two", "1", crt(2)) // both write the same Secret
	request("gone", "1", crt(3))
	for _, doc := range []string{"", "[]", `{"status": {"certificate": "eA=="}}`} {
		s.Object(inventory.GroupCertManager, "v1", "CertificateRequest", []byte(doc))
	}
	s.Object("", "v1", "Secret", []byte(`{"metadata":{"namespace":"a","name":"hand"},"data":{"tls.crt":"`+crt(0xabc)+`"}}`))
	s.Object("", "v1", "Secret", []byte(`{"metadata":{"namespace":"a","name":"bare"}}`))
	certificate := func(name, secret string) inventory.Certificate {
		return inventory.Certificate{Meta: inventory.Meta{Ref: inventory.CertificateRef("a", name)}, Secret: inventory.SecretRef("a", secret)}
	}
	got := s.Of(inventory.New(time.Unix(0, 0), inventory.Objects{Certificates: []inventory.Certificate{certificate("web", "web-tls"), certificate("one", "both"), certificate("two", "both")}}, nil, nil))
	if len(got) != 2 || got[inventory.SecretRef("a", "web-tls")] != "10" || got[inventory.SecretRef("a", "hand")] != "abc" {
		t.Errorf("%v", got)
	}
}

func TestMeasured(t *testing.T) {
	e := func(allocated, draining float64) Envoy {
		return Envoy{Memory: Memory{Allocated: allocated * (1 << 20), Physical: (allocated + 10) * (1 << 20)}, Listeners: Listeners{Draining: draining}}
	}
	for name, tc := range map[string]struct {
		envoys map[string]Envoy
		want   cost.Measured
	}{
		"none":                   {nil, cost.Measured{}},
		"one at rest":            {map[string]Envoy{"x": e(20, 0)}, cost.Measured{Envoys: 1, AtRest: true, AllocatedMiB: 20, ResidentMiB: 30}},
		"the one at rest counts": {map[string]Envoy{"x": e(90, 1), "y": e(20, 0), "z": e(25, 0)}, cost.Measured{Envoys: 3, AtRest: true, AllocatedMiB: 25, ResidentMiB: 100}},
		"none is at rest":        {map[string]Envoy{"x": e(90, 1), "y": e(50, 2)}, cost.Measured{Envoys: 2, AllocatedMiB: 90, ResidentMiB: 100}},
	} {
		if got := (Reading{Envoys: tc.envoys}).Measured(); got != tc.want {
			t.Errorf("%s: %+v, want %+v", name, got, tc.want)
		}
	}
}

package inventory

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"testing"
	"time"

	cm "github.com/cert-manager/cert-manager/pkg/apis/certmanager/v1"
	cmmeta "github.com/cert-manager/cert-manager/pkg/apis/meta/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// authorityCert is a certificate that a parent signs, itself where that is nil.
func authorityCert(t *testing.T, tmpl, parent *x509.Certificate, key *ecdsa.PrivateKey) ([]byte, *x509.Certificate) {
	t.Helper()
	tmpl.SerialNumber, tmpl.NotBefore, tmpl.NotAfter = big.NewInt(1), time.Unix(0, 0), time.Unix(1<<33, 0)
	if parent == nil {
		parent = tmpl
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	crt, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), crt
}

// TestAuthority: what a CA may sign is read from what it has signed, and agrees
// with what a verifier says of a wildcard that it signs.
func TestAuthority(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name                    string
		rootPermits, rootDenies []string
		permits                 []string
		allowed, denied         []string
		// A wildcard that stands for names within and without; verifiers differ in it.
		doubtful []string
	}{
		{"no constraints", nil, nil, nil, []string{"*.example.test", "*.a.b.test"}, nil, nil},
		{"the root's", []string{"example.test"}, nil, nil, []string{"*.example.test", "*.ns.example.test"}, []string{"*.other.test", "*.notexample.test"}, []string{"*.test"}},
		{"both, and both must allow", []string{"example.test"}, nil, []string{"a.example.test", "b.test"}, []string{"*.a.example.test"}, []string{"*.b.test"}, []string{"*.example.test"}},
		{"excluded", nil, []string{"secret.example.test"}, nil, []string{"*.other.test", "*.open.example.test"}, []string{"*.secret.example.test", "*.x.secret.example.test"}, []string{"*.example.test"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ca := func(permits, denies []string) *x509.Certificate {
				return &x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign, PermittedDNSDomains: permits, ExcludedDNSDomains: denies, PermittedDNSDomainsCritical: true}
			}
			rootPEM, root := authorityCert(t, ca(tc.rootPermits, tc.rootDenies), nil, key)
			middlePEM, middle := authorityCert(t, ca(tc.permits, nil), root, key)
			leafPEM, _ := authorityCert(t, &x509.Certificate{DNSNames: []string{"old.example.test"}}, middle, key)
			c := NewCollector()
			request := func(name string, created int64, ca, chain []byte) {
				c.AddObject(&cm.CertificateRequest{
					ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: name, CreationTimestamp: metav1.Unix(created, 0)},
					Spec:       cm.CertificateRequestSpec{IssuerRef: cmmeta.IssuerReference{Name: "ca"}},
					Status:     cm.CertificateRequestStatus{CA: ca, Certificate: chain},
				})
			}
			otherPEM, _ := authorityCert(t, ca([]string{"older.test"}, nil), nil, key)
			c.Freeze()
			request("older", 100, otherPEM, leafPEM)
			request("newest", 300, rootPEM, bytes.Join([][]byte{leafPEM, middlePEM}, nil))
			request("old", 200, otherPEM, leafPEM)
			request("not issued", 400, nil, nil)
			s := c.Snapshot(time.Unix(500, 0))
			a := s.Authority(NormalIssuer("", "", "a", "ca"))
			if a == nil || s.Authority(NormalIssuer("", "", "b", "ca")) != nil {
				t.Fatalf("%+v", s.Authorities)
			}
			verify := func(name string) bool {
				_, leaf := authorityCert(t, &x509.Certificate{DNSNames: []string{name}}, middle, key)
				roots, between := x509.NewCertPool(), x509.NewCertPool()
				roots.AddCert(root)
				between.AddCert(middle)
				_, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
				return err == nil
			}
			for _, name := range tc.allowed {
				if !a.Allows(name) || !verify(name) {
					t.Errorf("%s: allowed %v, verified %v (%s)", name, a.Allows(name), verify(name), a.Constraints())
				}
			}
			for _, name := range tc.doubtful {
				if a.Allows(name) {
					t.Errorf("%s: allowed (%s)", name, a.Constraints())
				}
			}
			for _, name := range tc.denied {
				if a.Allows(name) || verify(name) {
					t.Errorf("%s: allowed %v, verified %v (%s)", name, a.Allows(name), verify(name), a.Constraints())
				}
			}
		})
	}
}

func TestPolicyPatterns(t *testing.T) {
	p := &Policy{DNS: []string{"*.example.test", "svc-?.other.test", `a[b]\c.test`}}
	for name, want := range map[string]bool{
		"*.example.test": true, "*.ns.example.test": true, "example.test": false, "*.other.test": false, "svc-?.other.test": true, "svc-x.other.test": false,
		`a[b]\c.test`: true, "ab.test": false,
	} {
		if got := p.AllowsDNS([]string{name}); got != want {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
}

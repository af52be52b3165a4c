package dump

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/certherd/certherd/inventory"
)

// A key in the forms in which people keep it.
type plantedKey struct {
	name   string
	der    [][]byte // of which no part may get out
	pem    string
	public []byte // which may
	cert   []byte // DER
}

func plantedKeys(t testing.TB) []plantedKey {
	t.Helper()
	must := func(b []byte, err error) []byte {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	block := func(typ string, der []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: typ, Bytes: der}))
	}
	var out []plantedKey
	add := func(name, typ string, key any, der []byte) {
		k := plantedKey{name: name, der: [][]byte{der}, pem: block(typ, der)}
		var public any
		switch key := key.(type) {
		case *rsa.PrivateKey:
			public = &key.PublicKey
		case *ecdsa.PrivateKey:
			public = &key.PublicKey
		case ed25519.PrivateKey:
			public = key.Public()
		}
		k.public = must(x509.MarshalPKIXPublicKey(public))
		c := &x509.Certificate{SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: name + ".example.com"}, DNSNames: []string{name + ".example.com"}, NotAfter: time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)}
		k.cert = must(x509.CreateCertificate(rand.Reader, c, c, public, key))
		out = append(out, k)
	}
	r, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	e, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, d, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	add("rsa-pkcs1", "RSA PRIVATE KEY", r, x509.MarshalPKCS1PrivateKey(r))
	add("rsa-pkcs8", "PRIVATE KEY", r, must(x509.MarshalPKCS8PrivateKey(r)))
	add("ec-sec1", "EC PRIVATE KEY", e, must(x509.MarshalECPrivateKey(e)))
	add("ec-pkcs8", "PRIVATE KEY", e, must(x509.MarshalPKCS8PrivateKey(e)))
	add("ed25519", "PRIVATE KEY", d, must(x509.MarshalPKCS8PrivateKey(d)))
	// OpenSSH's PROTOCOL.key; the seed and the public half stand at its end.
	add("openssh", "OPENSSH PRIVATE KEY", d, append([]byte("openssh-key-v1\x00\x00\x00\x00\x04none\x00\x00\x00\x04none"), d...))
	// What encrypts does not matter: all but the label is noise to everybody.
	noise := make([]byte, 300)
	rand.Read(noise)
	add("encrypted", "ENCRYPTED PRIVATE KEY", d, append([]byte{0x30, 0x82, 1, 0x28, 0x30, 0x40, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 5, 0x0d}, noise...))
	return out
}

// stores are key stores in binary form, with noise where their keys are.
func stores() map[string][]byte {
	noise := make([]byte, 200)
	rand.Read(noise)
	return map[string][]byte{
		"jks": append([]byte{0xfe, 0xed, 0xfe, 0xed, 0, 0, 0, 2}, noise...),
		"p12": append([]byte{0x30, 0x81, 0xd0, 2, 1, 3, 0x30, 0x81, 0xc0}, noise...),
	}
}

func b64(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

func zipped(s string) string {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	io.WriteString(z, s)
	z.Close()
	return b.String()
}

func deflated(s string) string {
	var b bytes.Buffer
	z := zlib.NewWriter(&b)
	io.WriteString(z, s)
	z.Close()
	return b.String()
}

func quoted(s string) string {
	b, err := json.Marshal(s)
	if err != nil {
		panic(err)
	}
	return string(b)
}

// disguises are the forms in which a key's text turns up in other texts.
var disguises = map[string]func(pem string) string{
	"as it is":                     func(s string) string { return s },
	"between other text":           func(s string) string { return "key: |\n" + s + "\nmore" },
	"indented":                     func(s string) string { return "  " + strings.ReplaceAll(s, "\n", "\n  ") },
	"with CRLF":                    func(s string) string { return strings.ReplaceAll(s, "\n", "\r\n") },
	"JSON-escaped":                 quoted,
	"JSON-escaped twice":           func(s string) string { return quoted(quoted(s)) },
	"in one line":                  func(s string) string { return strings.ReplaceAll(s, "\n", " ") },
	"without its first line":       func(s string) string { _, rest, _ := strings.Cut(s, "\n"); return rest },
	"without its last line":        func(s string) string { return s[:strings.Index(s, "-----END")] },
	"in base64":                    b64,
	"in base64 with 1 byte before": func(s string) string { return b64("x" + s) },
	"in base64 with 2 bytes":       func(s string) string { return b64("xy" + s) },
	"in URL-safe base64":           func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) },
	"in base64 of 76 columns": func(s string) string {
		var b strings.Builder
		for s = b64(s); len(s) > 76; s = s[76:] {
			b.WriteString(s[:76] + "\n")
		}
		return b.String() + s
	},
	"in base64 behind a word":       func(s string) string { return "data/key " + b64(s) },
	"in base64 of base64":           func(s string) string { return b64(b64(s)) },
	"in base64 of base64, shifted":  func(s string) string { return b64("ab" + b64("c"+s)) },
	"in base64 three times":         func(s string) string { return b64(b64(b64(s))) },
	"in JSON in base64":             func(s string) string { return b64(`{"data":{"tls.key":"` + b64(s) + `"}}`) },
	"gzip in base64, as Helm does":  func(s string) string { return b64(zipped("{" + s + "}")) },
	"gzip in base64 twice":          func(s string) string { return b64(b64(zipped(s))) },
	"zlib in base64":                func(s string) string { return b64(deflated(s)) },
	"in hexadecimal":                func(s string) string { return hex.EncodeToString([]byte(s)) },
	"URL-encoded":                   func(s string) string { return strings.ReplaceAll(strings.ReplaceAll(s, " ", "%20"), "\n", "%0A") },
	"in UTF-16":                     func(s string) string { return strings.Join(strings.Split(s, ""), "\x00") },
	"a command line":                func(s string) string { return "--key=" + strings.ReplaceAll(s, "\n", `\n`) },
	"a base64 argument":             func(s string) string { return "--key=" + b64(s) },
	"in last-applied configuration": func(s string) string { return quoted(`{"data":{"tls.key":` + quoted(b64(s)) + `}}`) },
}

func TestScrubFindsKeysInEveryDisguise(t *testing.T) {
	for _, k := range plantedKeys(t) {
		for how, f := range disguises {
			if s := f(k.pem); Scrub(s) != Removed {
				t.Errorf("%s %s is not found: %.200q", k.name, how, s)
			}
		}
		if s := base64.StdEncoding.EncodeToString(k.der[0]); Scrub(s) != Removed {
			t.Errorf("%s as DER in base64 is not found", k.name)
		}
		if s := "key " + base64.StdEncoding.EncodeToString(k.der[0]); Scrub(s) != Removed {
			t.Errorf("%s as DER in base64 behind a word is not found", k.name)
		}
	}
	for name, s := range stores() {
		if Scrub(base64.StdEncoding.EncodeToString(s)) != Removed {
			t.Errorf("%s is not found", name)
		}
	}
	if s := `{"kty":"EC","crv":"P-256","d":"870MB6gfuTJ4HtUnUvYMyJpr5eUZNP4Bk43bVdj3eAE"}`; Scrub(s) != Removed {
		t.Error("a JSON web key is not found")
	}
}

func TestScrubLeavesOtherTextAlone(t *testing.T) {
	k := plantedKeys(t)[0]
	for _, s := range []string{
		"", "route-1f0f7d0e-3a52-4f4c-9df0-3ac5b0ab9f0e", "private-key", "cert-manager.io/private-key-secret-name",
		`metadata.annotations["cert-manager.io/private-key-secret-name"]`, "https://acme-v02.api.letsencrypt.org/acme/acct/123",
		"Never gonna give the frontend private keys of anybody", testCertificate,
		string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: k.cert})),
		string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: k.public})),
		"sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
		"gcr.io/knative-releases/knative.dev/net-kourier/cmd/kourier@sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
		"secretName was not found in namespace kourier-system, privateKeySecretRef letsencrypt-account-key",
	} {
		if got := Scrub(s); got != s {
			t.Errorf("%q became %q", s, got)
		}
	}
}

// TestNoKeyByteGetsIntoADump plants keys wherever an object has room for a
// text, and looks for every 12 bytes of each of them in what is written.
func TestNoKeyByteGetsIntoADump(t *testing.T) {
	keys := plantedKeys(t)
	var all []string
	for _, k := range keys {
		for _, f := range disguises {
			all = append(all, f(k.pem))
		}
		all = append(all, base64.StdEncoding.EncodeToString(k.der[0]))
	}
	for _, s := range stores() {
		all = append(all, base64.StdEncoding.EncodeToString(s))
	}
	var things []thing
	add := func(group, version, kind, format string, args ...any) {
		things = append(things, thing{group, version, kind, fmt.Sprintf(format, args...)})
	}
	for i, s := range all {
		q, k := quoted(s), keys[i%len(keys)]
		meta := fmt.Sprintf(`"metadata":{"namespace":"a","name":"x%d","annotations":{"notes":%s,"certherd.dev/note":%s,"cert-manager.io/alt-names":%s,"kubectl.kubernetes.io/last-applied-configuration":%s},"managedFields":[{"manager":%s}]}`, i, q, q, q, q, q)
		chain := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: k.cert}))
		add("", "v1", "Secret", `{%s,"type":"kubernetes.io/tls","data":{"tls.crt":%q,"tls.key":%q,"keystore.jks":%q,"tls-combined.pem":%q},"stringData":{"x":%s}}`,
			meta, b64(k.pem+chain+k.pem), b64(k.pem), b64(s), b64(chain+k.pem), q)
		add(inventory.GroupCertManager, "v1", "Certificate", `{%s,"spec":{"secretName":%s,"dnsNames":[%s],"literalSubject":%s,"keystores":{"jks":{"password":%s}},"secretTemplate":{"annotations":{"x":%s}},"issuerRef":{"name":%s}},"status":{"conditions":[{"type":"Ready","status":"True","message":%s}]}}`, meta, q, q, q, q, q, q, q)
		add(inventory.GroupCertManager, "v1", "Issuer", `{%s,"spec":{"acme":{"server":%s,"caBundle":%q,"solvers":[{"dns01":{"webhook":{"groupName":%s,"solverName":"x","config":{"key":%s}}}}]}}}`, meta, q, b64(s), q, q)
		add(inventory.GroupCertManager, "v1", "CertificateRequest", `{%s,"spec":{"request":%q,"username":%s},"status":{"certificate":%q}}`, meta, b64(s), q, b64(s))
		add(inventory.GroupACME, "v1", "Challenge", `{%s,"spec":{"key":%s,"token":%s},"status":{"reason":%s}}`, meta, q, q, q)
		add(inventory.GroupKnativeNet, "v1alpha1", "Ingress", `{%s,"spec":{"rules":[{"hosts":[%s],"http":{"paths":[{"appendHeaders":{"x":%s}}]}}],"tls":[{"secretName":%s,"hosts":[%s]}]}}`, meta, q, q, q, q)
		add(inventory.GroupNetworking, "v1", "Ingress", `{%s,"spec":{"rules":[{"host":%s}],"tls":[{"secretName":%s}]}}`, meta, q, q)
		add("apps", "v1", "Deployment", `{%s,"spec":{"template":{"spec":{"containers":[{"name":"envoy","image":"envoyproxy/envoy","env":[{"name":"KEY","value":%s}],"command":["sh","-c",%s],"args":["--drain-time-s","15",%s,%s]}]}}}}`, meta, q, q, q, quoted("--drain-time-s="+s))
		add("", "v1", "ConfigMap", `{"metadata":{"namespace":"knative-serving","name":"config-network","annotations":{"x":%s}},"data":{"domain-template":%s,"x":%s},"binaryData":{"x":%q}}`, q, q, q, b64(s))
		add("", "v1", "ConfigMap", `{"metadata":{"namespace":"a","name":"c%d"},"data":{"x":%s,%s:"x%d"}}`, i, q, q, i)
		add("example.com", "v1", "Thing", `{"metadata":{"namespace":"a","name":"t%d"},"spec":{%s:"x%d","text":%s}}`, i, q, i, q)
	}
	var out bytes.Buffer
	w := NewWriter(&out)
	s := look(t, things, []inventory.Gap{{Kind: "x", Reason: all[0]}}, w)
	if err := w.Close(s); err != nil {
		t.Fatal(err)
	}
	text := unpacked(t, out.Bytes())
	for _, line := range strings.Split(text, "\n") {
		if strings.Contains(line, "PRIVATE KEY") {
			t.Fatalf("a line of the dump: %.600q", line)
		}
	}
	if n := strings.Count(text, "kind: Secret"); n != len(all) {
		t.Errorf("%d Secrets in the dump, want %d", n, len(all))
	}
	if n := strings.Count(text, "tls.crt"); n != len(all) {
		t.Errorf("%d certificates in the dump, want %d", n, len(all))
	}
	// A key's encoding holds its public half too, which is in its certificate.
	var public []string
	for _, k := range keys {
		public = append(public, forms(k.cert)...)
		public = append(public, forms(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: k.cert}))...)
		public = append(public, forms(k.public)...)
	}
	const window = 12
	allowed := map[string]bool{}
	for _, form := range append(public, "-----BEGIN CERTIFICATE-----\n") {
		for i := 0; i+window <= len(form); i++ {
			allowed[form[i:i+window]] = true
		}
	}
	forbidden := map[string]string{}
	for _, k := range keys {
		for _, form := range append(forms(k.der[0]), forms([]byte(k.pem))...) {
			for i := 0; i+window <= len(form); i++ {
				if part := form[i : i+window]; !allowed[part] {
					forbidden[part] = k.name
				}
			}
		}
	}
	for i := 0; i+window <= len(text); i++ {
		if key, ok := forbidden[text[i:i+window]]; ok {
			t.Fatalf("the dump holds %q of key %s", text[max(0, i-60):i+window], key)
		}
	}
	// The keys' words may stand in the marker alone.
	if strings.Contains(text, "PRIVATE KEY") {
		t.Error("the dump holds a private key's first line")
	}
}

// forms are bytes as they are, in hexadecimal and in base64 at each of the three places.
func forms(b []byte) []string {
	out := []string{string(b), hex.EncodeToString(b)}
	for shift := range 3 {
		enc := base64.StdEncoding.EncodeToString(append(make([]byte, shift), b...))
		enc = strings.TrimRight(enc, "=")
		out = append(out, enc[(shift*8+5)/6:len(enc)-1])
	}
	return out
}

// unpacked is everything that stands in an archive.
func unpacked(t testing.TB, archive []byte) string {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(archive))
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if err == io.EOF {
			return all.String()
		}
		if err != nil {
			t.Fatal(err)
		}
		all.WriteString(h.Name + "\n")
		if _, err := io.Copy(&all, r); err != nil {
			t.Fatal(err)
		}
	}
}

func FuzzScrub(f *testing.F) {
	k := plantedKeys(f)[2]
	f.Add("MIIB", uint8(1))
	f.Add("H4sIAAAAAAAA", uint8(3))
	all := []string{}
	for _, how := range []string{"as it is", "in base64", "in base64 of base64", "JSON-escaped", "in hexadecimal", "in base64 of 76 columns"} {
		all = append(all, disguises[how](k.pem))
	}
	f.Fuzz(func(t *testing.T, s string, n uint8) {
		Scrub(s)
		// Whatever stands around a key, the key is found.
		key := all[int(n)%len(all)]
		if Scrub(s+"\n"+key) != Removed || Scrub(key+"\n"+s) != Removed {
			t.Errorf("a key beside %q is not found", s)
		}
	})
}

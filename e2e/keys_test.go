package e2e

import (
	"bytes"
	"compress/gzip"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/tls"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"io"
	"os"
	"path/filepath"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/certherd/certherd/report"
)

// A needle is a text that would show a part of a private key.
type needle struct {
	of   string // the Secret
	text []byte
}

// window is how many bytes of a key are looked for at once; far fewer would be
// found by chance.
const window = 18

// needles are texts for windows of the secret numbers of a Secret's key: as they
// are, in hexadecimal, in base64 (as in PEM) at each of the three offsets that
// the bytes may have, and in base64 of PEM (as in a Secret's data).
func needles(t *testing.T, s *corev1.Secret) (list []needle) {
	t.Helper()
	of := s.Namespace + "/" + s.Name
	pair, err := tls.X509KeyPair(s.Data[corev1.TLSCertKey], s.Data[corev1.TLSPrivateKeyKey])
	if err != nil {
		t.Fatalf("Secret %s: %v", of, err)
	}
	var numbers [][]byte
	switch key := pair.PrivateKey.(type) {
	case *rsa.PrivateKey:
		numbers = append(numbers, key.D.Bytes(), key.Primes[0].Bytes(), key.Primes[1].Bytes())
	case *ecdsa.PrivateKey:
		number, err := key.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		numbers = append(numbers, number)
	default:
		t.Fatalf("Secret %s has a %T", of, key)
	}
	for _, number := range numbers {
		// Line breaks of PEM may fall into one window, but not into all of them.
		step := len(number) / 6
		if len(number) < 64 { // of an elliptic curve
			step = 2
		}
		for at := 0; at+window <= len(number); at += step {
			w := number[at : at+window]
			list = append(list, needle{of, w}, needle{of, []byte(hex.EncodeToString(w))})
			list = append(list, inBase64(of, w)...)
		}
	}
	// All lines of the PEM text: in base64 of PEM, even those that hold only
	// what is public would show that the key is there.
	body := bytes.Split(bytes.TrimSpace(s.Data[corev1.TLSPrivateKeyKey]), []byte("\n"))
	for _, line := range body[1 : len(body)-1] {
		if len(line) > window {
			list = append(list, inBase64(of, line)...)
		}
	}
	return list
}

// inBase64 is text in base64 at each offset, without the characters at either end
// that depend on what stands beside it.
func inBase64(of string, text []byte) (list []needle) {
	for offset := range 3 {
		encoded := base64.StdEncoding.EncodeToString(append(make([]byte, offset), text...))
		list = append(list, needle{of, []byte(encoded[4 : len(encoded)-4])})
	}
	return list
}

// find returns the Secrets of which a text shows a key.
func find(list []needle, text []byte) map[string]bool {
	found := map[string]bool{}
	for _, n := range list {
		if !found[n.of] && bytes.Contains(text, n.text) {
			found[n.of] = true
		}
	}
	return found
}

func TestNoPrivateKeyGetsOut(t *testing.T) {
	w := cluster(t)
	secrets, err := w.cluster.Typed.CoreV1().Secrets("").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var list []needle
	keys := 0
	for i := range secrets.Items {
		if s := &secrets.Items[i]; len(s.Data[corev1.TLSPrivateKeyKey]) > 0 && len(s.Data[corev1.TLSCertKey]) > 0 {
			list = append(list, needles(t, s)...)
			keys++
		}
	}
	// The search finds each key in every form that it could come in.
	asJSON, err := json.Marshal(secrets)
	if err != nil {
		t.Fatal(err)
	}
	var asPEM, asDER bytes.Buffer
	for i := range secrets.Items {
		key := secrets.Items[i].Data[corev1.TLSPrivateKeyKey]
		asPEM.Write(key)
		if block, _ := pem.Decode(key); block != nil {
			asDER.Write(block.Bytes)
		}
	}
	for form, text := range map[string][]byte{"JSON": asJSON, "PEM": asPEM.Bytes(), "DER": asDER.Bytes(), "hex": []byte(hex.EncodeToString(asDER.Bytes()))} {
		if n := len(find(list, text)); n != keys || keys < 80 {
			t.Errorf("the search finds %d of %d keys in %s", n, keys, form)
		}
	}

	outputs := map[string][]byte{}
	for _, format := range report.Formats {
		outputs["audit -o "+format] = w.run(t, append([]string{"audit", "-o", format}, now...)...)
	}
	outputs["explain"] = w.run(t, append([]string{"explain", "secret/web/www-tls"}, now...)...)
	dump := filepath.Join(t.TempDir(), "dump.tar.gz")
	w.run(t, "dump", "--output", dump)
	outputs["dump"] = unpack(t, dump)
	for name, text := range outputs {
		if len(text) < 200 {
			t.Errorf("%s has %d bytes", name, len(text))
		}
		for secret := range find(list, text) {
			t.Errorf("%s shows a part of the key of Secret %s", name, secret)
		}
		if bytes.Contains(text, []byte("PRIVATE KEY")) {
			t.Errorf("%s has a PEM header of a private key", name)
		}
	}
	if !bytes.Contains(outputs["dump"], []byte("www-tls")) {
		t.Error("the dump was not unpacked: it does not name Secret www-tls")
	}
}

// unpack returns the tar archive in a .tar.gz, as it is: its members are not
// compressed.
func unpack(t *testing.T, path string) []byte {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	unzipped, err := gzip.NewReader(file)
	if err != nil {
		t.Fatal(err)
	}
	content, err := io.ReadAll(unzipped)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

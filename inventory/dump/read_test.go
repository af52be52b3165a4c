package dump

import (
	"archive/tar"
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
	"time"
	"unicode/utf16"

	"sigs.k8s.io/yaml"

	"github.com/certherd/certherd/inventory"
)

func readText(t testing.TB, text string, o Options) (*inventory.Snapshot, []Problem) {
	t.Helper()
	o.Stdin = strings.NewReader(text)
	s, problems, err := Read([]string{"-"}, o)
	if err != nil {
		t.Fatalf("%v; %v", err, problems)
	}
	return s, problems
}

// web is a Secret and the Ingress that uses it, without kind and version.
const (
	secretItem  = `{"metadata":{"namespace":"a","name":"web-tls"},"type":"kubernetes.io/tls","data":{"tls.key":"c2VjcmV0"}}`
	ingressItem = `{"metadata":{"namespace":"a","name":"web"},"spec":{"tls":[{"hosts":["x.example.com"],"secretName":"web-tls"}]}}`
)

func typed(apiVersion, kind, item string) string {
	return fmt.Sprintf(`{"apiVersion":%q,"kind":%q,%s`, apiVersion, kind, item[1:])
}

func toYAML(t testing.TB, doc string) string {
	t.Helper()
	out, err := yaml.JSONToYAML([]byte(doc))
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

func utf16le(s string) string {
	var b strings.Builder
	b.WriteString("\xff\xfe")
	for _, c := range utf16.Encode([]rune(s)) {
		b.WriteByte(byte(c))
		b.WriteByte(byte(c >> 8))
	}
	return b.String()
}

func TestEveryFormOfADumpGivesTheSameObjects(t *testing.T) {
	secret, ingress := typed("v1", "Secret", secretItem), typed("networking.k8s.io/v1", "Ingress", ingressItem)
	ySecret, yIngress := toYAML(t, secret), toYAML(t, ingress)
	jsonList := fmt.Sprintf(`{"apiVersion":"v1","items":[%s,%s],"kind":"List","metadata":{"resourceVersion":""}}`, secret, ingress)
	typedLists := fmt.Sprintf(`{"kind":"SecretList","apiVersion":"v1","items":[%s]}{"kind":"IngressList","apiVersion":"networking.k8s.io/v1","items":[%s]}`, secretItem, ingressItem)
	kindLast := fmt.Sprintf(`{"apiVersion":"v1","items":[%s],"kind":"SecretList"}
{"apiVersion":"networking.k8s.io/v1","items":[%s],"kind":"IngressList"}`, secretItem, ingressItem)
	log := "==== START logs for container c of pod a/web ====\n{\"level\":\"info\"}\nkind: [broken\n---\n==== END logs for container c of pod a/web ====\n"
	for name, text := range map[string]string{
		"YAML documents":                ySecret + "---\n" + yIngress,
		"with a first separator":        "---\n" + ySecret + "...\n---\n" + yIngress + "---\n",
		"with comments and a directive": "# hello\n%YAML 1.1\n---\n" + ySecret + "--- # next\n" + yIngress,
		"with a byte order mark":        "\ufeff" + ySecret + "---\n" + yIngress,
		"with CRLF":                     strings.ReplaceAll(ySecret+"---\n"+yIngress, "\n", "\r\n"),
		"UTF-16 as PowerShell writes":   utf16le(ySecret + "---\n" + yIngress),
		"JSON documents":                secret + ingress,
		"JSON lines":                    secret + "\n" + ingress + "\n",
		"JSON between separators":       "---\n" + secret + "\n---\n" + ingress + "\n",
		"JSON behind separators":        "--- " + secret + "\n--- " + ingress + "\n",
		"a JSON array":                  "[" + secret + "," + ingress + "]",
		"a List":                        jsonList,
		"a List in YAML":                toYAML(t, jsonList),
		"a List in indented YAML":       "kind: List\napiVersion: v1\nitems:\n  - " + strings.ReplaceAll(strings.TrimSpace(ySecret), "\n", "\n    ") + "\n  - " + strings.ReplaceAll(strings.TrimSpace(yIngress), "\n", "\n    ") + "\n",
		"a List of Lists":               fmt.Sprintf(`{"kind":"List","apiVersion":"v1","items":[%s,%s]}`, jsonList, `{"kind":"List","apiVersion":"v1","items":[]}`),
		"typed lists":                   typedLists,
		"typed lists, kind last":        kindLast,
		"typed lists in YAML":           toYAML(t, kindLast[:strings.Index(kindLast, "\n")]) + "---\n" + toYAML(t, kindLast[strings.Index(kindLast, "\n"):]),
		"flow style":                    "{apiVersion: v1, kind: Secret,\n metadata: {namespace: a, name: web-tls}, type: kubernetes.io/tls}\n---\n" + yIngress,
		"a YAML list":                   "- " + strings.ReplaceAll(strings.TrimSpace(ySecret), "\n", "\n  ") + "\n- " + strings.ReplaceAll(strings.TrimSpace(yIngress), "\n", "\n  "),
		"cluster-info dump":             toIndent(t, jsonList) + log + toIndent(t, `{"kind":"EventList","apiVersion":"v1","items":[]}`) + "\n" + log,
		"cluster-info dump in YAML":     "---\n" + toYAML(t, jsonList) + log + "---\n" + toYAML(t, `{"kind":"EventList","apiVersion":"v1","items":[]}`) + log,
		"anchors in a list":             "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Secret\n  metadata: &m {namespace: a, name: web-tls}\n  type: kubernetes.io/tls\n- apiVersion: networking.k8s.io/v1\n  kind: Ingress\n  metadata: {namespace: a, name: web}\n  spec:\n    tls:\n    - secretName: web-tls\n      hosts: [x.example.com]\n    other: *m\n",
	} {
		t.Run(name, func(t *testing.T) {
			for how, src := range map[string]func() ([]byte, bool){
				"at once": func() ([]byte, bool) { return []byte(text), false },
				"by byte": func() ([]byte, bool) { return []byte(text), true },
			} {
				b, slow := src()
				o := Options{Complete: true, Stdin: bytes.NewReader(b)}
				if slow {
					o.Stdin = iotest.OneByteReader(bytes.NewReader(b))
				}
				s, problems, err := Read([]string{"-"}, o)
				if err != nil || len(problems) > 0 {
					t.Fatal(how, err, problems)
				}
				if len(s.Secrets) != 1 || len(s.Consumers) != 1 || len(s.Gaps) != 0 {
					t.Fatalf("%s: %d Secrets, %d Ingresses, gaps %v", how, len(s.Secrets), len(s.Consumers), s.Gaps)
				}
				if j := s.Judge(inventory.SecretRef("a", "web-tls")); j.Verdict != inventory.Used {
					t.Errorf("%s: verdict %v", how, j)
				}
			}
		})
	}
}

func toIndent(t testing.TB, doc string) string {
	t.Helper()
	return strings.ReplaceAll(doc, `,"`, ",\n    \"") + "\n"
}

func TestBrokenDocumentsAreNamedAndDoNotStopTheRest(t *testing.T) {
	secret := typed("v1", "Secret", secretItem)
	ySecret := toYAML(t, secret)
	for _, tc := range []struct {
		name, text string
		line       int
		gap        string
		message    string
	}{
		{"YAML", "a: [\n---\n" + ySecret, 1, "*", "read YAML"},
		{"YAML with a tab", "---\n\n# c\nkind: Pod\napiVersion: v1\nspec:\n\tx: 1\n---\n" + ySecret, 4, "pod", "read YAML"},
		{"an item", "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Pod\n  spec: {\n- apiVersion: v1\n  kind: Secret\n  metadata: {namespace: a, name: web-tls}\n  type: kubernetes.io/tls\n", 4, "pod", "read YAML"},
		{"JSON", "{\"kind\":\n \"Pod\", oops}\n" + secret, 2, "*", "read JSON"},
		{"JSON that ends early", secret + "\n\n{\"kind\": \"Pod\"", 3, "*", "ends too early"},
		{"no kind", "a: 1\n---\n" + ySecret, 1, "*", "no apiVersion and kind"},
		{"text", "Error from server (Forbidden)\n---\n" + ySecret, 1, "*", "not a Kubernetes object"},
		{"a Status", `{"kind":"Status","apiVersion":"v1","status":"Failure","message":"forbidden"}` + secret, 1, "*", "forbidden"},
		{"a wrong type", `{"kind":"Certificate","apiVersion":"cert-manager.io/v1","metadata":{"namespace":"a","name":"x"},"spec":{"dnsNames":5}}` + secret, 1, "certificate.cert-manager.io", "dnsNames"},
		{"a table", `{"kind":"Table","apiVersion":"meta.k8s.io/v1","rows":[]}` + secret, 1, "*", "-o yaml"},
		{"a log without end", ySecret + "==== START logs for container x of pod a/b ====\nx\n", 9, "*", "no end"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s, problems := readText(t, tc.text, Options{Complete: true})
			if len(problems) != 1 || problems[0].Line != tc.line || problems[0].File != "stdin" || !strings.Contains(problems[0].Message, tc.message) {
				t.Errorf("problems %v, want one in line %d with %q", problems, tc.line, tc.message)
			}
			if !s.HasGap(tc.gap) {
				t.Errorf("gaps %v, want one for %s", s.Gaps, tc.gap)
			}
			if s.Secret(inventory.SecretRef("a", "web-tls")) == nil {
				t.Error("the Secret beside it is lost")
			}
			if j := s.Judge(inventory.SecretRef("a", "web-tls")); j.Verdict != inventory.Unknown {
				t.Errorf("verdict %s, want unknown", j.Verdict)
			}
		})
	}
	// An Event can break without hiding anything.
	s, problems := readText(t, "apiVersion: v1\nkind: Event\nx: [\n---\n"+ySecret, Options{Complete: true})
	if len(problems) != 1 || len(s.Gaps) != 0 {
		t.Errorf("problems %v, gaps %v", problems, s.Gaps)
	}
}

func TestWhatADumpDoesNotHoldIsAGap(t *testing.T) {
	s, _ := readText(t, typed("v1", "Secret", secretItem), Options{})
	for _, k := range []string{"*", "certificate.cert-manager.io", "ingress.networking.k8s.io"} {
		if !s.HasGap(k) {
			t.Errorf("no gap for %s", k)
		}
	}
	if s.HasGap("secret") {
		t.Error("a gap for Secrets, which the dump holds")
	}
	if s, _ = readText(t, typed("v1", "Secret", secretItem)+`{"kind":"CertificateList","apiVersion":"cert-manager.io/v1","items":[]}`, Options{}); s.HasGap("certificate.cert-manager.io") {
		t.Error("an empty list is none of Certificates")
	}
	if s, _ = readText(t, typed("v1", "Secret", secretItem), Options{Complete: true}); len(s.Gaps) > 0 {
		t.Errorf("gaps of a complete dump: %v", s.Gaps)
	}
	if s, _ = readText(t, "apiVersion: certherd.dev/v1alpha1\nkind: Dump\ncomplete: true\nobjects: 2\n---\n"+typed("v1", "Secret", secretItem), Options{Complete: true}); !s.HasGap("secret") {
		t.Errorf("gaps %v, want one for the object that the header counts and the dump has not", s.Gaps)
	}
}

func TestTheNewestCopyCountsAndTheOthersAreSearched(t *testing.T) {
	ingress := func(version, secret string) string {
		return fmt.Sprintf(`{"apiVersion":"networking.k8s.io/v1","kind":"Ingress","metadata":{"namespace":"a","name":"i","resourceVersion":%q},"spec":{"tls":[{"secretName":%q}]}}`, version, secret)
	}
	secrets := typed("v1", "Secret", secretItem) + strings.ReplaceAll(typed("v1", "Secret", secretItem), "web-tls", "old-tls")
	for _, text := range []string{
		secrets + ingress("99", "old-tls") + ingress("100", "web-tls") + ingress("100", "web-tls"),
		secrets + ingress("100", "web-tls") + ingress("99", "old-tls"),
		secrets + ingress("", "old-tls") + ingress("", "web-tls"),
	} {
		s, problems := readText(t, text, Options{Complete: true})
		if len(problems) > 0 || len(s.Consumers) != 1 || s.Consumers[0].TLS[0].Secret.Name != "web-tls" {
			t.Fatalf("problems %v, Ingresses %v", problems, s.Consumers)
		}
		if j := s.Judge(inventory.SecretRef("a", "old-tls")); j.Verdict != inventory.Used {
			t.Errorf("what the older copy names is %s", j.Verdict)
		}
	}
	s, _ := readText(t, secrets+secrets, Options{Complete: true})
	if len(s.Secrets) != 2 {
		t.Errorf("%d Secrets, want 2", len(s.Secrets))
	}
}

func TestTheTimeIsTheDumpsOwn(t *testing.T) {
	pod := `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p","creationTimestamp":"2026-01-01T00:00:00Z","managedFields":[{"time":"2026-01-03T00:00:00Z"}]},"status":{"conditions":[{"lastTransitionTime":"2026-01-02T00:00:00Z"}]}}`
	s, _ := readText(t, pod, Options{})
	if want := time.Date(2026, 1, 3, 0, 0, 0, 0, time.UTC); !s.Taken.Equal(want) {
		t.Errorf("taken %v, want %v", s.Taken, want)
	}
	s, _ = readText(t, pod+"\n---\napiVersion: certherd.dev/v1alpha1\nkind: Dump\ntakenAt: 2025-05-05T05:05:05Z\n", Options{})
	if want := time.Date(2025, 5, 5, 5, 5, 5, 0, time.UTC); !s.Taken.Equal(want) {
		t.Errorf("taken %v, want %v", s.Taken, want)
	}
}

func TestNamespacesLimitWhatIsJudgedAndNotWhoCounts(t *testing.T) {
	text := typed("v1", "Secret", secretItem) + strings.ReplaceAll(typed("v1", "Secret", secretItem), `"a"`, `"b"`) +
		`{"apiVersion":"gateway.networking.k8s.io/v1","kind":"Gateway","metadata":{"namespace":"c","name":"g"},"spec":{"gatewayClassName":"x","listeners":[{"name":"l","port":1,"protocol":"HTTPS","tls":{"certificateRefs":[{"namespace":"a","name":"web-tls"}]}}]}}`
	s, _ := readText(t, text, Options{Complete: true, Namespaces: []string{"a"}})
	if len(s.Secrets) != 1 || len(s.Consumers) != 0 || !s.Exists(inventory.SecretRef("b", "web-tls")) {
		t.Errorf("Secrets %v, consumers %v", s.Secrets, s.Consumers)
	}
	if j := s.Judge(inventory.SecretRef("a", "web-tls")); j.Verdict != inventory.Used {
		t.Errorf("verdict %v", j)
	}
}

// The layouts of kubectl cluster-info dump --output-directory and of a
// must-gather, on disk and in an archive.
func TestDirectoriesAndArchives(t *testing.T) {
	secret, ingress := typed("v1", "Secret", secretItem), typed("networking.k8s.io/v1", "Ingress", ingressItem)
	files := map[string]string{
		"nodes.json":                     `{"kind":"NodeList","apiVersion":"v1","items":[]}`,
		"a/pods.json":                    `{"kind":"PodList","apiVersion":"v1","items":[]}`,
		"a/web/logs.txt":                 "==== START logs for container c of pod a/web ====\n",
		"namespaces/a/core/secrets.yaml": toYAML(t, `{"apiVersion":"v1","kind":"SecretList","items":[`+secret+`]}`),
		"namespaces/a/networking.k8s.io/ingresses/web.yaml":  "---\n" + toYAML(t, ingress),
		"cluster-scoped-resources/core/namespaces/a.yaml.gz": zipped("apiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n"),
		"namespaces/a/pods/web/web.yaml":                     "not: [yaml",
		"version":                                            "4.20",
		"empty.yaml":                                         "",
	}
	dir := t.TempDir()
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	for name, content := range files {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := w.WriteHeader(&tar.Header{Name: "../../" + name, Mode: 0o644, Size: int64(len(content)), Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
		w.Write([]byte(content))
	}
	w.Close()
	plain, zip := filepath.Join(t.TempDir(), "d.tar"), filepath.Join(t.TempDir(), "d.tgz")
	os.WriteFile(plain, archive.Bytes(), 0o644)
	os.WriteFile(zip, []byte(zipped(archive.String())), 0o644)
	for _, p := range []string{dir, plain, zip} {
		s, problems, err := Read([]string{p}, Options{Complete: true})
		if err != nil {
			t.Fatal(err)
		}
		if len(s.Secrets) != 1 || len(s.Consumers) != 1 || len(s.Namespaces) != 1 {
			t.Errorf("%s: %d Secrets, %d Ingresses, %d Namespaces", p, len(s.Secrets), len(s.Consumers), len(s.Namespaces))
		}
		text := fmt.Sprint(problems)
		if len(problems) != 2 || !strings.Contains(text, "passed over 2 files") || !strings.Contains(text, "web.yaml:1: read YAML") {
			t.Errorf("%s: problems %v", p, problems)
		}
		if p != dir && !strings.Contains(text, filepath.Base(p)+"!../../namespaces/a/pods/web/web.yaml:1") {
			t.Errorf("%s: no member named in %v", p, problems)
		}
	}
	if _, _, err := Read([]string{filepath.Join(dir, "gone")}, Options{}); err == nil {
		t.Error("a path that does not exist is no error")
	}
	if _, _, err := Read([]string{t.TempDir()}, Options{}); err == nil || !strings.Contains(err.Error(), "no Kubernetes objects") {
		t.Errorf("an empty directory: %v", err)
	}
}

func set[T any](t *testing.T, p *T, v T) {
	old := *p
	*p = v
	t.Cleanup(func() { *p = old })
}

func TestHostileInputIsStopped(t *testing.T) {
	secret := typed("v1", "Secret", secretItem)
	set(t, &maxDocument, 64<<10)
	set(t, &maxArchived, 1<<20)
	set(t, &maxMembers, 100)
	laughs := "a: &a [x,x,x,x,x,x,x,x,x,x]\n"
	for c := 'b'; c < 'k'; c++ {
		p := c - 1
		laughs += fmt.Sprintf("%c: &%c [*%c,*%c,*%c,*%c,*%c,*%c,*%c,*%c,*%c,*%c]\n", c, c, p, p, p, p, p, p, p, p, p, p)
	}
	var many bytes.Buffer
	w := tar.NewWriter(&many)
	for range 200 {
		w.WriteHeader(&tar.Header{Name: "x.yaml", Typeflag: tar.TypeReg})
	}
	w.Close()
	for name, text := range map[string]string{
		"aliases":              laughs + "---\n" + secret,
		"one long alias":       "a: &a " + strings.Repeat("x", 30000) + "\nb: [" + strings.Repeat("*a, ", 1000) + "*a]\n---\n" + secret,
		"an alias of itself":   "a: &a [*a, *a]\n---\n" + secret,
		"deep nesting in YAML": strings.Repeat("[", 30000) + "\n---\n" + secret,
		"deep nesting in JSON": strings.Repeat(`{"a":`, 12000) + "\n" + secret,
		"deep indentation": func() string {
			var b strings.Builder
			for i := range 300 {
				b.WriteString(strings.Repeat(" ", i) + "- a:\n")
			}
			return b.String()
		}() + "---\n" + secret,
		"a long line":     "a: " + strings.Repeat("x", 1<<20) + "\n---\n" + secret,
		"a long item":     "kind: List\napiVersion: v1\nitems:\n- a: " + strings.Repeat("x", 1<<20) + "\n- " + secret + "\n",
		"a long value":    `{"a":"` + strings.Repeat("x", 1<<20) + "\"}\n" + secret,
		"a long document": strings.Repeat("a: 1\n", 100000) + "---\n" + secret,
		"a bomb":          zipped(secret + "\n" + strings.Repeat(" ", 4<<20)),
		"many members":    many.String(),
		"nested archives": zipped(zipped(zipped(zipped(zipped(zipped("x")))))),
		"zip":             "PK\x03\x04xxxxxxxx",
		"a torn archive":  zipped(secret + strings.Repeat("\n", 1000))[:60],
		"binary":          "\x00\x01\x02\xff\xfe\n---\n" + secret,
	} {
		t.Run(name, func(t *testing.T) {
			s, problems, err := Read([]string{"-"}, Options{Complete: true, Stdin: strings.NewReader(text)})
			if len(problems) == 0 {
				t.Error("no problem is told")
			}
			if err == nil && !s.HasGap("secret") && len(s.Gaps) == 0 {
				t.Error("no gap")
			}
			if strings.HasSuffix(strings.TrimSpace(text), secret) && (s == nil || len(s.Secrets) != 1) {
				t.Errorf("the Secret behind it is lost: %v %v", err, problems)
			}
		})
	}
}

func TestTheSpoolOverflowsToAFile(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	s := &spool{limit: 1000}
	defer s.close()
	var places []place
	var docs [][]byte
	for range 200 {
		doc := bytes.Repeat([]byte{byte(r.IntN(256))}, r.IntN(100))
		p, err := s.add(doc)
		if err != nil {
			t.Fatal(err)
		}
		places, docs = append(places, p), append(docs, doc)
	}
	if s.file == nil {
		t.Fatal("no file")
	}
	var buf []byte
	for _, i := range r.Perm(200) {
		var err error
		if buf, err = s.get(places[i], buf); err != nil || !bytes.Equal(buf, docs[i]) {
			t.Fatalf("document %d: %q, %v", i, buf, err)
		}
	}
}

func FuzzRead(f *testing.F) {
	secret, ingress := typed("v1", "Secret", secretItem), typed("networking.k8s.io/v1", "Ingress", ingressItem)
	for _, s := range []string{
		secret + ingress, toYAML(f, secret) + "---\n" + toYAML(f, ingress),
		"kind: List\napiVersion: v1\nitems:\n- a: &x 1\n- b: *x\nmetadata: {}\n",
		"==== START logs for container x ====\n==== END logs for container x ====\n{\"kind\":\"List\",\"items\":[{}]}",
		zipped("a: 1"), "{a: b}\n...\n[1,2]\n--- |\n x\n", "\xff\xfea\x00", "items:\n- 1\n -\n#\nx", `{"kind":"ReferenceList","apiVersion":"certherd.dev/v1alpha1","items":[{"from":{},"to":{}}]}`,
	} {
		f.Add([]byte(s))
	}
	maxDocument, maxArchived = 1<<20, 4<<20
	f.Fuzz(func(t *testing.T, text []byte) {
		s, problems, err := Read([]string{"-"}, Options{Complete: true, Stdin: bytes.NewReader(text)})
		if (s == nil) == (err == nil) {
			t.Fatal("neither a Snapshot nor an error, or both")
		}
		for _, p := range problems {
			if p.Line < 0 || p.Line > bytes.Count(text, []byte("\n"))+1 && !bytes.HasPrefix(text, []byte{0x1f, 0x8b}) && bytes.IndexByte(text, 0) < 0 {
				t.Errorf("a line that the text has not: %v", p)
			}
		}
		// Another document behind it is never taken for less than a Gap.
		with, _, err := Read([]string{"-"}, Options{Complete: true, Stdin: strings.NewReader(string(text) + "\n---\n" + typed("v1", "Secret", secretItem))})
		if err == nil && len(with.Gaps) == 0 && !with.Exists(inventory.SecretRef("a", "web-tls")) {
			t.Error("a Secret is lost, and there is no gap")
		}
	})
}

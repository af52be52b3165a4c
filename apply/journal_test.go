package apply_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base32"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/certherd/certherd/apply"
	"github.com/certherd/certherd/inventory"
	"github.com/certherd/certherd/plan"
)

// stored are the ConfigMaps of the journal, and all that they hold, unpacked.
func (w *world) stored() ([]corev1.ConfigMap, []byte) {
	w.t.Helper()
	list, err := w.c.core.CoreV1().ConfigMaps(w.journal).List(w.ctx, metav1.ListOptions{LabelSelector: apply.JournalLabel})
	if err != nil {
		w.t.Fatal(err)
	}
	var text []byte
	for _, m := range list.Items {
		if len(m.BinaryData) > 0 || len(m.Data) != 1 {
			w.t.Errorf("%s has more than entries", m.Name)
		}
		for _, packed := range m.Data {
			z, err := gzip.NewReader(base32.NewDecoder(base32.StdEncoding, strings.NewReader(packed)))
			if err != nil {
				w.t.Fatal(err)
			}
			plain, err := io.ReadAll(z)
			if err != nil {
				w.t.Fatal(err)
			}
			text = append(text, plain...)
		}
		m.Data, m.ManagedFields = nil, nil
		b, err := json.Marshal(m)
		if err != nil {
			w.t.Fatal(err)
		}
		text = append(text, b...)
	}
	return list.Items, text
}

func TestNoKeyGetsIntoTheJournal(t *testing.T) {
	w := newWorld(t)
	w.certificate("web-7f3")
	w.superseded("svc-7f3")
	w.due("left-7f3")
	s := w.secret("pasted-7f3", "pasted-7f3", "pasted-7f3.example.com")
	quoted, err := json.Marshal(string(s.Data["tls.key"]))
	if err != nil {
		t.Fatal(err)
	}
	// Somebody has pasted a key into an annotation, and a password into the spec.
	w.create(strings.Replace(certificateYAML("pasted-7f3"), "note: hello", fmt.Sprintf(`note: %s, "kubectl.kubernetes.io/last-applied-configuration": "{\"was\": \"applied\"}"`, quoted), 1))
	w.secret("store-7f3", "store-7f3", "store-7f3.example.com")
	w.create(strings.Replace(certificateYAML("store-7f3"), "issuerRef:", "keystores: {jks: {create: true, password: opensesame}}, issuerRef:", 1))
	w.expect(w.run(), "delete Certificate/web-7f3: done", "delete Certificate/pasted-7f3: done", "delete KCertificate/svc-7f3: done", "delete Secret/left-7f3: done",
		"delete Certificate/store-7f3: dropped: delete it yourself")
	w.is("there", w.crtRef("store-7f3"))
	_, text := w.stored()
	for _, want := range []string{"web-7f3.example.com", "pasted-7f3.example.com", w.ns + `","name":"left-7f3"`, `"team":"blue"`} {
		if !bytes.Contains(text, []byte(want)) {
			t.Errorf("the journal lacks %s", want)
		}
	}
	for _, bad := range []string{"PRIVATE KEY", "LS0tLS1", "opensesame", "last-applied", "managedFields", "resourceVersion\":\"" + w.get(w.crtRef("store-7f3")).GetResourceVersion()} {
		if bytes.Contains(text, []byte(bad)) {
			t.Errorf("the journal has %s", bad)
		}
	}
	keys.Lock()
	defer keys.Unlock()
	if len(keys.pem) < 5 {
		t.Fatalf("only %d keys were stored", len(keys.pem))
	}
	for _, key := range keys.pem {
		for line := range strings.Lines(string(key)) {
			if line = strings.TrimSpace(line); len(line) > 20 && bytes.Contains(text, []byte(line)) {
				t.Errorf("the journal has a line of a key")
			}
		}
	}
}

func TestTheJournalIsBounded(t *testing.T) {
	w := newWorld(t)
	w.o.JournalBytes, w.o.JournalParts, w.o.MaxSkew = 8<<10, 3, 0
	w.o.Keep, w.o.Grace = 168*time.Hour, 168*time.Hour
	rounds, removed, full := 0, 0, 0
	for day := range 30 {
		w.o.Clock = shifted{by: time.Duration(day) * 24 * time.Hour}
		for i := range 4 {
			w.certificate(fmt.Sprintf("web-%d-%d", day, i))
		}
		rounds++
		for _, o := range w.run() {
			switch {
			case o.Object().Kind == "Certificate" && o.Status == apply.Done:
				removed++
			case strings.Contains(o.Why, "journal is full"):
				full++
			}
		}
		maps, _ := w.stored()
		if len(maps) > 3 {
			t.Errorf("day %d: %d ConfigMaps", day, len(maps))
		}
		for _, m := range maps {
			for _, b := range m.Data {
				if len(b) > 8<<10 {
					t.Errorf("day %d: %s has %d bytes", day, m.Name, len(b))
				}
			}
		}
		for _, e := range w.entries() {
			if age := w.now().Sub(e.Time); age > 169*time.Hour {
				t.Errorf("day %d: an entry of %s ago is still there", day, age)
			}
		}
	}
	t.Logf("%d rounds, %d removed, %d put off because the journal was full", rounds, removed, full)
	if removed < 4*rounds-8 {
		t.Errorf("only %d of %d were removed", removed, 4*rounds)
	}
}

func TestAFullJournalStopsRemoval(t *testing.T) {
	w := newWorld(t)
	w.o.JournalBytes, w.o.JournalParts, w.o.BatchSize = 4<<10, 2, 5
	for i := range 60 {
		w.secret(fmt.Sprintf("web-%d", i), fmt.Sprintf("web-%d", i), "x.example.com")
		// What does not compress fills it faster.
		w.create(strings.Replace(certificateYAML(fmt.Sprintf("web-%d", i)), "note: hello", fmt.Sprintf("note: %q", noise(i)), 1))
	}
	done, later := 0, 0
	for _, o := range w.run() {
		if o.Object().Group != inventory.GroupCertManager {
			continue
		}
		switch {
		case o.Status == apply.Done:
			done++
		case o.Status == apply.Later && strings.Contains(o.Why, "journal is full"):
			later++
		default:
			t.Errorf("%s: %s %s", o.Object(), o.Status, o.Why)
		}
	}
	if done == 0 || later == 0 || done+later != 60 {
		t.Errorf("%d done, %d later", done, later)
	}
	n := 0
	for _, e := range w.entries() {
		if e.Action == plan.Delete && e.State == apply.Carried {
			n++
		}
	}
	if n != done {
		t.Errorf("%d removed, and %d in the journal", done, n)
	}
}

// noise is 200 characters that do not compress.
func noise(seed int) string {
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
	x := uint64(seed)*2862933555777941757 + 3037000493
	var b strings.Builder
	for range 200 {
		x = x*6364136223846793005 + 1442695040888963407
		b.WriteByte(letters[(x>>33)%uint64(len(letters))])
	}
	return b.String()
}

func TestAPartRoundTrips(t *testing.T) {
	until := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	in := []*apply.Entry{
		{ID: "r/1", Round: "r", Time: until.AddDate(0, 0, -7), Action: plan.Retire, Object: apply.Object{Kind: "Secret", Namespace: "a", Name: "b"}, DeleteAfter: &until, State: apply.Carried},
		{ID: "r/2", Round: "r", Time: until, Action: plan.Delete, Object: apply.Object(inventory.CertificateRef("a", "b")), Manifest: json.RawMessage(`{"spec":{"x":"<&>"}}`), State: apply.Intended},
	}
	b, err := apply.Pack(in)
	if err != nil {
		t.Fatal(err)
	}
	out, err := apply.Unpack(b)
	if err != nil || len(out) != 2 {
		t.Fatal(out, err)
	}
	for i := range in {
		x, _ := json.Marshal(in[i])
		y, _ := json.Marshal(out[i])
		if !bytes.Equal(x, y) {
			t.Errorf("%s became %s", x, y)
		}
	}
	for name, bad := range map[string][]byte{"nothing": nil, "no gzip": []byte("hello"), "half": b[:len(b)/2], "cut in the checksum": b[:len(b)-3]} {
		if _, err := apply.Unpack(bad); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestABrokenJournalStopsEverything(t *testing.T) {
	w := newWorld(t)
	w.certificate("web-7f3")
	if _, err := w.c.core.CoreV1().ConfigMaps(w.journal).Create(w.ctx, &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: "certherd-journal-000001", Labels: map[string]string{apply.JournalLabel: "true"}},
		Data:       map[string]string{"entries.jsonl.gz.base32": "nonsense"},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	w.expect(w.run(), "delete Certificate/web-7f3: later: move it away")
	w.is("there", w.crtRef("web-7f3"))
}

// Short names, in a namespace that the journal's own name has in it: the journal
// mentions them often, and in no way that the scan sees.
func TestTheJournalIsNoReference(t *testing.T) {
	w := newWorld(t)
	for i := range 20 {
		name := fmt.Sprintf("q%d", i)
		w.secret(name, name, name+".example.com")
		w.create(certificateYAML(name))
	}
	w.run()
	s, err := w.look(context.Background(), w.c.cfg)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		if j := s.Judge(w.secretRef(fmt.Sprintf("q%d", i))); j.Verdict != inventory.Unused {
			t.Errorf("q%d: %+v", i, j)
		}
	}
}

func TestOptionsAreChecked(t *testing.T) {
	check := func(o apply.Options) string {
		var out []string
		o.Check(func(field, why string) { out = append(out, field+": "+why) })
		return strings.Join(out, "; ")
	}
	if got := check(apply.Defaults()); got != "" {
		t.Errorf("the defaults: %s", got)
	}
	for field, spoil := range map[string]func(*apply.Options){
		"grace":        func(o *apply.Options) { o.Grace = -1 },
		"expiredGrace": func(o *apply.Options) { o.ExpiredGrace = -time.Hour },
		"keep":         func(o *apply.Options) { o.Keep = 0 },
		"fresh":        func(o *apply.Options) { o.Fresh = 0 },
		"batchSize":    func(o *apply.Options) { o.BatchSize = -1 },
		"journalBytes": func(o *apply.Options) { o.JournalBytes = 2 << 20 },
		"journalParts": func(o *apply.Options) { o.JournalParts = 1 },
		"maxSkew":      func(o *apply.Options) { o.MaxSkew = -1 },
		"settle":       func(o *apply.Options) { o.Settle = -1 },
	} {
		o := apply.Defaults()
		spoil(&o)
		if got := check(o); !strings.HasPrefix(got, field+": ") {
			t.Errorf("%s: %q", field, got)
		}
	}
}

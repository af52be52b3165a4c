package dump

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/base64"
	stdjson "encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/certherd/certherd/inventory"
)

// A Writer writes a dump: a .tar.gz that Read turns into the same Snapshot
// again, and that holds no key. It holds of each object only the fields that
// inventory reads (see keep), of all others their references to certificates
// and Secrets. Its methods may be called by several goroutines.
type Writer struct {
	mu      sync.Mutex
	gz      *gzip.Writer
	tar     *tar.Writer
	err     error
	pending map[string]*bytes.Buffer // documents by kind, not yet in the archive
	files   map[string]int           // how many members a kind has
	written map[inventory.Ref]struct{}
	objects int
}

// memberSize is about how large a member of the archive is, in bytes.
const memberSize = 1 << 20

// NewWriter returns a Writer of a .tar.gz. The archive is complete only after
// Close.
func NewWriter(w io.Writer) *Writer {
	gz := gzip.NewWriter(w)
	return &Writer{gz: gz, tar: tar.NewWriter(gz), pending: map[string]*bytes.Buffer{}, files: map[string]int{}, written: map[inventory.Ref]struct{}{}}
}

// Object writes one object that became a record of the Snapshot; doc is its
// JSON, in which apiVersion and kind may be missing. Of a Secret it writes
// metadata, type and the first certificate of tls.crt. Objects that are no
// records, and Secrets without a certificate, are passed over: Close knows
// them. Errors come from Close.
func (w *Writer) Object(group, version, kind string, doc []byte) {
	text, ref, err := written(group, version, kind, doc)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil || text == nil && err == nil {
		return
	}
	if err != nil {
		w.err = fmt.Errorf("write %s: %w", gapKind(group, kind), err)
		return
	}
	name := gapKind(group, kind)
	b := w.pending[name]
	if b == nil {
		b = new(bytes.Buffer)
		w.pending[name] = b
	}
	b.WriteString("---\n")
	b.Write(text)
	w.objects++
	w.written[ref] = struct{}{}
	if b.Len() >= memberSize {
		w.flush(name)
	}
}

// written is the YAML of what is kept of an object, nil for an object that is
// no record.
func written(group, version, kind string, doc []byte) ([]byte, inventory.Ref, error) {
	none := inventory.Ref{}
	fields := keep[strings.TrimSuffix(kind+"."+group, ".")]
	if fields == nil {
		return nil, none, nil
	}
	o, err := parseObject(doc)
	if err != nil {
		return nil, none, err
	}
	if err := reduce(o, o.fields("metadata"), kind); err != nil {
		return nil, none, err
	}
	var v any
	if err := decode(o, &v); err != nil {
		return nil, none, err
	}
	if kind == "Deployment" || kind == "DaemonSet" {
		expandNumbers(v)
	}
	v, _ = fields.prune(v)
	m := v.(map[string]any)
	m["kind"], m["apiVersion"] = kind, strings.TrimPrefix(group+"/"+version, "/")
	metadata, _ := m["metadata"].(map[string]any)
	if annotations, ok := metadata["annotations"].(map[string]any); ok {
		for k := range annotations {
			if !keptAnnotation(k) {
				delete(annotations, k)
			}
		}
	}
	special(kind, m)
	data := m["data"]
	if kind == "Secret" {
		// It is nothing but a certificate, whose bytes reduce has looked at.
		delete(m, "data")
	}
	signed := signatures(kind, m)
	scrub(m)
	if kind == "Secret" && data != nil {
		m["data"] = data
	}
	for k, v := range signed {
		m["status"].(map[string]any)[k] = v
	}

	out, err := stdjson.Marshal(m)
	if err != nil {
		return nil, none, err
	}
	c := inventory.NewCollector()
	if kept, err := c.Add(group, kind, out); err != nil || !kept {
		return nil, none, err
	}
	if kind == "Secret" && len(c.Snapshot(time.Time{}).Secrets) == 0 {
		return nil, none, nil
	}
	text, err := yaml.JSONToYAML(out)
	ref := inventory.Ref{Group: group, Kind: kind}
	ref.Namespace, _ = metadata["namespace"].(string)
	ref.Name, _ = metadata["name"].(string)
	return text, ref, err
}

// expandNumbers puts the numbers among a container's environment variables in
// place of $(NAME) in its command line (see inventory's workload), since no
// variable is written.
func expandNumbers(v any) {
	m, _ := v.(map[string]any)
	for _, c := range at(m, "spec", "template", "spec", "containers") {
		for _, e := range at(c, "env") {
			name, _ := e["name"].(string)
			value, _ := e["value"].(string)
			if !digits(value) {
				continue
			}
			for _, k := range []string{"command", "args"} {
				args, _ := c[k].([]any)
				for i := range args {
					if s, ok := args[i].(string); ok {
						args[i] = strings.ReplaceAll(s, "$("+name+")", value)
					}
				}
			}
		}
	}
}

// signatures takes out of a CertificateRequest what was signed, and returns it as
// certificates and nothing else.
func signatures(kind string, m map[string]any) map[string]string {
	status, _ := m["status"].(map[string]any)
	if kind != "CertificateRequest" || status == nil {
		return nil
	}
	out := map[string]string{}
	for _, k := range []string{"ca", "certificate"} {
		data, _ := status[k].(string)
		delete(status, k)
		if crts := certificates(data); len(crts) > 0 {
			out[k] = base64.StdEncoding.EncodeToString(bytes.Join(crts, nil))
		}
	}
	return out
}

// special cuts what no path can tell.
func special(kind string, m map[string]any) {
	switch kind {
	case "ConfigMap":
		data, _ := m["data"].(map[string]any)
		for k := range data {
			if strings.HasPrefix(k, "_") { // Knative's _example is a manual
				delete(data, k)
			}
		}
		metadata, _ := m["metadata"].(map[string]any)
		name, _ := metadata["name"].(string)
		if text, ok := data[inventory.BootstrapKey].(string); ok && inventory.HoldsBootstrap(name) {
			// Of a bootstrap configuration only the xDS server's host, and nothing that lies
			// beside it.
			clear(data)
			data[inventory.BootstrapKey] = inventory.Bootstrap(inventory.XDSServers(text))
		}
	case "Deployment", "DaemonSet":
		for _, list := range []string{"containers", "initContainers"} {
			for _, c := range at(m, "spec", "template", "spec", list) {
				for _, k := range []string{"command", "args"} {
					if args, ok := c[k].([]any); ok {
						c[k] = cutArgs(args)
					}
				}
			}
		}
	case "Issuer", "ClusterIssuer":
		for _, s := range at(m, "spec", "acme", "solvers") {
			dns, _ := s["dns01"].(map[string]any)
			hook, _ := dns["webhook"].(map[string]any)
			delete(hook, "config") // of any form, and so with any content
		}
	}
}

// at returns the objects of the list at a path.
func at(m map[string]any, path ...string) []map[string]any {
	for _, p := range path[:len(path)-1] {
		m, _ = m[p].(map[string]any)
	}
	list, _ := m[path[len(path)-1]].([]any)
	var out []map[string]any
	for _, x := range list {
		if x, ok := x.(map[string]any); ok {
			out = append(out, x)
		}
	}
	return out
}

// flush moves what is pending of a kind into the archive.
func (w *Writer) flush(kind string) {
	b := w.pending[kind]
	if b == nil || b.Len() == 0 {
		return
	}
	w.files[kind]++
	w.member(fmt.Sprintf("%s-%03d.yaml", kind, w.files[kind]), b.Bytes())
	b.Reset()
}

func (w *Writer) member(name string, content []byte) {
	if w.err != nil {
		return
	}
	// No time: the same content is the same archive.
	h := &tar.Header{Typeflag: tar.TypeReg, Name: "certherd-dump/" + name, Mode: 0o644, Size: int64(len(content)), ModTime: time.Unix(0, 0)}
	if w.err = w.tar.WriteHeader(h); w.err == nil {
		_, w.err = w.tar.Write(content)
	}
}

// Close writes the references and the header of s, which must be the Snapshot
// that the objects given to Object became, and ends the archive. It returns
// the first error of the whole writing. Records that Object was not given are
// a Gap of the dump. Close does not close the underlying writer.
func (w *Writer) Close(s *inventory.Snapshot) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, kind := range sortedKeys(w.pending) {
		w.flush(kind)
	}
	h := header{APIVersion: headerVersion, Kind: "Dump", TakenAt: s.Taken.UTC(), Objects: w.objects}
	for _, g := range slices.Concat(s.Gaps, w.missing(s)) {
		h.Gaps = append(h.Gaps, headerGap{Kind: g.Kind, Reason: Scrub(g.Reason)})
	}
	h.Complete = len(h.Gaps) == 0
	for _, ref := range s.OtherSecrets {
		if h.OtherSecrets == nil {
			h.OtherSecrets = map[string][]string{}
		}
		h.OtherSecrets[ref.Namespace] = append(h.OtherSecrets[ref.Namespace], ref.Name)
	}
	h.References = w.references(s)
	if w.err != nil {
		return w.err
	}
	out, err := yaml.Marshal(h)
	if err != nil {
		return err
	}
	w.member("dump.yaml", append([]byte("# A dump of certherd: a cluster's certificates without their keys (docs/dump.md).\n"), out...))
	if w.err != nil {
		return w.err
	}
	if w.err = w.tar.Close(); w.err == nil {
		w.err = w.gz.Close()
	}
	return w.err
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// missing are Gaps for the records of s that were not written.
func (w *Writer) missing(s *inventory.Snapshot) []inventory.Gap {
	count := map[string]int{}
	see := func(m *inventory.Meta) {
		if _, ok := w.written[m.Ref]; !ok {
			count[gapKind(m.Ref.Group, m.Ref.Kind)]++
		}
	}
	s.EachMeta(see)
	var out []inventory.Gap
	for _, kind := range sortedKeys(count) {
		out = append(out, inventory.Gap{Kind: kind, Reason: fmt.Sprintf("%d objects are missing in the dump", count[kind])})
	}
	return out
}

// references writes the edges that reading the objects of the dump does not
// show, and returns how many they are.
func (w *Writer) references(s *inventory.Snapshot) int {
	shown := map[inventory.Edge]bool{}
	for i := range s.Consumers {
		x := &s.Consumers[i]
		for _, t := range x.TLS {
			shown[inventory.Edge{From: x.Ref, To: t.Secret, Field: t.Field, Via: inventory.Field}] = true
		}
	}
	// What a field names need be no name: anything may stand there.
	clean := map[string]string{}
	scrubbed := func(s string) string {
		v, ok := clean[s]
		if !ok {
			v = Scrub(s)
			clean[s] = v
		}
		return v
	}
	refOf := func(r inventory.Ref) refJSON {
		return refJSON{Group: scrubbed(r.Group), Kind: scrubbed(r.Kind), Namespace: scrubbed(r.Namespace), Name: scrubbed(r.Name)}
	}
	var b bytes.Buffer
	total, files := 0, 0
	end := func() {
		if b.Len() > 0 {
			files++
			b.WriteString("\n]}\n")
			w.member(fmt.Sprintf("references-%03d.json", files), b.Bytes())
			b.Reset()
		}
	}
	for _, e := range s.Edges() {
		// Edges from nowhere are built into certherd.
		if e.From.IsZero() || shown[e] {
			continue
		}
		x := reference{From: refOf(e.From), To: refOf(e.To), Field: scrubbed(e.Field), How: e.Via}
		line, err := stdjson.Marshal(x)
		if err != nil {
			w.err = err
			return total
		}
		if b.Len() == 0 {
			fmt.Fprintf(&b, "{\"apiVersion\":%q,\"kind\":\"ReferenceList\",\"items\":[\n", headerVersion)
		} else {
			b.WriteString(",\n")
		}
		b.Write(line)
		total++
		if b.Len() >= memberSize {
			end()
		}
	}
	end()
	return total
}

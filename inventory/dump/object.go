package dump

import (
	"bytes"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	yaml3 "go.yaml.in/yaml/v3"
	"sigs.k8s.io/yaml"

	"github.com/certherd/certherd/inventory"
)

// object is a document with its top level taken apart.
type object map[string]jsontext.Value

// lenient reads JSON as the Kubernetes decoders do: names may come twice, the
// last one counts.
var lenient = json.JoinOptions(jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))

func parseObject(v jsontext.Value) (object, error) {
	if v.Kind() != '{' {
		return nil, errors.New("it is a single value or a list, with no fields")
	}
	var o object
	if err := json.Unmarshal(v, &o, lenient); err != nil {
		return nil, err
	}
	return o, nil
}

// text returns a field that is a string, "" if it is not there or no string.
func (o object) text(key string) string {
	v := o[key]
	if v.Kind() != '"' {
		return ""
	}
	var s string
	if json.Unmarshal(v, &s, lenient) != nil {
		return ""
	}
	return s
}

// fields returns a field that is an object, nil if it is not.
func (o object) fields(key string) object {
	if o[key].Kind() != '{' {
		return nil
	}
	f, _ := parseObject(o[key])
	return f
}

// elements takes an array apart.
func elements(v jsontext.Value) []jsontext.Value {
	if v.Kind() != '[' {
		return nil
	}
	var out []jsontext.Value
	if json.Unmarshal(v, &out, lenient) != nil {
		return nil
	}
	return out
}

// groupOf is the group of an apiVersion: group/version, or version alone for
// the core group.
func groupOf(apiVersion string) string {
	group, _, ok := strings.Cut(apiVersion, "/")
	if !ok {
		return ""
	}
	return group
}

func versionOf(apiVersion string) string {
	return apiVersion[strings.LastIndexByte(apiVersion, '/')+1:]
}

// notReferring are kinds that tell what happened, and use nothing: an Event
// about a Secret keeps it from nothing.
func notReferring(group, kind string) bool {
	return kind == "Event" && (group == "" || group == "events.k8s.io")
}

// document takes one object: it notes what it is, leaves out what nobody needs
// or nobody may see, and puts the rest into the spool.
func (r *reader) document(file string, line int, o object, l *list) {
	if len(o) == 0 {
		return
	}
	apiVersion, kind := o.text("apiVersion"), o.text("kind")
	if l == nil && (apiVersion == "" || kind == "") {
		r.broken(file, line, anyKind, "not a Kubernetes object: it has no apiVersion and kind")
		return
	}
	group := groupOf(apiVersion)
	if group == headerGroup && apiVersion != headerVersion && (kind == "Dump" || kind == "Reference") {
		r.broken(file, line, anyKind, fmt.Sprintf("the dump is of version %s, which this certherd does not know; it knows %s", apiVersion, headerVersion))
		return
	}
	switch {
	case group == headerGroup && kind == "Dump":
		r.header(file, line, o)
		return
	case group == headerGroup && (kind == "Reference" || kind == "" && l != nil && l.kind == "ReferenceList"):
		r.reference(file, line, o)
		return
	case group == "" && kind == "Status":
		r.broken(file, line, anyKind, "the API server's error, and not what was asked for: "+o.text("message"))
		return
	case group == "meta.k8s.io":
		r.broken(file, line, anyKind, "a "+kind+" does not tell of which kind its objects are; ask for them with -o yaml or -o json")
		return
	}
	r.objects++
	metadata := o.fields("metadata")
	r.times(metadata, o.fields("status"))
	if notReferring(group, kind) {
		return
	}
	if err := reduce(o, metadata, kind); err != nil {
		r.broken(file, line, gapKind(group, kind), plain(err))
		return
	}
	doc, err := json.Marshal(o, lenient, json.Deterministic(true))
	if err != nil {
		r.broken(file, line, gapKind(group, kind), plain(err))
		return
	}
	at, err := r.spool.add(doc)
	if err != nil {
		r.broken(file, line, gapKind(group, kind), err.Error())
		return
	}
	e := entry{
		ref:     inventory.Ref{Group: r.str(group), Kind: r.str(kind), Namespace: r.str(metadata.text("namespace")), Name: strings.Clone(metadata.text("name"))},
		version: metadata.text("resourceVersion"),
		served:  r.str(versionOf(apiVersion)),
		file:    file, line: line, at: at,
	}
	if apiVersion == "" || kind == "" {
		e.list, e.noGroup = l, apiVersion == ""
	}
	r.entries = append(r.entries, e)
}

// list notes a list whose items have been read.
func (r *reader) list(l *list) {
	r.lists++
	kind, ok := strings.CutSuffix(l.kind, "List")
	if ok && kind != "" {
		r.seen[[2]string{groupOf(l.apiVersion), kind}] = true
	}
}

// applied are annotations that hold a copy of the whole object, for whoever applied it. No
// reference stands there alone, and of a Secret they hold the keys.
func applied(key string) bool {
	return strings.Contains(key, "last-applied") || key == "objectset.rio.cattle.io/applied"
}

// reduce takes out of an object what has no place in memory: the history of its
// fields, copies of itself, and of a Secret everything but its metadata, its
// type and its first certificate.
func reduce(o, metadata object, kind string) error {
	changed := false
	if _, ok := metadata["managedFields"]; ok {
		writers, err := writersOf(metadata, kind)
		if err != nil {
			return err
		}
		if delete(metadata, "managedFields"); writers != nil {
			metadata["managedFields"] = writers
		}
		changed = true
	}
	if annotations := metadata.fields("annotations"); annotations != nil {
		for k := range annotations {
			if applied(k) {
				delete(annotations, k)
				changed = true
			}
		}
		if changed {
			v, err := json.Marshal(annotations, lenient, json.Deterministic(true))
			if err != nil {
				return err
			}
			metadata["annotations"] = v
		}
	}
	if changed {
		v, err := json.Marshal(metadata, lenient, json.Deterministic(true))
		if err != nil {
			return err
		}
		o["metadata"] = v
	}
	// A Secret in a list without kinds is told by its fields: no other core
	// kind has both.
	if kind == "Secret" || kind == "" && o["data"] != nil && o["type"].Kind() == '"' {
		crt := firstCertificate(o.fields("data").text("tls.crt"))
		for k := range o {
			switch k {
			case "apiVersion", "kind", "metadata", "type":
			default:
				delete(o, k)
			}
		}
		if crt != nil {
			v, err := json.Marshal(map[string]string{"tls.crt": base64.StdEncoding.EncodeToString(crt)})
			if err != nil {
				return err
			}
			o["data"] = v
		}
	}
	return nil
}

// writersOf are who wrote to an object, and when, where inventory asks for that; nil
// for nobody.
func writersOf(metadata object, kind string) (jsontext.Value, error) {
	type writer struct {
		Manager     string `json:"manager,omitempty"`
		Time        string `json:"time,omitempty"`
		Subresource string `json:"subresource,omitempty"`
	}
	var out []writer
	if kind == "Secret" || kind == "Certificate" || kind == "" {
		for _, v := range elements(metadata["managedFields"]) {
			if f, err := parseObject(v); err == nil {
				out = append(out, writer{f.text("manager"), f.text("time"), f.text("subresource")})
			}
		}
	}
	if out == nil {
		return nil, nil
	}
	return json.Marshal(out, lenient)
}

// firstCertificate returns the first certificate of a chain in base64, as PEM and
// without anything that stood beside it; nil if it is none. What is not read
// further, inventory does not read either.
func firstCertificate(data string) []byte {
	if crts := certificates(data); len(crts) > 0 {
		return crts[0]
	}
	return nil
}

// certificates are those of a chain in base64, each as PEM and without anything
// that stood beside it, up to the first that is none.
func certificates(data string) [][]byte {
	chain, err := base64.StdEncoding.DecodeString(data)
	if err != nil {
		return nil
	}
	var out [][]byte
	for {
		var block *pem.Block
		if block, chain = pem.Decode(chain); block == nil {
			return out
		}
		if block.Type == "CERTIFICATE" {
			if _, err := x509.ParseCertificate(block.Bytes); err != nil || HasPrivateKey(string(block.Bytes)) {
				return out
			}
			out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: block.Bytes}))
		}
	}
}

// times finds the newest time that an object tells.
func (r *reader) times(metadata, status object) {
	see := func(s string) {
		if t, err := time.Parse(time.RFC3339, s); err == nil && t.After(r.newest) {
			r.newest = t.UTC()
		}
	}
	see(metadata.text("creationTimestamp"))
	for _, v := range elements(metadata["managedFields"]) {
		if f, err := parseObject(v); err == nil {
			see(f.text("time"))
		}
	}
	for _, v := range elements(status["conditions"]) {
		if c, err := parseObject(v); err == nil {
			for _, k := range []string{"lastTransitionTime", "lastUpdateTime", "lastHeartbeatTime", "lastProbeTime"} {
				see(c.text(k))
			}
		}
	}
}

// aliases finds what could be a YAML alias.
var aliases = regexp.MustCompile(`(^|[\s\[{,:-])\*[^\s*]`)

// yamlToJSON reads one YAML document the way kubectl does.
func yamlToJSON(text []byte) (v jsontext.Value, err error) {
	defer func() {
		if p := recover(); p != nil {
			v, err = nil, fmt.Errorf("the YAML reader failed: %v", p)
		}
	}()
	if bytes.IndexByte(text, '&') >= 0 && aliases.Match(text) {
		var node yaml3.Node
		if err := yaml3.Unmarshal(text, &node); err != nil {
			return nil, err
		}
		if unfolded(&node, map[*yaml3.Node]int64{}) > int64(maxDocument) {
			return nil, fmt.Errorf("%w: with its aliases in place a document has more than %d MiB", errLimit, maxDocument>>20)
		}
	}
	out, err := yaml.YAMLToJSON(text)
	return out, err
}

// unfolded is about how many bytes a node has when every alias is replaced by what
// it stands for.
func unfolded(n *yaml3.Node, known map[*yaml3.Node]int64) int64 {
	if size, ok := known[n]; ok {
		return size
	}
	// An alias of a node that it stands in has no end.
	known[n] = endless
	size := int64(len(n.Value)) + 4
	if n.Alias != nil {
		size += unfolded(n.Alias, known)
	}
	for _, c := range n.Content {
		size = min(endless, size+unfolded(c, known))
	}
	known[n] = size
	return size
}

const endless = int64(1) << 50

var (
	kindLine    = regexp.MustCompile(`(?m)^(?:- |  |)"?kind"?:[ \t]*"?([A-Za-z0-9]+)"?,?[ \t]*\r?$`)
	versionLine = regexp.MustCompile(`(?m)^(?:- |  |)"?apiVersion"?:[ \t]*"?([-A-Za-z0-9./]+)"?,?[ \t]*\r?$`)
)

// sniffKind guesses the kind of a document that cannot be read, as gapKind
// writes it. Two different guesses are none.
func sniffKind(text []byte) string {
	one := func(re *regexp.Regexp) string {
		all := re.FindAllSubmatch(text, 2)
		if len(all) != 1 {
			return ""
		}
		return string(all[0][1])
	}
	kind, version := one(kindLine), one(versionLine)
	if kind == "" || version == "" || kind == "List" {
		return anyKind
	}
	return gapKind(groupOf(version), kind)
}

package dump

import (
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/certherd/certherd/inventory"
)

// The header is a document of its own among those of a dump. It may be
// written by hand.
const (
	headerGroup   = "certherd.dev"
	headerVersion = headerGroup + "/v1alpha1"
)

// header says what the objects of a dump do not. It is the document of kind Dump.
type header struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	// TakenAt is when the cluster was looked at.
	TakenAt time.Time `json:"takenAt,omitzero"`
	// Complete is true when the dump shows everything that could be a
	// reference: each object itself, or what it refers to. It is false
	// when Gaps lists what is missing.
	Complete bool `json:"complete"`
	// Objects and References are how many there are in the dump, so that a lost
	// part of it is noticed. 0 is not checked.
	Objects    int         `json:"objects,omitzero"`
	References int         `json:"references,omitzero"`
	Gaps       []headerGap `json:"gaps,omitempty"`
	// OtherSecrets are the names of the Secrets without certificates, by
	// namespace.
	OtherSecrets map[string][]string `json:"otherSecrets,omitempty"`
}

type headerGap struct {
	Kind   string `json:"kind"`
	Reason string `json:"reason"`
}

// reference is an edge from an object that is not in the dump. References are the
// items of documents of kind ReferenceList.
type reference struct {
	From  refJSON            `json:"from"`
	To    refJSON            `json:"to"`
	Field string             `json:"field"`
	How   inventory.Evidence `json:"how"`
}

type refJSON struct {
	Group     string `json:"group,omitempty"`
	Kind      string `json:"kind"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
}

func (r *reader) header(file string, line int, o object) {
	var h header
	if err := decode(o, &h); err != nil {
		r.broken(file, line, anyKind, "read the header: "+plain(err))
		return
	}
	r.headers = append(r.headers, h)
}

func (r *reader) reference(file string, line int, o object) {
	var x reference
	if err := decode(o, &x); err != nil {
		r.broken(file, line, anyKind, "read a reference: "+plain(err))
		return
	}
	how := x.How
	switch how {
	case inventory.Field, inventory.Mention, inventory.Label, inventory.Owner:
	default:
		r.broken(file, line, anyKind, "read a reference: how is "+string(how)+", and not field, mention, label or owner")
		return
	}
	if x.To.Name == "" || x.From.Name == "" && x.From.Kind == "" {
		r.broken(file, line, anyKind, "read a reference: from and to need a kind and a name")
		return
	}
	r.edges = append(r.edges, inventory.Edge{From: r.ref(x.From), To: r.ref(x.To), Field: r.str(x.Field), Via: how})
}

func (r *reader) ref(x refJSON) inventory.Ref {
	return inventory.Ref{Group: r.str(x.Group), Kind: r.str(x.Kind), Namespace: r.str(x.Namespace), Name: r.str(x.Name)}
}

func decode(o object, to any) error {
	doc, err := json.Marshal(o, lenient)
	if err != nil {
		return err
	}
	return json.Unmarshal(doc, to, lenient)
}

// canonical is an object of the spool in a form in which equal objects are
// equal.
func (r *reader) canonical(i int) (string, error) {
	doc, err := r.spool.get(r.entries[i].at, nil)
	if err != nil {
		return "", err
	}
	v := jsontext.Value(doc)
	if v.Canonicalize(jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true), jsontext.CanonicalizeRawInts(false)) != nil {
		return string(doc), nil
	}
	return string(v), nil
}

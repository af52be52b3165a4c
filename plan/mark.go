package plan

import (
	"time"

	"github.com/certherd/certherd/inventory"
)

// The annotations of a retired Secret. They are metadata of a field manager of
// its own: cert-manager, which owns what it applied to a Secret and nothing else
// (internal/controller/certificates/policies/checks.go there), leaves them alone.
const (
	// RetiredReason is the Reason of the finding that led to it. It is a word and
	// no sentence: a name in an annotation would count as a mention of it.
	RetiredReason = "certherd.dev/retired-reason"
	// RetiredAt and DeleteAfter are times (RFC 3339).
	RetiredAt   = "certherd.dev/retired-at"
	DeleteAfter = "certherd.dev/delete-after"
)

// Mark is what the annotations of a retired Secret say.
type Mark struct {
	Reason                 Reason
	RetiredAt, DeleteAfter time.Time
}

// MarkOf reads the mark of a Secret. ok is false where there is none, and where
// there is one that must not count: a time that is none, a date of deletion
// before the retirement, or a retirement before the Secret was made. The last
// is that of a Secret which came back from a backup, or was copied with its
// annotations: its grace period has to begin anew.
func MarkOf(m *inventory.Meta) (mark Mark, ok bool) {
	at, err := time.Parse(time.RFC3339, m.Annotation(RetiredAt))
	if err != nil {
		return Mark{}, false
	}
	until, err := time.Parse(time.RFC3339, m.Annotation(DeleteAfter))
	// The API server gives times of creation in whole seconds, cut off.
	if err != nil || until.Before(at) || at.Before(m.Created.Truncate(time.Second)) {
		return Mark{}, false
	}
	return Mark{Reason: Reason(m.Annotation(RetiredReason)), RetiredAt: at, DeleteAfter: until}, true
}

// Marked reports whether a Secret has any annotation of a mark, be it valid or
// not.
func Marked(m *inventory.Meta) bool {
	return m.Annotation(RetiredReason) != "" || m.Annotation(RetiredAt) != "" || m.Annotation(DeleteAfter) != ""
}

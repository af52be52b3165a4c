package proposal

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/certherd/certherd/api/v1alpha1"
	"github.com/certherd/certherd/gate"
)

// decisionAnnotation tells who has decided what is in the spec, and why, as JSON of
// a Decision.
const decisionAnnotation = "certherd.dev/decision"

// What can be decided about a Consolidation.
const (
	DecidedApprove = "approve"
	DecidedReject  = "reject"
	DecidedUndo    = "undo"
	DecidedForget  = "forget" // all of the others
)

// Author is who decides, and why.
type Author struct {
	// By is whom the API server takes the person for, by their own program.
	By string `json:"by"`
	// Reason is in their own words, and may be empty.
	Reason string `json:"reason,omitempty"`
}

// Decision is what was decided last about a Consolidation.
type Decision struct {
	What string `json:"what"`
	Author
	Time time.Time `json:"time"`
	// Digest is what was approved.
	Digest string `json:"digest,omitempty"`
}

// DecisionOf returns what was decided about c; ok is false when nothing was. Of what
// another tool has set, such as kubectl, nobody but that tool is known
// (metadata.managedFields).
func DecisionOf(c *v1alpha1.Consolidation) (d Decision, ok bool) {
	now := Decision{What: DecidedForget}
	field := ""
	switch {
	case c.Spec.Undo:
		now.What, field = DecidedUndo, "f:undo"
	case c.Spec.Rejected:
		now.What, field = DecidedReject, "f:rejected"
	case c.Spec.ApprovedDigest != "":
		now.What, now.Digest, field = DecidedApprove, c.Spec.ApprovedDigest, "f:approvedDigest"
	}
	if json.Unmarshal([]byte(c.Annotations[decisionAnnotation]), &d) == nil && d.What == now.What && d.Digest == now.Digest {
		return d, true
	}
	if now.What == DecidedForget {
		return Decision{}, false // or with another tool, and nothing tells of it
	}
	now.By = "somebody unknown"
	for _, m := range c.ManagedFields {
		if m.FieldsV1 != nil && m.Time != nil && strings.Contains(m.FieldsV1.GetRawString(), `"`+field+`"`) && !m.Time.Time.Before(now.Time) {
			now.By, now.Time = "somebody with "+m.Manager, m.Time.UTC()
		}
	}
	return now, true
}

// annotation is how a decision is kept.
func (d Decision) annotation() (map[string]string, error) {
	b, err := json.Marshal(d)
	return map[string]string{decisionAnnotation: string(b)}, err
}

// Token names a Consolidation in its present state: NAMESPACE/NAME@DIGEST.
func Token(c *v1alpha1.Consolidation) string {
	return gate.Token(c.Namespace+"/"+c.Name, c.Status.Digest)
}

// Approvable says why a Consolidation cannot be approved, or not in the state that
// pin, the beginning of a digest, is of; nil if nothing is in the way. Without pinned
// any state will do.
func Approvable(c *v1alpha1.Consolidation, pin string, pinned bool) error {
	name := c.Namespace + "/" + c.Name
	switch p := c.Status.Phase; {
	case p.Executing():
		return fmt.Errorf("%s is being carried out already: %s", name, p)
	case p.Ended():
		return fmt.Errorf("%s is over: %s. To have it proposed once more: certherd reject --forget %s", name, p, name)
	case p == v1alpha1.Withdrawn:
		return fmt.Errorf("%s is not proposed any more", name)
	case c.Status.Digest == "" || c.Status.Digest != c.Spec.Digest():
		return fmt.Errorf("certherd has not looked at %s as it is now: wait until status.digest is that of what it proposes", name)
	case pinned && (len(pin) < 6 || !strings.HasPrefix(c.Status.Digest, pin)):
		return fmt.Errorf("%s is not in the state that you looked at, %s@%s: it is %s. Look again: kubectl describe consolidation -n %s %s", name, name, pin, Token(c), c.Namespace, c.Name)
	}
	return nil
}

// Undecided reports whether a person has changed something of a Consolidation that
// was not looked at yet, so that a round is worth while.
func Undecided(c *v1alpha1.Consolidation) bool {
	return !c.Status.Phase.Executing() && c.Status.ObservedGeneration != c.Generation && c.Status.Phase != v1alpha1.Done
}

// now is the clock, in what is kept.
func (p *Proposer) now() time.Time { return p.o.Now().UTC().Truncate(time.Second) }

// stamp is now, for status.
func (p *Proposer) stamp() metav1.Time { return metav1.NewTime(p.now()) }

// Package plan is what the checks find and what would mend it: values that say
// why, in order, and that can be verified before anything is done. It is pure.
package plan

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/certherd/certherd/inventory"
)

// Reason names what a check finds. docs/reasons.md has an entry for each.
type Reason string

// The reasons, in the order in which reports show them.
const (
	MissingSecret         Reason = "MissingSecret"
	SharedSecretName      Reason = "SharedSecretName"
	UnrenewedSecret       Reason = "UnrenewedSecret"
	OrphanedSecret        Reason = "OrphanedSecret"
	OrphanedCertificate   Reason = "OrphanedCertificate"
	SupersededCertificate Reason = "SupersededCertificate"
	DuplicateCertificate  Reason = "DuplicateCertificate"
	CoveredCertificate    Reason = "CoveredCertificate"
	ExpiredUnused         Reason = "ExpiredUnused"
	RequestResidue        Reason = "RequestResidue"
	RetiredInUse          Reason = "RetiredInUse"
	Consolidatable        Reason = "Consolidatable"
	NotConsolidatable     Reason = "NotConsolidatable"
	RenewalStorm          Reason = "RenewalStorm"
	ScatteredRenewals     Reason = "ScatteredRenewals"
	GatewayMemory         Reason = "GatewayMemory"
	DrainHazard           Reason = "DrainHazard"
)

// Check is one thing that can be found. Doc says in one sentence what it means
// when it is found; a check without it is not registered. Run is pure.
type Check struct {
	Reason Reason
	Doc    string
	// Serious is true where traffic is, or soon may be, at risk.
	Serious bool
	Run     func(*inventory.Snapshot) []Finding
}

// Finding is one case of a Check.
type Finding struct {
	Reason  Reason
	Object  inventory.Ref
	Message string
	// Verdict and Evidence are those on Object (see inventory.Judgement).
	Verdict  inventory.Verdict
	Evidence []inventory.Edge
	Related  []inventory.Ref
	// Wildcard is the DNS name that a consolidation would issue.
	Wildcard string
	// Fix is what would mend it, in order; none where nothing may be done, or
	// where a person has to decide.
	Fix []Step
	// Hold says why Fix must not be carried out by certherd itself, for example
	// because a GitOps tool would undo it. Empty when nothing speaks against it.
	Hold string
}

// Action is what a Step does.
type Action string

const (
	Issue  Action = "issue"  // create the object and let its controller issue
	Await  Action = "await"  // go on only when the object is Ready and verified
	Switch Action = "switch" // make the object name To instead of what it names
	Retire Action = "retire" // mark, and leave for the grace period
	Delete Action = "delete"
	// Renew has the object issued anew before it is due.
	Renew Action = "renew"
	// Unretire takes the mark away again. It changes nothing that anybody uses.
	Unretire Action = "unretire"
)

// Step is one write, or one wait.
type Step struct {
	Action Action
	Object inventory.Ref
	// Move is nil but for Issue, Await and Switch.
	Move *Move
	// If is the object as it was looked at: the precondition of the write.
	If inventory.Version
}

// Move is what a Step does with Secrets. Steps that need none are by far the most.
type Move struct {
	// From and To are the Secrets that a Switch leaves and takes. For Issue, To
	// is the Secret that the issued certificate will be in.
	From, To inventory.Ref
	// Hosts are those that an Issue covers.
	Hosts []string
}

// From is that of Move, zero where there is none.
func (s Step) From() inventory.Ref {
	if s.Move == nil {
		return inventory.Ref{}
	}
	return s.Move.From
}

// To is that of Move, zero where there is none.
func (s Step) To() inventory.Ref {
	if s.Move == nil {
		return inventory.Ref{}
	}
	return s.Move.To
}

// Hosts are those of Move, nil where there is none.
func (s Step) Hosts() []string {
	if s.Move == nil {
		return nil
	}
	return s.Move.Hosts
}

// Change is the Fix of one Finding. It stops at the first step that fails.
type Change struct {
	ID    string
	Why   *Finding
	Steps []Step
}

// Plan is what one round found, and what it would do.
type Plan struct {
	Findings []Finding
	Changes  []Change
}

// New runs checks and orders what they find. The same snapshot and checks give
// the same Plan.
func New(s *inventory.Snapshot, checks []Check) Plan { return Plan{}.And(s, checks) }

// And adds what more checks find, after what is there.
func (p Plan) And(s *inventory.Snapshot, checks []Check) Plan {
	// A Snapshot does not change, so the checks need not wait for each other.
	parts := make([][]Finding, len(checks))
	var running sync.WaitGroup
	order := map[Reason]int{}
	for i, c := range checks {
		if c.Doc == "" || c.Reason == "" {
			panic("plan: check " + string(c.Reason) + " is not documented")
		}
		order[c.Reason] = i
		running.Go(func() { parts[i] = c.Run(s) })
	}
	running.Wait()
	var found []Finding
	if len(parts) == 1 {
		found = parts[0]
	} else {
		found = slices.Concat(parts...)
	}
	slices.SortStableFunc(found, func(a, b Finding) int {
		if a.Reason != b.Reason {
			return order[a.Reason] - order[b.Reason]
		}
		if c := a.Object.Compare(b.Object); c != 0 {
			return c
		}
		return strings.Compare(a.Message, b.Message)
	})
	n := 0
	for i := range found {
		if len(found[i].Fix) > 0 {
			n++
		}
	}
	p.Changes = slices.Grow(slices.Clip(p.Changes), n)
	var text []byte
	for i := range found {
		if f := &found[i]; len(f.Fix) > 0 {
			text = appendFix(text[:0], f)
			p.Changes = append(p.Changes, Change{ID: id(text), Why: f, Steps: f.Fix})
		}
	}
	switch {
	case len(p.Findings) == 0:
		p.Findings = found
	case len(found) > 0:
		p.Findings = slices.Concat(p.Findings, found)
	}
	return p
}

// id names a change by what it does (see appendFix), so that the same change has
// the same ID in the next round.
func id(text []byte) string {
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:5])
}

// appendFix adds a line for what a Finding is about, and one for each step of its
// Fix, to b.
func appendFix(b []byte, f *Finding) []byte {
	b = append(append(b, f.Reason...), ' ')
	b = append(f.Object.Append(b), ' ')
	b = append(append(b, f.Wildcard...), '\n')
	for i := range f.Fix {
		s := &f.Fix[i]
		b = append(append(b, s.Action...), ' ')
		b = append(s.Object.Append(b), ' ')
		b = append(s.From().Append(b), ' ')
		b = append(s.To().Append(b), '\n')
	}
	return b
}

// Digest is equal for plans that would do the same to the same versions of the
// same objects. An approval names it, so that it holds for that state alone.
func (p Plan) Digest() string {
	h := sha256.New()
	for _, c := range p.Changes {
		fmt.Fprintln(h, c.ID)
		for _, s := range c.Steps {
			fmt.Fprintln(h, s.Action, s.Object, s.From(), s.To(), s.If, s.Hosts())
		}
	}
	return hex.EncodeToString(h.Sum(nil))
}

// Verify walks through every change on its own and proves that each user keeps
// a live certificate in every state in between. The error names the first step
// that would take one away.
func (p Plan) Verify(s *inventory.Snapshot) error {
	for _, c := range p.Changes {
		if err := verify(s, c); err != nil {
			return fmt.Errorf("change %s (%s %s): %w", c.ID, c.Why.Reason, c.Why.Object, err)
		}
	}
	return nil
}

// writes tells which Secret a certificate object writes, and the names that it
// has once the object is Ready, whether or not Secrets could be read; zero when
// the object does not exist.
func writes(s *inventory.Snapshot, object inventory.Ref) (secret inventory.Ref, names []string) {
	if x := s.Certificate(object); x != nil {
		return x.Secret, x.Names.DNS
	}
	if x := s.KnativeCertificate(object); x != nil {
		return x.Secret, x.Names.DNS
	}
	return inventory.Ref{}, nil
}

func verify(s *inventory.Snapshot, c Change) error {
	issued := map[inventory.Ref]Step{} // object -> its Issue step
	live := map[inventory.Ref][]string{}
	switches := 0
	for i := range c.Steps {
		if c.Steps[i].Action == Switch {
			switches++
		}
	}
	moved := make(map[[2]inventory.Ref]bool, switches) // consumer, Secret it has left
	gone := map[inventory.Ref]bool{}                   // deleted Certificates
	for i, step := range c.Steps {
		fail := func(format string, a ...any) error {
			return fmt.Errorf("step %d, %s %s: %s", i+1, step.Action, step.Object, fmt.Sprintf(format, a...))
		}
		switch step.Action {
		case Issue:
			if s.Exists(step.To()) && s.HasWriter(step.To()) {
				return fail("%s is written by somebody else", step.To())
			}
			issued[step.Object] = step
		case Await:
			if st, ok := issued[step.Object]; ok {
				live[st.To()] = st.Hosts()
			} else if secret, names := writes(s, step.Object); secret == step.To() && len(names) > 0 {
				live[secret] = names
			}
		case Switch:
			names, ok := live[step.To()]
			if !ok {
				if !s.Exists(step.To()) {
					return fail("%s is not there yet", step.To())
				}
				names = namesOf(s, step.To())
			}
			if x := s.Consumer(step.Object); x != nil {
				for _, t := range x.TLS {
					if t.Secret == step.From() && len(t.Hosts) > 0 && !inventory.CoversAll(names, t.Hosts) {
						return fail("%s does not cover %s", step.To(), strings.Join(t.Hosts, ", "))
					}
				}
			}
			moved[[2]inventory.Ref{step.Object, step.From()}] = true
		case Retire, Delete:
			switch {
			case i > 0 && c.Steps[i-1].Action == Retire && c.Steps[i-1].Object == step.Object:
				// What may be retired may be deleted.
			case step.Object.Kind == "Secret" && step.Object.Group == "":
				for w := range s.EachWriter(step.Object) {
					if !gone[w] && !gone[knativeOwner(s, w)] {
						return fail("%s would write it again", w)
					}
				}
				for _, e := range s.To(step.Object) {
					if e.Via == inventory.Field && !moved[[2]inventory.Ref{e.From, step.Object}] && !s.Writes(e.From, step.Object) {
						return fail("%s still names it in %s", e.From, e.Field)
					}
				}
			case step.Object.Kind == "Certificate":
				secret, _ := writes(s, step.Object)
				for _, e := range s.To(secret) {
					if e.Via == inventory.Field && !moved[[2]inventory.Ref{e.From, secret}] && !s.Writes(e.From, secret) && !renewed(s, secret, step.Object, gone) {
						return fail("%s uses its Secret in %s, which nobody would renew", e.From, e.Field)
					}
				}
				gone[step.Object] = true
			}
		}
	}
	return nil
}

// renewed reports whether a Secret has a writer left when one more goes.
func renewed(s *inventory.Snapshot, secret, going inventory.Ref, gone map[inventory.Ref]bool) bool {
	for w := range s.EachWriter(secret) {
		if w != going && !gone[w] && knativeOwner(s, w) != going {
			return true
		}
	}
	return false
}

// knativeOwner is the Knative Certificate that a Certificate belongs to, and
// goes with.
func knativeOwner(s *inventory.Snapshot, w inventory.Ref) inventory.Ref {
	if x := s.Certificate(w); x != nil {
		if o, ok := x.ControlledBy(); ok {
			return o.Ref
		}
	}
	return inventory.Ref{}
}

func namesOf(s *inventory.Snapshot, secret inventory.Ref) []string {
	if x := s.Secret(secret); x != nil && len(x.Names.DNS) > 0 {
		return x.Names.DNS
	}
	for w := range s.EachWriter(secret) {
		if x := s.Certificate(w); x != nil {
			return x.Names.DNS
		}
	}
	return nil
}

// Package gc finds certificates that nobody needs any more: orphaned,
// superseded, duplicate, covered and expired ones, and what is left of
// requests. Each check is a small function named after what is wrong. It is pure.
package gc

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/certherd/certherd/inventory"
	"github.com/certherd/certherd/plan"
)

// Options are what the checks can be told.
type Options struct {
	// MinAge is how old an object must be before it can be called unused: a
	// Secret may exist a moment before the object that will name it.
	MinAge time.Duration
	// RequestAge is how long a request must have been final.
	RequestAge time.Duration
}

// Checks are the checks of this package, in the order of a report.
func Checks(o Options) []plan.Check {
	return []plan.Check{
		{Reason: plan.MissingSecret, Serious: true, Run: missingSecret,
			Doc: "An object makes a gateway serve a Secret that does not exist."},
		{Reason: plan.SharedSecretName, Serious: true, Run: sharedSecretName,
			Doc: "Two Certificates write the same Secret, so that each issues again what the other has issued."},
		{Reason: plan.UnrenewedSecret, Serious: true, Run: unrenewedSecret,
			Doc: "A Secret is in use, but the Certificate that wrote it is gone, so that nobody renews it."},
		{Reason: plan.OrphanedSecret, Run: o.orphanedSecret,
			Doc: "The Certificate that wrote a Secret is gone."},
		{Reason: plan.OrphanedCertificate, Run: o.orphanedCertificate,
			Doc: "Nobody uses the Secret that a Certificate keeps renewing."},
		{Reason: plan.SupersededCertificate, Run: o.supersededCertificate,
			Doc: "A per-service certificate is renewed although a wildcard serves its host by now."},
		{Reason: plan.DuplicateCertificate, Run: o.duplicateCertificate,
			Doc: "Two Certificates of one namespace have the same names, issuer and key."},
		{Reason: plan.CoveredCertificate, Run: coveredCertificate,
			Doc: "A wildcard Certificate that is Ready covers every name of another one."},
		{Reason: plan.ExpiredUnused, Run: o.expiredUnused,
			Doc: "A certificate has expired and nobody uses it."},
		{Reason: plan.RequestResidue, Run: o.requestResidue,
			Doc: "A finished CertificateRequest, Order or Challenge has no owner left that would take it away."},
		{Reason: plan.RetiredInUse, Run: retiredInUse,
			Doc: "A Secret is marked for deletion, and somebody uses it, or could, again."},
	}
}

// judge is the Snapshot's verdict, with the age of the object taken into
// account.
func (o Options) judge(s *inventory.Snapshot, m *inventory.Meta) inventory.Judgement {
	j := s.Judge(m.Ref)
	if j.Verdict != inventory.Unused {
		return j
	}
	if age := s.Taken.Sub(m.Created); age < o.MinAge {
		j.Verdict, j.Why = inventory.Unknown, fmt.Sprintf("it is only %s old", age.Round(time.Second))
	}
	return j
}

// finding makes a Finding with the verdict in its message.
func finding(r plan.Reason, ref inventory.Ref, j inventory.Judgement, message string, fix ...plan.Step) plan.Finding {
	f := plan.Finding{Reason: r, Object: ref, Verdict: j.Verdict, Evidence: j.Evidence}
	switch j.Verdict {
	case inventory.Unused:
		f.Fix = fix
	case inventory.Unknown:
		why := j.Why
		if why == "" && len(j.Evidence) > 0 {
			why = describe(j.Evidence)
		}
		message += "; whether anybody uses it is unknown: " + why
	}
	f.Message = message
	return f
}

func describe(edges []inventory.Edge) string {
	e := edges[0]
	var s string
	switch {
	case e.From.IsZero():
		s = e.Field
	case e.Via == inventory.Owner:
		s = e.From.String() + " owns it"
	case e.Via == inventory.Label:
		s = fmt.Sprintf("%s may select it (%s)", e.From, e.Field)
	default:
		s = fmt.Sprintf("%s could name it in %s", e.From, e.Field)
	}
	if n := len(edges) - 1; n > 0 {
		s += fmt.Sprintf(", and %d more", n)
	}
	return s
}

// missingSecret: the references that make a gateway serve a Secret which does
// not exist. Where Secrets were not read in full, nothing is missing.
func missingSecret(s *inventory.Snapshot) []plan.Finding {
	if s.HasGap("secret") {
		return nil
	}
	var out []plan.Finding
	missing := map[inventory.Ref][]inventory.Edge{}
	var order []inventory.Ref
	for i := range s.Consumers {
		x := &s.Consumers[i]
		for _, t := range x.TLS {
			if t.Secret.Name == "" || s.Exists(t.Secret) {
				continue
			}
			if _, ok := missing[t.Secret]; !ok {
				order = append(order, t.Secret)
			}
			e := inventory.Edge{From: x.Ref, To: t.Secret, Field: t.Field, Via: inventory.Field}
			if !slices.Contains(missing[t.Secret], e) {
				missing[t.Secret] = append(missing[t.Secret], e)
			}
		}
	}
	for _, ref := range order {
		edges := missing[ref]
		message := fmt.Sprintf("%s names it, and it does not exist", edges[0].From)
		if n := len(edges) - 1; n > 0 {
			message = fmt.Sprintf("%s and %d more name it, and it does not exist", edges[0].From, n)
		}
		switch writers := s.Writers(ref); {
		case len(writers) > 0:
			message += fmt.Sprintf("; %s will make it once it is issued", writers[0])
		case edges[0].From.Group == inventory.GroupKnativeNet:
			message += "; with Kourier this stops the controller at its next restart (net-kourier cmd/kourier, prewarm), so make the Secret or take the reference away first"
		default:
			message += "; its hosts have no certificate"
		}
		out = append(out, plan.Finding{Reason: plan.MissingSecret, Object: ref, Verdict: inventory.Used, Evidence: edges, Message: message, Related: froms(edges)})
	}
	return out
}

func froms(edges []inventory.Edge) []inventory.Ref {
	var out []inventory.Ref
	for _, e := range edges {
		if !e.From.IsZero() && !slices.Contains(out, e.From) {
			out = append(out, e.From)
		}
	}
	return out
}

func sharedSecretName(s *inventory.Snapshot) []plan.Finding {
	var out []plan.Finding
	done := map[inventory.Ref]bool{}
	for i := range s.Certificates {
		x := &s.Certificates[i]
		sharers := sharersOf(s, x.Secret)
		if sharers == nil || done[x.Secret] {
			continue
		}
		done[x.Secret] = true
		// cert-manager lets the one go on that the Secret names, and the others
		// wait (internal/controller/certificates/certificates.go, CertificateOwnsSecret).
		owner := "the oldest"
		if sec := s.Secret(x.Secret); sec != nil && sec.CertificateName != "" {
			owner = sec.CertificateName
		}
		j := s.Judge(x.Secret)
		out = append(out, plan.Finding{
			Reason: plan.SharedSecretName, Object: x.Secret, Verdict: j.Verdict, Evidence: j.Evidence, Related: sharers,
			Message: fmt.Sprintf("%s write it, and cert-manager renews for %s only; give each Certificate a Secret of its own, or delete all but one", names(sharers), owner),
		})
	}
	return out
}

// sharersOf are the Certificates that write a Secret, nil for less than two.
func sharersOf(s *inventory.Snapshot, secret inventory.Ref) []inventory.Ref {
	var first inventory.Ref
	var all []inventory.Ref
	for w := range s.EachWriter(secret) {
		switch {
		case w.Group != inventory.GroupCertManager:
		case first.IsZero():
			first = w
		case all == nil:
			all = []inventory.Ref{first, w}
		default:
			all = append(all, w)
		}
	}
	return all
}

func names(refs []inventory.Ref) string {
	var out []string
	for i, r := range refs {
		if i == 3 && len(refs) > 4 {
			out = append(out, fmt.Sprintf("%d more", len(refs)-3))
			break
		}
		out = append(out, r.Name)
	}
	if len(out) < 2 {
		return strings.Join(out, "")
	}
	return strings.Join(out[:len(out)-1], ", ") + " and " + out[len(out)-1]
}

// orphan reports whether a Secret's writer is gone, and says who that was.
func orphan(s *inventory.Snapshot, x *inventory.Secret) (string, bool) {
	if s.HasWriter(x.Ref) || x.NextPrivateKey || s.HasGap("certificate.cert-manager.io") {
		return "", false
	}
	switch {
	case x.Managed:
		what := "Certificate " + x.CertificateName + ", which wrote it"
		if len(x.Names.DNS) > 0 {
			what += " for " + x.Names.DNS[0]
			if n := len(x.Names.DNS) - 1; n > 0 {
				what += fmt.Sprintf(" and %d more", n)
			}
		}
		return what + ", is gone", true
	case x.CopyOf != nil && x.Label("networking.internal.knative.dev/originSecretName") != "" && !s.HasGap("secret") && !s.Exists(*x.CopyOf):
		return x.CopyOf.String() + ", of which net-istio made it as a copy, is gone", true
	}
	return "", false
}

func (o Options) orphanedSecret(s *inventory.Snapshot) []plan.Finding {
	var out []plan.Finding
	for i := range s.Secrets {
		x := &s.Secrets[i]
		why, ok := orphan(s, x)
		if !ok {
			continue
		}
		j := o.judge(s, &x.Meta)
		if j.Verdict == inventory.Used {
			continue // see unrenewedSecret
		}
		steps, since := collectAlone(s, x)
		f := finding(plan.OrphanedSecret, x.Ref, j, why+since, steps...)
		f.Hold = heldBy(&x.Meta)
		out = append(out, f)
	}
	return out
}

func unrenewedSecret(s *inventory.Snapshot) []plan.Finding {
	var out []plan.Finding
	for i := range s.Secrets {
		x := &s.Secrets[i]
		why, ok := orphan(s, x)
		if !ok {
			continue
		}
		j := s.Judge(x.Ref)
		if j.Verdict != inventory.Used {
			continue
		}
		f := finding(plan.UnrenewedSecret, x.Ref, j, fmt.Sprintf("%s uses it, but %s: it is served until it expires%s", j.Evidence[0].From, why, ending(x.NotAfter)))
		f.Related = froms(j.Evidence)
		out = append(out, f)
	}
	return out
}

func ending(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return " on " + t.UTC().Format(time.DateOnly)
}

// collect are the steps that take a Secret away together with what renews it.
// A mark that it may have is of an earlier time, and counts for nothing.
func collect(s *inventory.Snapshot, x *inventory.Secret) []plan.Step {
	if x == nil || !collectable(s, x) {
		return nil
	}
	return []plan.Step{
		{Action: plan.Retire, Object: x.Ref, If: x.Version},
		{Action: plan.Delete, Object: x.Ref, If: x.Version},
	}
}

// collectWith are the steps that take away what renews a Secret, and then the
// Secret.
func collectWith(s *inventory.Snapshot, m *inventory.Meta, secret inventory.Ref) []plan.Step {
	first := plan.Step{Action: plan.Delete, Object: m.Ref, If: m.Version}
	x := s.Secret(secret)
	if x == nil || !collectable(s, x) {
		return []plan.Step{first}
	}
	// Not by appending: there may be very many.
	return []plan.Step{first, {Action: plan.Retire, Object: x.Ref, If: x.Version}, {Action: plan.Delete, Object: x.Ref, If: x.Version}}
}

// collectAlone are the steps that take away a Secret that nothing renews, and
// what its mark says: nothing is to be done before its grace period has ended,
// and then it is deleted.
func collectAlone(s *inventory.Snapshot, x *inventory.Secret) ([]plan.Step, string) {
	steps := collect(s, x)
	mark, ok := plan.MarkOf(&x.Meta)
	if !ok || steps == nil {
		return steps, ""
	}
	since := "; retired on " + mark.RetiredAt.UTC().Format(time.DateOnly)
	if s.Taken.Before(mark.DeleteAfter) {
		return nil, since + ", and kept until " + mark.DeleteAfter.UTC().Format(timeFormat)
	}
	return steps[1:], since + ", and not used since"
}

const timeFormat = "2006-01-02 15:04 MST"

// retiredInUse: what is used again loses its mark, so that its grace period
// begins anew should it ever become unused again. What a Gap alone makes unknown
// keeps it: it is deleted only while everything can be read.
func retiredInUse(s *inventory.Snapshot) []plan.Finding {
	var out []plan.Finding
	for i := range s.Secrets {
		x := &s.Secrets[i]
		if !plan.Marked(&x.Meta) {
			continue
		}
		j := s.Judge(x.Ref)
		if j.Verdict == inventory.Unused || len(j.Evidence) == 0 {
			continue
		}
		message := "it is marked for deletion, but " + describe(j.Evidence)
		if j.Verdict == inventory.Used {
			message = fmt.Sprintf("it is marked for deletion, but %s uses it", j.Evidence[0].From)
		}
		f := plan.Finding{
			Reason: plan.RetiredInUse, Object: x.Ref, Verdict: j.Verdict, Evidence: j.Evidence, Related: froms(j.Evidence),
			Message: message + ": the mark is to go", Hold: heldBy(&x.Meta),
		}
		if !s.Ignored(&x.Meta) {
			f.Fix = []plan.Step{{Action: plan.Unretire, Object: x.Ref, If: x.Version}}
		}
		out = append(out, f)
	}
	return out
}

// collectable: hand-made Secrets are never taken away, whatever the verdict: only what cert-manager
// or net-istio has made can be made again.
func collectable(s *inventory.Snapshot, x *inventory.Secret) bool {
	return (x.Managed || x.Label("networking.internal.knative.dev/originSecretName") != "") && !x.NextPrivateKey && !s.Ignored(&x.Meta)
}

func heldBy(m *inventory.Meta) string {
	if m.ManagedBy != "" {
		return "managed by " + m.ManagedBy + ": take it out of what that applies"
	}
	return ""
}

func (o Options) orphanedCertificate(s *inventory.Snapshot) []plan.Finding {
	var out []plan.Finding
	for i := range s.Certificates {
		x := &s.Certificates[i]
		if c, ok := x.ControlledBy(); ok && c.Ref.Group == inventory.GroupKnativeNet {
			continue // judged with its Knative Certificate
		}
		j := o.judge(s, &x.Meta)
		if j.Verdict == inventory.Used {
			continue
		}
		message := "nobody uses its Secret " + x.Secret.Name
		if j.Verdict == inventory.Unknown {
			message = "no known field names its Secret " + x.Secret.Name
		}
		hold := heldBy(&x.Meta)
		if c, ok := x.ControlledBy(); ok && s.Lives(c) {
			message += ", and " + c.Ref.String() + ", for which it was made, has let go of it"
			if shim := s.Consumer(c.Ref); shim != nil && shim.Shim {
				hold = "cert-manager makes it again for " + c.Ref.String() + ": act there"
			}
		}
		fix := collectWith(s, &x.Meta, x.Secret)
		f := finding(plan.OrphanedCertificate, x.Ref, j, message, fix...)
		f.Related, f.Hold = []inventory.Ref{x.Secret}, hold
		out = append(out, f)
	}
	return out
}

// supersededCertificate: Knative keeps a per-route certificate as long as its
// host exists, whether or not a wildcard serves it
// (knative/serving pkg/reconciler/route/route.go, deleteOrphanRouteCerts), and that of
// a DomainMapping when spec.tls names another Secret
// (pkg/reconciler/domainmapping/reconciler.go, tls).
func (o Options) supersededCertificate(s *inventory.Snapshot) []plan.Finding {
	var left []*inventory.KnativeCertificate // a list of Findings that grows would leave very much garbage
	for i := range s.KnativeCertificates {
		if x := &s.KnativeCertificates[i]; !heirOf(s, x).IsZero() {
			left = append(left, x)
		}
	}
	out := make([]plan.Finding, 0, len(left))
	for _, x := range left {
		heir := heirOf(s, x)
		j := o.judge(s, &x.Meta)
		if j.Verdict == inventory.Used {
			continue // its Route has not moved yet
		}
		message := fmt.Sprintf("%s serves %s now; this one is still renewed", heir, strings.Join(x.Names.DNS, ", "))
		crt := inventory.CertificateRef(x.Ref.Namespace, x.Ref.Name)
		fix := collectWith(s, &x.Meta, x.Secret)
		f := finding(plan.SupersededCertificate, x.Ref, j, message, fix...)
		f.Related = append(make([]inventory.Ref, 0, 3), heir, x.Secret)
		if s.Certificate(crt) != nil {
			f.Related = append(f.Related, crt)
		}
		f.Hold = heldBy(&x.Meta)
		out = append(out, f)
	}
	return out
}

// heirOf is the Secret that serves the hosts of a per-route certificate in its
// place, zero when its own still does or nothing does.
func heirOf(s *inventory.Snapshot, x *inventory.KnativeCertificate) inventory.Ref {
	if x.WildcardDomain != "" || x.Type != "external-domain" {
		return inventory.Ref{}
	}
	if c, ok := x.ControlledBy(); !ok || c.Ref.Kind != "Route" && c.Ref.Kind != "DomainMapping" {
		return inventory.Ref{}
	}
	var heir inventory.Ref
	for _, host := range x.Names.DNS {
		served := s.Served(x.Ref.Namespace, host)
		if len(served) == 0 {
			return inventory.Ref{}
		}
		for _, h := range served {
			if h.Secret == x.Secret || !s.Exists(h.Secret) {
				return inventory.Ref{}
			}
			heir = h.Secret
		}
	}
	return heir
}

// duplicateCertificate groups by everything that makes certificates
// exchangeable. The one that is used, else Ready, else oldest, stays.
func (o Options) duplicateCertificate(s *inventory.Snapshot) []plan.Finding {
	var out []plan.Finding
	for _, group := range exchangeable(s) {
		judged := map[inventory.Ref]inventory.Judgement{}
		for _, x := range group {
			judged[x.Ref] = o.judge(s, &x.Meta)
		}
		slices.SortStableFunc(group, func(a, b *inventory.Certificate) int {
			rank := func(x *inventory.Certificate) int {
				switch judged[x.Ref].Verdict {
				case inventory.Used:
					return 0
				case inventory.Unknown:
					return 1
				}
				return 2
			}
			if d := rank(a) - rank(b); d != 0 {
				return d
			}
			if a.Ready != b.Ready {
				if a.Ready {
					return -1
				}
				return 1
			}
			if c := a.Created.Compare(b.Created); c != 0 {
				return c
			}
			return a.Ref.Compare(b.Ref)
		})
		stays := group[0]
		for _, x := range group[1:] {
			if x.Secret == stays.Secret {
				continue // see sharedSecretName
			}
			j := judged[x.Ref]
			f := finding(plan.DuplicateCertificate, x.Ref, j, fmt.Sprintf("same names, issuer and key as %s, which would stay", stays.Ref.Name))
			f.Related = []inventory.Ref{stays.Ref, x.Secret}
			if j.Verdict == inventory.Used {
				f.Message += "; move what uses it to Secret " + stays.Secret.Name + " first"
			}
			out = append(out, f)
		}
	}
	return out
}

// exchangeable are the groups of two Certificates or more in one namespace that
// have the same names, issuer and profile.
func exchangeable(s *inventory.Snapshot) [][]*inventory.Certificate {
	all := make([]*inventory.Certificate, 0, len(s.Certificates))
	for i := range s.Certificates {
		if x := &s.Certificates[i]; !x.Names.Empty() {
			all = append(all, x)
		}
	}
	compare := func(a, b *inventory.Certificate) int {
		if c := strings.Compare(a.Ref.Namespace, b.Ref.Namespace); c != 0 {
			return c
		}
		if c := a.Names.Compare(b.Names); c != 0 {
			return c
		}
		if c := strings.Compare(a.Profile, b.Profile); c != 0 {
			return c
		}
		return a.Issuer.Ref().Compare(b.Issuer.Ref())
	}
	slices.SortStableFunc(all, compare)
	var groups [][]*inventory.Certificate
	for from, to := 0, 1; from < len(all); from, to = to, to+1 {
		for to < len(all) && compare(all[from], all[to]) == 0 {
			to++
		}
		if to-from > 1 {
			groups = append(groups, all[from:to])
		}
	}
	return groups
}

// coveredCertificate: exact names keep winning over a wildcard at the gateway,
// so what is covered is still served until its users have moved.
func coveredCertificate(s *inventory.Snapshot) []plan.Finding {
	type key struct{ namespace, wildcard string }
	wildcards := map[key][]*inventory.Certificate{}
	for i := range s.Certificates {
		x := &s.Certificates[i]
		if !x.Ready {
			continue
		}
		for _, n := range x.Names.DNS {
			if inventory.IsWildcard(n) {
				k := key{x.Ref.Namespace, n}
				wildcards[k] = append(wildcards[k], x)
			}
		}
	}
	if len(wildcards) == 0 {
		return nil
	}
	var out []plan.Finding
	for i := range s.Certificates {
		x := &s.Certificates[i]
		if !x.Names.OnlyDNS() || slices.ContainsFunc(x.Names.DNS, inventory.IsWildcard) {
			continue
		}
		_, parent, _ := strings.Cut(x.Names.DNS[0], ".")
		for _, w := range wildcards[key{x.Ref.Namespace, "*." + parent}] {
			if w == x || w.Issuer != x.Issuer || w.Profile != x.Profile || !inventory.CoversAll(w.Names.DNS, x.Names.DNS) {
				continue
			}
			if superseded(s, x) {
				break // see supersededCertificate
			}
			j := s.Judge(x.Ref)
			f := finding(plan.CoveredCertificate, x.Ref, j, fmt.Sprintf("wildcard Certificate %s covers %s", w.Ref.Name, strings.Join(x.Names.DNS, ", ")))
			f.Related = []inventory.Ref{w.Ref, w.Secret}
			if j.Verdict == inventory.Used {
				f.Message += "; what uses it can move to Secret " + w.Secret.Name
			}
			out = append(out, f)
			break
		}
	}
	return out
}

func superseded(s *inventory.Snapshot, x *inventory.Certificate) bool {
	c, ok := x.ControlledBy()
	if !ok || c.Ref.Group != inventory.GroupKnativeNet {
		return false
	}
	k := s.KnativeCertificate(c.Ref)
	return k != nil && !heirOf(s, k).IsZero()
}

func (o Options) expiredUnused(s *inventory.Snapshot) []plan.Finding {
	var out []plan.Finding
	for i := range s.Secrets {
		x := &s.Secrets[i]
		if x.NotAfter.IsZero() || x.NotAfter.After(s.Taken) {
			continue
		}
		j := o.judge(s, &x.Meta)
		if j.Verdict == inventory.Used {
			continue
		}
		steps, since := collectAlone(s, x)
		f := finding(plan.ExpiredUnused, x.Ref, j, "it expired on "+x.NotAfter.UTC().Format(time.DateOnly)+since, steps...)
		if _, orphaned := orphan(s, x); orphaned {
			f.Fix = nil // orphanedSecret has it
		}
		f.Hold = heldBy(&x.Meta)
		out = append(out, f)
	}
	for i := range s.Certificates {
		x := &s.Certificates[i]
		if x.NotAfter.IsZero() || x.NotAfter.After(s.Taken) {
			continue
		}
		j := o.judge(s, &x.Meta)
		if j.Verdict == inventory.Used {
			continue
		}
		f := finding(plan.ExpiredUnused, x.Ref, j, "it expired on "+x.NotAfter.UTC().Format(time.DateOnly)+" and could not be renewed")
		f.Related, f.Hold = []inventory.Ref{x.Secret}, heldBy(&x.Meta)
		out = append(out, f)
	}
	return out
}

func (o Options) requestResidue(s *inventory.Snapshot) []plan.Finding {
	var out []plan.Finding
	for i := range s.Requests {
		x := &s.Requests[i]
		if !x.Final || s.Taken.Sub(x.Since) < o.RequestAge || s.Ignored(&x.Meta) {
			continue
		}
		if slices.ContainsFunc(x.Owners, s.Lives) {
			continue // goes with its owner
		}
		if edges := s.To(x.Ref); len(edges) > 0 {
			continue
		}
		message := fmt.Sprintf("finished (%s) on %s, and nobody owns it", x.State, x.Since.UTC().Format(time.DateOnly))
		j := inventory.Judgement{Verdict: inventory.Unused}
		if len(x.Owners) > 0 && !known(x.Owners) {
			j = inventory.Judgement{Verdict: inventory.Unknown, Why: "its owner " + x.Owners[0].Ref.String() + " is of a kind that was not read"}
		} else if len(s.Gaps) > 0 {
			j = inventory.Judgement{Verdict: inventory.Unknown, Why: s.Gaps[0].Kind + " was not read in full"}
		}
		f := finding(plan.RequestResidue, x.Ref, j, message, plan.Step{Action: plan.Delete, Object: x.Ref, If: x.Version})
		f.Hold = heldBy(&x.Meta)
		out = append(out, f)
	}
	return out
}

// known reports whether every owner is of a kind whose objects are all
// recorded, so that a missing one is gone.
func known(owners []inventory.OwnerRef) bool {
	return !slices.ContainsFunc(owners, func(o inventory.OwnerRef) bool { return !inventory.Recorded(o.Ref) })
}

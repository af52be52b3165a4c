// Package carry decides how an approved consolidation goes on: from its status and
// from what the cluster shows it tells the next phase, and what to write now. It
// is pure; package carry/live looks and writes.
//
// # What holds
//
// At every instruction, with the program killed there:
//
//  1. The cluster holds the state. The status of a Consolidation says in which
//     phase it is, and since when; all else is looked at again before each
//     decision. A phase is stored before the first write that belongs to it.
//  2. Nothing moves before the wildcard is Ready and its chain, names and issuer
//     are verified for every host; before every consumer is as it should be; and
//     while anything else could be taken for the wildcard.
//  3. Nothing old is taken away before every consumer has used the wildcard for the
//     whole soak. Until then the old certificates stay and renew themselves, so
//     that going back is a switch, and no order.
//  4. Going back comes in the same order: the old certificates are there and Ready
//     before anything moves back to them, unless the wildcard is broken itself.
package carry

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/certherd/certherd/api/v1alpha1"
	"github.com/certherd/certherd/inventory"
)

// Options are how patient and how careful to be.
type Options struct {
	// Issue is how long the wildcard may take to get Ready: an Order without
	// a solver hangs for ever (cert-manager pkg/controller/acmeorders/sync.go).
	Issue time.Duration
	// Switch is how long all consumers may take to use the wildcard and be Ready.
	Switch time.Duration
	// Patience is how long a consumer may be not Ready, a handshake may fail, or a
	// gateway may reject updates, before all goes back.
	Patience time.Duration
	// Again is the time after which a Route that did not look is touched again.
	Again time.Duration
	// Soak is how long every consumer uses the wildcard before anything old is
	// taken away.
	Soak time.Duration
}

// Defaults are the options of somebody who says nothing.
func Defaults() Options {
	return Options{Issue: 10 * time.Minute, Switch: 10 * time.Minute, Patience: time.Minute, Again: 15 * time.Second, Soak: time.Hour}
}

// Observation is what the cluster shows of one consolidation.
type Observation struct {
	// Hold says why nothing may be begun, and no switch either, although it is
	// approved: mode, window, another namespace's turn. Empty if nothing does.
	Hold   string
	Source Source
	// Rivals are other certificates that Routes could take for the wildcard.
	Rivals    []inventory.Ref
	Consumers []Consumer
	// Old are the certificates that the wildcard replaces, as far as they exist:
	// members, and those made since for the same hosts.
	Old []Old
	// Rejecting says since when the gateway rejects updates, and which; zero when
	// it does not, or nobody knows.
	Rejecting      time.Time
	RejectingWhat  string
	UnprobedReason string // why there are no handshakes; empty when there are
	Probes         []Probe
}

// Source is the object that makes the wildcard.
type Source struct {
	Exists bool
	// Foreign says why an object of that name is not the one that was approved.
	Foreign string
	// Ours is true if it was made for this consolidation.
	Ours  bool
	UID   string
	Since time.Time // when it was made
	Ready bool
	// Waits is what cert-manager says while it is not Ready.
	Waits string
	// Problem is what is wrong with what was issued; Unverified why it could not be
	// found out yet. Both are empty when it is verified.
	Problem, Unverified string
	// Labelled is true if Routes find it; LabelOurs, if certherd has labelled it.
	Labelled, LabelOurs bool
	// Users are all objects that name its Secret.
	Users []inventory.Ref
}

// Consumer is an object that makes a gateway serve hosts that the wildcard is for.
type Consumer struct {
	Ref     inventory.Ref
	UID     string
	Created time.Time
	Entries []Entry
	// Ready is true if its controller has looked at it as it is and finds it in
	// order; always for kinds that do not tell. Unready is since when not.
	Ready   bool
	Unready time.Time
	Why     string
	// Ignored is true if it is opted out; ManagedBy the tool that would undo a change.
	Ignored   bool
	ManagedBy string
	// Touch is the object whose controller chooses the Secret, zero when that is
	// named in the consumer itself. Touched is when it was made to look last.
	Touch   inventory.Ref
	Touched time.Time
}

// Entry is one Secret that a consumer names for hosts.
type Entry struct {
	Hosts []string
	// Secret is empty for hosts of a Route that are served without TLS, and should
	// not be.
	Secret string
	// Wildcard is true if Secret is the wildcard's.
	Wildcard bool
	// Own is the Secret to go back to, and OwnReady whether a certificate for
	// just these hosts is in it and kept renewed; OwnWaits what keeps it from it.
	// OwnMissing is true if that has to be made again first.
	Own        string
	OwnReady   bool
	OwnMissing bool
	OwnWaits   string
}

// Old is a certificate that is to go.
type Old struct {
	Object inventory.Ref // KCertificate, Certificate or Secret
	// Swept is true for a Secret that is retired.
	Swept bool
}

// Probe is one handshake with the gateway.
type Probe struct {
	Host string
	// OK is true if a valid certificate for the host was served; Wildcard, if it was
	// the wildcard's.
	OK, Wildcard bool
	// Bad is since when it is not OK.
	Bad time.Time
	Why string
}

// Verb is what to write.
type Verb string

const (
	Create  Verb = "create"  // the object that makes the wildcard
	Label   Verb = "label"   // it, so that Routes find it
	Unlabel Verb = "unlabel" // it, so that they find it no more
	Touch   Verb = "touch"   // Routes, so that they look
	Point   Verb = "point"   // consumers to the wildcard's Secret
	Return  Verb = "return"  // consumers to their own Secrets
	Restore Verb = "restore" // own certificates that are gone
	Remove  Verb = "remove"  // the object that makes the wildcard
)

// Write is one kind of write to some objects.
type Write struct {
	Verb    Verb
	Objects []inventory.Ref
}

// Decision is how it goes on.
type Decision struct {
	// Phase is to be stored before Writes begin; where it is another one than
	// before, there are none.
	Phase   v1alpha1.Phase
	Message string
	// Failure says why all goes back; it stays what it was when empty.
	Failure string
	Writes  []Write
	// Sweep are the old certificates that may be taken away now.
	Sweep []inventory.Ref
	// Soon asks to look again at once, or as soon as something may have come of
	// the Writes.
	Soon bool
}

// Next decides. It is for Consolidations that are approved, Executing, or Done
// with spec.undo.
func Next(c *v1alpha1.Consolidation, o Observation, opt Options, now time.Time) Decision {
	d := &decision{c: c, o: o, opt: opt, now: now}
	if x := c.Status.Execution; x != nil {
		d.since = x.Started.Time
		if x.PhaseSince != nil {
			d.since = x.PhaseSince.Time
		}
	}
	phase := c.Status.Phase
	undo := c.Spec.Undo || c.Spec.Rejected
	switch {
	case phase == v1alpha1.RollingBack:
		return d.back()
	case phase == v1alpha1.Done && c.Spec.Undo, phase.Executing() && undo:
		return d.fail("somebody asked for it")
	case phase.Ended():
		return d.stay("")
	}
	switch phase {
	case v1alpha1.Issuing:
		return d.issue()
	case v1alpha1.Verifying:
		return d.verify()
	case v1alpha1.Switching:
		return d.move()
	case v1alpha1.Soaking:
		return d.soak()
	case v1alpha1.Sweeping:
		return d.sweep()
	}
	return d.begin()
}

type decision struct {
	c     *v1alpha1.Consolidation
	o     Observation
	opt   Options
	now   time.Time
	since time.Time // when the phase began
}

func (d *decision) stay(format string, a ...any) Decision {
	return Decision{Phase: d.c.Status.Phase, Message: fmt.Sprintf(format, a...)}
}

func (d *decision) write(v Verb, objects []inventory.Ref, format string, a ...any) Decision {
	x := d.stay(format, a...)
	x.Writes, x.Soon = []Write{{v, objects}}, true
	return x
}

func (d *decision) enter(p v1alpha1.Phase, format string, a ...any) Decision {
	return Decision{Phase: p, Message: fmt.Sprintf(format, a...), Soon: true}
}

func (d *decision) fail(format string, a ...any) Decision {
	x := d.enter(v1alpha1.RollingBack, format, a...)
	x.Failure = x.Message
	x.Message = "going back: " + x.Message
	return x
}

func (d *decision) late(limit time.Duration) bool { return d.now.Sub(d.since) > limit }

// begin begins it, if nothing is in the way.
func (d *decision) begin() Decision {
	if why := d.obstacle(); why != "" {
		return d.stay("%s", why)
	}
	return d.enter(v1alpha1.Issuing, "the wildcard is being issued")
}

// obstacle is what is in the way before anything has moved, empty if nothing is.
func (d *decision) obstacle() string {
	switch {
	case d.o.Hold != "":
		return d.o.Hold
	case d.o.Source.Foreign != "":
		return d.o.Source.Foreign
	case len(d.o.Rivals) > 0:
		return fmt.Sprintf("Routes could take %s for the wildcard, too, and choose at random: take one of the two away, or its label networking.knative.dev/wildcardDomain", d.o.Rivals[0])
	}
	for _, m := range d.c.Spec.Members {
		for _, c := range m.Consumers {
			if !d.switches(c.Kind) {
				return fmt.Sprintf("%s %s names the Secret of %s, and certherd does not switch objects of that kind", c.Kind, c.Name, m.Name)
			}
		}
	}
	for _, c := range d.o.Consumers {
		byHand := d.c.Spec.Manual != "" && c.Touch.IsZero()
		switch {
		case c.Ignored && !byHand && c.Touch.IsZero():
			return fmt.Sprintf("%s is opted out by %s", c.Ref, inventory.IgnoreAnnotation)
		case c.Ignored && !byHand:
			return fmt.Sprintf("%s is opted out by %s, and would be moved, too: a wildcard is for all below its domain", c.Ref, inventory.IgnoreAnnotation)
		case c.ManagedBy != "" && !byHand && c.Touch.IsZero():
			return fmt.Sprintf("%s is managed by %s, which would undo a switch", c.Ref, c.ManagedBy)
		}
	}
	return ""
}

// switches reports whether objects of a kind can be led to the wildcard: Routes
// choose a Knative Certificate by its label, and all else names a Secret itself.
func (d *decision) switches(k v1alpha1.ConsumerKind) bool {
	switch k {
	case v1alpha1.ConsumerKIngress:
		return d.knative()
	case v1alpha1.ConsumerIngress, v1alpha1.ConsumerGateway, v1alpha1.ConsumerListenerSet, v1alpha1.ConsumerDomainMapping:
		return !d.knative()
	}
	return false
}

func (d *decision) issue() Decision {
	s := d.o.Source
	x := d.c.Status.Execution
	switch {
	case s.Foreign != "":
		return d.fail("%s", s.Foreign)
	case !s.Exists && (d.c.Spec.Source.UID != "" || x != nil && x.SourceUID != ""):
		return d.fail("%s was deleted", d.source())
	case !s.Exists:
		return d.write(Create, []inventory.Ref{d.source()}, "the wildcard is being issued")
	case s.Ready:
		return d.enter(v1alpha1.Verifying, "the wildcard is Ready, and being verified")
	case d.late(d.opt.Issue):
		why := s.Waits
		if why == "" {
			why = "cert-manager says nothing"
		}
		return d.fail("%s was not Ready after %s: %s", d.source(), d.opt.Issue, why)
	}
	if s.Waits != "" {
		return d.stay("waiting for %s to be Ready: %s", d.source(), s.Waits)
	}
	return d.stay("waiting for %s to be Ready", d.source())
}

func (d *decision) verify() Decision {
	s := d.o.Source
	switch {
	case s.Foreign != "":
		return d.fail("%s", s.Foreign)
	case !s.Exists:
		return d.fail("%s was deleted", d.source())
	case s.Ready && s.Problem != "":
		return d.fail("%s", s.Problem)
	case !s.Ready || s.Unverified != "":
		why := s.Unverified
		if !s.Ready {
			why = "it is not Ready any more: " + s.Waits
		}
		if d.late(d.opt.Issue) {
			return d.fail("%s could not be verified: %s", d.source(), why)
		}
		return d.stay("%s cannot be verified: %s", d.source(), why)
	}
	if why := d.obstacle(); why != "" {
		return d.stay("%s", why)
	}
	if d.o.UnprobedReason != "" {
		return d.stay("no handshakes with the gateway: %s", d.o.UnprobedReason)
	}
	if !d.o.Rejecting.IsZero() {
		return d.stay("the gateway rejects updates, before anything has moved: %s", d.o.RejectingWhat)
	}
	for _, c := range d.o.Consumers {
		if !c.Ready {
			return d.stay("%s is not Ready, before anything has moved: %s", c.Ref, c.Why)
		}
		if h := bare(c); len(h) > 0 {
			return d.stay("%s serves %s without TLS, before anything has moved", c.Ref, h[0])
		}
	}
	for _, p := range d.o.Probes {
		if !p.OK {
			return d.stay("the gateway does not serve %s as it should, before anything has moved: %s", p.Host, p.Why)
		}
	}
	return d.enter(v1alpha1.Switching, "the wildcard is verified, and %s", plural(len(d.o.Consumers), "consumer is", "consumers are")+" being switched")
}

// broken is why all has to go back once the switch has begun, empty if nothing is.
func (d *decision) broken() string {
	s := d.o.Source
	switch {
	case !s.Exists:
		return d.source().String() + " was deleted"
	case s.Foreign != "":
		return s.Foreign
	case !s.Ready:
		// A Route that looks now loses its TLS.
		return fmt.Sprintf("%s is not Ready any more: %s", d.source(), s.Waits)
	case s.Problem != "":
		return s.Problem
	case len(d.o.Rivals) > 0:
		return fmt.Sprintf("%s has come up, and Routes choose between the two at random", d.o.Rivals[0])
	case !d.o.Rejecting.IsZero() && d.now.Sub(d.o.Rejecting) > d.opt.Patience:
		return fmt.Sprintf("the gateway has rejected updates for %s: %s", d.now.Sub(d.o.Rejecting).Round(time.Second), d.o.RejectingWhat)
	}
	for _, c := range d.o.Consumers {
		if d.old(c) && !c.Ready && d.now.Sub(c.Unready) > d.opt.Patience {
			return fmt.Sprintf("%s has not been Ready for %s: %s", c.Ref, d.now.Sub(c.Unready).Round(time.Second), c.Why)
		}
	}
	for _, p := range d.o.Probes {
		if !p.OK && d.wasThere(p.Host) && d.now.Sub(p.Bad) > d.opt.Patience {
			return fmt.Sprintf("the gateway has not served %s as it should for %s: %s", p.Host, d.now.Sub(p.Bad).Round(time.Second), p.Why)
		}
	}
	return ""
}

// old reports whether a consumer was there when it began: what comes up
// meanwhile may take its time, and its troubles are its own.
func (d *decision) old(c Consumer) bool {
	for _, m := range d.c.Spec.Members {
		if slices.ContainsFunc(m.Consumers, func(x v1alpha1.Consumer) bool { return x.UID == c.UID }) {
			return true
		}
	}
	x := d.c.Status.Execution
	return x == nil || !c.Created.After(x.Started.Time)
}

func (d *decision) wasThere(host string) bool {
	for _, c := range d.o.Consumers {
		for _, e := range c.Entries {
			if slices.Contains(e.Hosts, host) {
				return d.old(c)
			}
		}
	}
	return slices.Contains(d.c.Spec.Hosts, host)
}

// moved reports whether a consumer names the wildcard for every host.
func moved(c Consumer) bool {
	return !slices.ContainsFunc(c.Entries, func(e Entry) bool { return !e.Wildcard })
}

// bare are hosts that a consumer serves without TLS.
func bare(c Consumer) []string {
	for _, e := range c.Entries {
		if e.Secret == "" {
			return e.Hosts
		}
	}
	return nil
}

// lagging are the consumers that do not name the wildcard yet.
func (d *decision) lagging() (all []Consumer, old int) {
	for _, c := range d.o.Consumers {
		if !moved(c) {
			all = append(all, c)
			if d.old(c) {
				old++
			}
		}
	}
	return all, old
}

// handsOff reports whether a consumer that names a Secret itself is somebody else's to
// change.
func handsOff(c Consumer) bool { return c.Touch.IsZero() && (c.Ignored || c.ManagedBy != "") }

// push makes those look that lag, each one at most once in the time of Again.
func (d *decision) push(lagging []Consumer, v Verb) []Write {
	var touch, point []inventory.Ref
	for _, c := range lagging {
		switch {
		case c.Touch.IsZero():
			if !handsOff(c) && (v != Point || d.c.Spec.Manual == "") {
				point = append(point, c.Ref)
			}
		case d.now.Sub(c.Touched) >= d.opt.Again && !slices.Contains(touch, c.Touch):
			touch = append(touch, c.Touch)
		}
	}
	var w []Write
	if len(touch) > 0 {
		w = append(w, Write{Touch, touch})
	}
	if len(point) > 0 {
		w = append(w, Write{v, point})
	}
	return w
}

func (d *decision) knative() bool { return d.c.Spec.Source.Kind == v1alpha1.SourceKCertificate }

func (d *decision) move() Decision {
	if why := d.broken(); why != "" {
		return d.fail("%s", why)
	}
	if d.knative() && !d.o.Source.Labelled {
		return d.write(Label, []inventory.Ref{d.source()}, "Routes are being led to the wildcard")
	}
	lagging, old := d.lagging()
	if w := d.push(lagging, Point); len(w) > 0 {
		x := d.stay("%s to be switched", plural(len(lagging), "consumer has", "consumers have"))
		x.Writes, x.Soon = w, true
		return x
	}
	manual := d.c.Spec.Manual != "" && old > 0
	if !manual && d.late(d.opt.Switch) {
		if why := d.unsettled(); why != "" {
			return d.fail("not all had switched after %s: %s", d.opt.Switch, why)
		}
	}
	if manual {
		return d.stay("waiting for somebody to switch %s: %s", lagging[0].Ref, d.c.Spec.Manual)
	}
	if why := d.unsettled(); why != "" {
		x := d.stay("%s", why)
		x.Soon = true
		return x
	}
	return d.enter(v1alpha1.Soaking, "every consumer uses the wildcard; the old certificates stay until the soak is over")
}

// unsettled is what the switch still waits for, among what was there when it began.
func (d *decision) unsettled() string {
	for _, c := range d.o.Consumers {
		switch {
		case !d.old(c):
		case !moved(c):
			return fmt.Sprintf("%s does not name the wildcard for every host yet", c.Ref)
		case !c.Ready:
			return fmt.Sprintf("%s is not Ready yet: %s", c.Ref, c.Why)
		}
	}
	for _, p := range d.o.Probes {
		switch {
		case !d.wasThere(p.Host):
		case !p.OK:
			return fmt.Sprintf("the gateway does not serve %s as it should: %s", p.Host, p.Why)
		case !p.Wildcard:
			return fmt.Sprintf("the gateway does not serve %s with the wildcard yet", p.Host)
		}
	}
	if d.o.UnprobedReason != "" {
		return "no handshakes with the gateway: " + d.o.UnprobedReason
	}
	return ""
}

func (d *decision) soak() Decision {
	if x := d.settle(); x != nil {
		return *x
	}
	left := d.opt.Soak - d.now.Sub(d.since)
	if left > 0 {
		return d.stay("every consumer uses the wildcard; the old certificates stay until %s", d.now.Add(left).UTC().Format(time.RFC3339))
	}
	if lagging, _ := d.lagging(); len(lagging) > 0 {
		return d.stay("%s does not name the wildcard for every host yet", lagging[0].Ref)
	}
	if why := d.unsettled(); why != "" {
		return d.stay("%s", why)
	}
	return d.enter(v1alpha1.Sweeping, "the old certificates are being taken away")
}

// settle looks after what was switched: it goes back when something breaks, and
// leads to the wildcard whatever has come up since. Nil when all is well.
func (d *decision) settle() *Decision {
	if why := d.broken(); why != "" {
		x := d.fail("%s", why)
		return &x
	}
	if d.knative() && !d.o.Source.Labelled {
		x := d.fail("somebody took the label off %s, so that Routes find it no more", d.source())
		return &x
	}
	lagging, _ := d.lagging()
	for _, c := range lagging {
		if c.Touch.IsZero() && d.old(c) {
			x := d.fail("somebody changed %s back", c.Ref)
			return &x
		}
	}
	if w := d.push(lagging, Point); len(w) > 0 {
		x := d.stay("%s come up since, and is being led to the wildcard", plural(len(lagging), "consumer has", "consumers have"))
		x.Writes, x.Soon = w, true
		return &x
	}
	return nil
}

func (d *decision) sweep() Decision {
	if x := d.settle(); x != nil {
		return *x
	}
	x := d.stay("")
	left := 0
	for _, old := range d.o.Old {
		if old.Swept {
			continue
		}
		left++
		x.Sweep = append(x.Sweep, old.Object)
	}
	if left > 0 {
		x.Message = plural(left, "old object is", "old objects are") + " to be taken away by the next rounds"
		return x
	}
	return d.enter(v1alpha1.Done, "one wildcard serves %s; the old Secrets are kept for the grace period", plural(d.hosts(), "host", "hosts"))
}

func (d *decision) hosts() int {
	n := 0
	for _, c := range d.o.Consumers {
		for _, e := range c.Entries {
			n += len(e.Hosts)
		}
	}
	return n
}

// back leads to the state before, from whatever state it is.
func (d *decision) back() Decision {
	s := d.o.Source
	var on []Consumer // that use the wildcard, or have nothing
	for _, c := range d.o.Consumers {
		if slices.ContainsFunc(c.Entries, func(e Entry) bool { return e.Wildcard || e.Secret == "" }) {
			on = append(on, c)
		}
	}
	// While a label that is not ours leads to the wildcard, Knative itself wants it so.
	theirs := d.knative() && s.Labelled && !s.LabelOurs
	sound := s.Exists && s.Ready && s.Problem == "" && s.Foreign == ""
	if len(on) > 0 && !theirs {
		var missing []inventory.Ref
		waits := ""
		for _, c := range on {
			for _, e := range c.Entries {
				switch {
				case e.OwnReady, !e.Wildcard && e.Secret != "":
				case e.OwnMissing:
					missing = append(missing, c.Ref)
				default:
					waits = fmt.Sprintf("%s has no certificate of its own to go back to for %s: %s", c.Ref, strings.Join(e.Hosts, ", "), e.OwnWaits)
				}
			}
		}
		if len(missing) > 0 {
			slices.SortFunc(missing, inventory.Ref.Compare)
			return d.write(Restore, slices.Compact(missing), "going back: the certificates of %s are being restored", plural(len(missing), "host", "hosts"))
		}
		// A wildcard that works is better than no certificate.
		if waits != "" && sound {
			x := d.stay("going back: %s", waits)
			x.Soon = true
			return x
		}
	}
	if d.knative() && s.Labelled && s.LabelOurs {
		return d.write(Unlabel, []inventory.Ref{d.source()}, "going back: Routes are being led to their own certificates")
	}
	if len(on) > 0 && !theirs {
		x := d.stay("going back: %s still to be led to their own certificates", plural(len(on), "consumer is", "consumers are"))
		x.Writes, x.Soon = d.push(on, Return), true
		if i := slices.IndexFunc(on, handsOff); i >= 0 && len(x.Writes) == 0 {
			x.Soon = false
			x.Message = fmt.Sprintf("going back: waiting for somebody to make %s name its own Secret %s again: it is opted out, or a tool has its manifest", on[i].Ref, own(on[i]))
		}
		return x
	}
	if !theirs {
		for _, c := range d.o.Consumers {
			if d.old(c) && !c.Ready && d.now.Sub(c.Unready) > d.opt.Again && !c.Touch.IsZero() && d.now.Sub(c.Touched) >= d.opt.Again {
				// Stock Kourier keeps a host in the chain that it has left until every
				// ingress of that chain was translated anew (net-kourier
				// pkg/generator/sni.go, consume), and Envoy rejects two chains for one host.
				return d.write(Touch, d.touchable(), "going back: %s is not Ready, so that all are looked at once more: %s", c.Ref, c.Why)
			}
			if d.old(c) && !c.Ready {
				x := d.stay("going back: waiting for %s to be Ready: %s", c.Ref, c.Why)
				x.Soon = true
				return x
			}
		}
		for _, p := range d.o.Probes {
			if !p.OK || p.Wildcard {
				why := p.Why
				if p.OK {
					why = "it is served with the wildcard"
				}
				if w := d.push(d.o.Consumers, Return); len(w) > 0 && d.late(d.opt.Patience) {
					return d.write(Touch, d.touchable(), "going back: %s: %s", p.Host, why)
				}
				x := d.stay("going back: %s: %s", p.Host, why)
				x.Soon = true
				return x
			}
		}
	}
	if s.Exists && s.Ours && s.Foreign == "" && !theirs {
		if len(s.Users) > 0 {
			return d.stay("going back: the wildcard stays as long as %s uses it", s.Users[0])
		}
		return d.write(Remove, []inventory.Ref{d.source()}, "going back: the wildcard is being removed")
	}
	message := "it is as it was before"
	if theirs {
		message = "nothing of ours is left, and Routes still use the wildcard, because it is not ours that leads them to it"
	}
	return d.enter(v1alpha1.RolledBack, "%s", message)
}

// own is a Secret that a consumer is to go back to.
func own(c Consumer) string {
	for _, e := range c.Entries {
		if e.Wildcard {
			return e.Own
		}
	}
	return ""
}

// touchable are all objects that can be made to look.
func (d *decision) touchable() []inventory.Ref {
	var out []inventory.Ref
	for _, c := range d.o.Consumers {
		if !c.Touch.IsZero() && !slices.Contains(out, c.Touch) {
			out = append(out, c.Touch)
		}
	}
	return out
}

// source is the object that makes the wildcard.
func (d *decision) source() inventory.Ref { return SourceRef(d.c) }

// SourceRef is the object that makes, or will make, the wildcard.
func SourceRef(c *v1alpha1.Consolidation) inventory.Ref {
	if c.Spec.Source.Kind == v1alpha1.SourceKCertificate {
		return inventory.KnativeCertificateRef(c.Namespace, c.Spec.Source.Name)
	}
	return inventory.CertificateRef(c.Namespace, c.Spec.Source.Name)
}

func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"

	"github.com/certherd/certherd/api/v1alpha1"
	"github.com/certherd/certherd/gate"
	"github.com/certherd/certherd/inventory"
	"github.com/certherd/certherd/plan"
	"github.com/certherd/certherd/proposal"
	"github.com/certherd/certherd/report"
	"github.com/certherd/certherd/service"
)

// everything is the value of --all that names no digest.
const everything = "all of it"

// comparedObjects is the most objects that are compared with the cluster before an
// approval is given; the leader compares all of them.
const comparedObjects = 200

func approveCommand() *cobra.Command {
	var a approval
	c := &cobra.Command{
		Use:   "approve [CHANGE[@DIGEST] | NAMESPACE/NAME[@DIGEST]]...",
		Short: "Approve what certherd proposes to do",
		Long: `approve lets the certherd that runs in the cluster carry out changes that it proposes: those of rules
in mode propose, and those that maxShare has stopped. Reports and --list name them.

An approval is for one change in one state: exactly these objects, in exactly these versions. CHANGE@DIGEST
is refused when the state is not the one that you have looked at; CHANGE alone takes the state that
the newest report has. The leader compares again immediately before it acts. It acts within seconds,
if windows and budget allow, or else in the next round in which they do.

NAMESPACE/NAME, or consolidation/NAMESPACE/NAME, approves a Consolidation: exactly what it proposes now.
What it proposes is among the changes, too; either approval is enough.

--all approves every change that waits. Where that is more than maxShare of all certificates, it has to
be named with its digest, as --list shows it: that is the only way to let so much happen at once.

--now has the changes go past the gateways' reload budget, at once also in the middle of a round; windows, and
what a round may take away, hold all the same. It is also for changes that only that budget holds, which need no
other approval.

--resume ends the stop that follows when gateways became worse after a batch of changes.

Who may update the ConfigMap certherd-approvals in certherd's namespace may approve changes; who may get and
patch consolidations.certherd.dev in a namespace may approve those.`,
		Example: `  # What waits? In full, as it changes, and as approve takes it
  certherd approve --list -o wide
  certherd approve --list --watch
  certherd approve --list -o name

  # One change, in the state that the list shows
  certherd approve 3fa9c2d0b1@5e8d21c4a0 --reason 'CHG-4711'

  # One Consolidation, in the state that the list shows
  certherd approve shop/wildcard-shop-example-com-6e331a74@c81d0f5a3e

  # It is held until later by the gateways' reload budget, and must not be
  certherd approve --now 3fa9c2d0b1

  # Everything that waits
  certherd approve --all
  certherd approve --all=0b71d2c3e4

  # Not after all
  certherd approve --revoke 3fa9c2d0b1

  # After gateways have been looked at
  certherd approve --resume --reason 'one bad Ingress of team-b, fixed'`,
	}
	a.source.clusterFlags(c, &a.namespace)
	f := c.Flags()
	f.StringVar(&a.report, "report-config-map", service.Defaults().Report, "ConfigMap that the newest report is kept in")
	f.BoolVar(&a.list, "list", false, "show what waits, what was approved, and whether everything is stopped")
	a.output.flag(c, "table", "table", "wide", "json", "yaml", "name", jsonPathOutput)
	f.Lookup("output").Usage += "; with --list"
	a.again.flags(c, 10*time.Second, "the list each time that it has changed; with --list")
	f.StringVar(&a.all, "all", "", "approve everything that waits; with a value, only if that is its digest")
	f.Lookup("all").NoOptDefVal = everything
	f.StringVar(&a.reason, "reason", "", "why, for the journal")
	f.DurationVar(&a.valid, "valid-for", 7*24*time.Hour, "how long the approval holds; the configuration's approvalLifetime may make it shorter")
	f.BoolVar(&a.now, "now", false, "do not wait for the gateways' reload budget")
	f.BoolVar(&a.revoke, "revoke", false, "take approvals back: of the changes that are named, or with --all of all")
	f.BoolVar(&a.resume, "resume", false, "go on after gateways had become worse and everything was stopped")
	c.ValidArgsFunction = func(c *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		ctx, cancel := context.WithTimeout(c.Context(), completionTime)
		defer cancel()
		if err := a.open(); err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		waiting, err := a.waiting(ctx)
		consolidations, err2 := a.proposed(ctx)
		if err != nil && err2 != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		var out []string
		offer := func(token, what string) {
			if !slices.Contains(args, token) {
				out = append(out, cobra.CompletionWithDesc(token, what))
			}
		}
		for _, x := range waiting {
			offer(gate.Token(x.ID, x.Digest), x.Reason+" "+about(x))
		}
		for _, x := range consolidations {
			offer(x.Token, strings.Join(x.Wildcards, ", "))
		}
		return out, cobra.ShellCompDirectiveNoFileComp
	}
	c.RunE = func(c *cobra.Command, args []string) error {
		if err := a.check(args); err != nil {
			return err
		}
		if !a.list && f.Changed("output") {
			return errors.New("-o goes with --list")
		}
		if slices.ContainsFunc(args, isConsolidation) && f.Changed("valid-for") {
			return errors.New("--valid-for is for changes: the approval of a Consolidation is a field of it, and holds as long as it proposes the same")
		}
		if err := a.open(); err != nil {
			return err
		}
		a.out, a.err = c.OutOrStdout(), c.ErrOrStderr()
		switch {
		case a.list:
			return a.again.run(c, func() error { return a.show(c.Context()) })
		case a.resume:
			return a.goOn(c.Context())
		case a.revoke:
			return a.takeBack(c.Context(), args)
		}
		return a.approve(c.Context(), args)
	}
	return c
}

// approval is one call of approve.
type approval struct {
	source                    source
	output                    output
	again                     watch
	namespace, report         string
	all, reason               string
	valid                     time.Duration
	list, revoke, resume, now bool
	out, err                  io.Writer
	cluster                   *rest.Config
	client                    kubernetes.Interface
	approvals                 *service.Approvals
	cut                       string
	newest                    report.Report
}

func (a *approval) check(args []string) error {
	modes := 0
	for _, m := range []bool{a.list, a.resume, a.revoke} {
		if m {
			modes++
		}
	}
	switch {
	case modes > 1:
		return errors.New("use one of --list, --revoke and --resume")
	case a.again.on && !a.list:
		return errors.New("--watch goes with --list")
	case (a.list || a.resume) && (len(args) > 0 || a.all != ""):
		return errors.New("--list and --resume are about everything: name no changes")
	case a.now && (a.list || a.resume || a.revoke):
		return errors.New("--now goes with changes that are approved")
	case a.list:
		return errors.Join(a.output.check(), a.again.check())
	case a.resume:
		return nil
	case len(args) > 0 && a.all != "":
		return errors.New("name changes, or use --all; a digest belongs right behind it: --all=DIGEST")
	case a.revoke && slices.ContainsFunc(args, isConsolidation):
		return errors.New("to take back the approval of a Consolidation: certherd reject --forget NAMESPACE/NAME, or while it is carried out certherd undo consolidation/NAMESPACE/NAME")
	case len(args) == 0 && a.all == "":
		return errors.New("name the changes, as `certherd approve --list` does, or use --all")
	case a.valid <= 0:
		return errors.New("--valid-for must be longer than nothing")
	}
	return nil
}

func (a *approval) open() (err error) {
	if a.cluster, err = a.source.config(); err != nil {
		return err
	}
	if a.client, err = kubernetes.NewForConfig(a.cluster); err != nil {
		return err
	}
	a.approvals = service.OpenApprovals(a.client.CoreV1(), a.namespace)
	return nil
}

// waiting are the changes of the newest report that wait for a person.
func (a *approval) waiting(ctx context.Context) ([]report.Change, error) {
	r, missing, err := service.StoredReport(ctx, a.client.CoreV1(), a.namespace, a.report)
	switch {
	case apierrors.IsNotFound(err):
		return nil, fmt.Errorf("there is no report in ConfigMap %s/%s: certherd runs elsewhere (--certherd-namespace), or has not looked yet", a.namespace, a.report)
	case err != nil:
		return nil, fmt.Errorf("cannot read the newest report: %w", err)
	}
	a.newest, a.cut = r, missing
	return service.Waiting(&r), nil
}

// give approves.
func (a *approval) give(ctx context.Context, args []string) error {
	waiting, err := a.waiting(ctx)
	if err != nil {
		return err
	}
	if age := time.Since(a.newest.TakenAt); age > 24*time.Hour {
		fmt.Fprintf(a.err, "certherd: the newest report is %s old: does certherd run?\n", age.Round(time.Hour))
	}
	chosen, whole := waiting, a.all != ""
	if whole {
		switch digest, why := service.WholeDigest(waiting), service.TooMuch(waiting); {
		case len(waiting) == 0:
			return fmt.Errorf("nothing waits for approval in the report of %s", a.newest.TakenAt.Local().Format(time.DateTime))
		case a.all == everything && why != "":
			return fmt.Errorf("%s. All that waits is %d changes (`certherd approve --list`); to approve exactly these: certherd approve --all=%s", why, len(waiting), digest)
		case a.all != everything && a.all != digest:
			return fmt.Errorf("what waits is not what you looked at: its digest is %s now; see `certherd approve --list`", digest)
		}
		if a.cut != "" {
			fmt.Fprintln(a.err, "certherd: the report in the cluster is cut, so that this is not all:", a.cut)
		}
	} else {
		var hurried []report.Change
		if a.now {
			hurried, args = service.Hurry(&a.newest, args)
		}
		if chosen, err = service.Choose(&a.newest, args); err != nil {
			return err
		}
		chosen = append(chosen, hurried...)
	}
	if err := a.compare(ctx, chosen); err != nil {
		return err
	}
	now, by := time.Now().UTC().Truncate(time.Second), whoami(ctx, a.client)
	err = a.approvals.Change(ctx, func(c *service.Consent) (bool, error) {
		c.Approve(chosen, service.Approval{Whole: whole, Now: a.now, By: by, Reason: a.reason, Given: now, Until: now.Add(a.valid)})
		return true, nil
	})
	if err != nil {
		return fmt.Errorf("not approved: %w", err)
	}
	for _, x := range chosen {
		fmt.Fprintf(a.out, "approved %s: %s %s: %s\n", gate.Token(x.ID, x.Digest), x.Reason, about(x), steps(x, 4))
	}
	fmt.Fprintln(a.out, "It is carried out within seconds if windows and budget allow, else in the next round in which they do; `certherd history` shows it.")
	return nil
}

// compare refuses changes whose objects are not as they were when the report was
// made. What this user may not read, the leader compares.
func (a *approval) compare(ctx context.Context, chosen []report.Change) error {
	n := 0
	chosen = slices.DeleteFunc(slices.Clone(chosen), func(x report.Change) bool { return x.Digest == "" }) // only its time is said
	for _, x := range chosen {
		n += len(x.Steps)
	}
	if n > comparedObjects {
		fmt.Fprintf(a.err, "certherd: %d objects are not compared with the cluster now; the leader does before it acts\n", n)
		return nil
	}
	client, err := metadata.NewForConfig(a.cluster)
	if err != nil {
		return err
	}
	mapper := restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(a.client.Discovery()))
	var errs []error
	for _, x := range chosen {
		c := plan.Change{ID: x.ID}
		var skip error
		for _, st := range x.Steps {
			if st.To != nil || st.Action != string(plan.Delete) && st.Action != string(plan.Retire) && st.Action != string(plan.Unretire) {
				skip = errors.New("it has steps other than removals") // which the report does not have in full
				break
			}
			m, err := mapper.RESTMapping(schema.GroupKind{Group: st.Object.Group, Kind: st.Object.Kind})
			if err != nil {
				skip = err
				break
			}
			o, err := client.Resource(m.Resource).Namespace(st.Object.Namespace).Get(ctx, st.Object.Name, metav1.GetOptions{})
			if err != nil && !apierrors.IsNotFound(err) {
				skip = err
				break
			}
			step := plan.Step{Action: plan.Action(st.Action), Object: inventory.Ref(st.Object)}
			if err == nil {
				step.If = inventory.Version{UID: string(o.UID), ResourceVersion: o.ResourceVersion}
			}
			c.Steps = append(c.Steps, step)
		}
		switch {
		case skip != nil:
			fmt.Fprintf(a.err, "certherd: change %s was not compared with the cluster now (%v); the leader does before it acts\n", x.ID, skip)
		case gate.Digest(c) != x.Digest:
			errs = append(errs, fmt.Errorf("change %s is not approved: %s, or what belongs to it, was changed after the report of %s. Wait for the next report, and look again",
				x.ID, about(x), a.newest.TakenAt.Local().Format(time.DateTime)))
		}
	}
	return errors.Join(errs...)
}

// whoami is whom the API server takes this user for.
func whoami(ctx context.Context, client kubernetes.Interface) string {
	r, err := client.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if err != nil || r.Status.UserInfo.Username == "" {
		return "somebody unknown"
	}
	return r.Status.UserInfo.Username
}

func (a *approval) takeBack(ctx context.Context, args []string) error {
	by := whoami(ctx, a.client)
	var gone []string
	err := a.approvals.Change(ctx, func(c *service.Consent) (bool, error) {
		gone = nil
		named := func(x service.Approval) bool {
			return a.all != "" || slices.ContainsFunc(args, func(arg string) bool { id, _, _ := strings.Cut(arg, "@"); return id == x.ID })
		}
		for _, x := range c.Approvals {
			if named(x) {
				gone = append(gone, x.ID)
			}
		}
		if len(gone) == 0 {
			return false, errors.New("there is no such approval; see `certherd approve --list`")
		}
		c.Approvals = slices.DeleteFunc(c.Approvals, named)
		c.Say(service.Word{Time: time.Now().UTC().Truncate(time.Second), What: service.SaidRevoke, By: by, Reason: a.reason, Changes: gone})
		return true, nil
	})
	if err != nil {
		return err
	}
	for _, id := range gone {
		fmt.Fprintf(a.out, "revoked %s\n", id)
	}
	fmt.Fprintln(a.out, "What has begun already goes on; `certherd history` shows it.")
	return nil
}

func (a *approval) goOn(ctx context.Context) error {
	by := whoami(ctx, a.client)
	var was *service.Stop
	err := a.approvals.Change(ctx, func(c *service.Consent) (bool, error) {
		was = c.Stopped
		return true, c.Resume(time.Time{}, by, a.reason, time.Now())
	})
	if err != nil {
		return err
	}
	fmt.Fprintf(a.out, "resumed; it was stopped since %s: %s\n", was.Since.Local().Format(time.DateTime), strings.Join(was.Why, "; "))
	return nil
}

// isConsolidation reports whether an argument names a Consolidation, and no change.
func isConsolidation(arg string) bool { return strings.Contains(arg, "/") }

// approve approves what was named, or nothing if any of the Consolidations cannot
// be approved.
func (a *approval) approve(ctx context.Context, args []string) error {
	var changes, objects []string
	for _, arg := range args {
		if isConsolidation(arg) {
			objects = append(objects, arg)
		} else {
			changes = append(changes, arg)
		}
	}
	p, err := proposal.New(a.cluster, proposal.Options{})
	if err != nil {
		return err
	}
	var chosen []*v1alpha1.Consolidation
	var errs []error
	for _, arg := range objects {
		object, pin, pinned := strings.Cut(arg, "@")
		c, err := consolidationNamed(ctx, p, object)
		if err == nil {
			err = proposal.Approvable(c, pin, pinned)
		}
		chosen, errs = append(chosen, c), append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if len(changes) > 0 || a.all != "" {
		if err := a.give(ctx, changes); err != nil {
			return err
		}
	}
	by := ""
	if len(chosen) > 0 {
		by = whoami(ctx, a.client)
	}
	for _, c := range chosen {
		// The API server refuses it if c has changed since it was read.
		if _, err := p.Approve(ctx, c, proposal.Author{By: by, Reason: a.reason}); err != nil {
			errs = append(errs, fmt.Errorf("cannot approve Consolidation %s/%s: %w", c.Namespace, c.Name, err))
			continue
		}
		fmt.Fprintf(a.out, "approved %s: one certificate for %s instead of %d\n", consolidationToken(c), strings.Join(c.Spec.Wildcards, ", "), len(c.Spec.Members))
		if c.Status.Phase != v1alpha1.Proposed && c.Status.Message != "" {
			fmt.Fprintf(a.out, "It is %s: %s\n", c.Status.Phase, c.Status.Message)
		}
	}
	return errors.Join(errs...)
}

// consolidationToken names a Consolidation in its present state.
func consolidationToken(c *v1alpha1.Consolidation) string {
	return proposal.Token(c)
}

// proposed is a Consolidation that waits for approval.
type proposed struct {
	// Token is what approve takes: NAMESPACE/NAME@DIGEST.
	Token        string   `json:"token"`
	Wildcards    []string `json:"wildcards"`
	Hosts        int      `json:"hosts"`
	Certificates int      `json:"certificates"`
}

// proposed are the Consolidations that wait for approval.
func (a *approval) proposed(ctx context.Context) ([]proposed, error) {
	p, err := proposal.New(a.cluster, proposal.Options{})
	if err != nil {
		return nil, err
	}
	all, err := p.List(ctx)
	if errors.Is(err, proposal.ErrNotInstalled) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out []proposed
	for _, c := range all {
		if c.Status.Phase == v1alpha1.Proposed && !c.Spec.Approved() {
			out = append(out, proposed{Token: consolidationToken(c), Wildcards: c.Spec.Wildcards, Hosts: len(c.Spec.Hosts), Certificates: len(c.Spec.Members)})
		}
	}
	return out, nil
}

// listing is what --list -o json writes.
type listing struct {
	TakenAt time.Time `json:"takenAt"`
	// Stopped is why nothing is carried out, empty when nothing stops it.
	Stopped string `json:"stopped"`
	// TooMuch says that maxShare has stopped something, empty when it has not.
	TooMuch string `json:"tooMuch"`
	// All is the digest of all that waits, for --all=DIGEST.
	All string `json:"all"`
	// Cut says what the report in the cluster lacks; empty when it is whole.
	Cut       string             `json:"cut"`
	Waiting   []report.Change    `json:"waiting"`
	Approvals []service.Approval `json:"approvals"`
	// Consolidations are those that wait; Unread is why they could not be listed,
	// empty when they could.
	Consolidations []proposed `json:"consolidations"`
	Unread         string     `json:"unread"`
}

func (a *approval) show(ctx context.Context) error {
	waiting, err := a.waiting(ctx)
	if err != nil {
		return err
	}
	consent, err := a.approvals.Read(ctx)
	if err != nil {
		return err
	}
	x := listing{TakenAt: a.newest.TakenAt, TooMuch: service.TooMuch(waiting), Cut: a.cut, Waiting: waiting, Approvals: consent.Approvals}
	if consent.Stopped != nil {
		x.Stopped = consent.Stopped.String()
	}
	if len(waiting) > 0 {
		x.All = service.WholeDigest(waiting)
	}
	if x.Consolidations, err = a.proposed(ctx); err != nil {
		x.Unread = err.Error()
	}
	if a.again.on {
		same := x
		same.TakenAt = time.Time{}
		if changed, err := a.again.changed(same); !changed || err != nil {
			return err
		}
	}
	if x.Waiting == nil {
		x.Waiting = []report.Change{}
	}
	if x.Approvals == nil {
		x.Approvals = []service.Approval{}
	}
	if x.Consolidations == nil {
		x.Consolidations = []proposed{}
	}
	if written, err := a.output.document(a.out, x); written || err != nil {
		return err
	}
	if a.output.format == "name" {
		for _, y := range x.Waiting {
			fmt.Fprintln(a.out, gate.Token(y.ID, y.Digest))
		}
		for _, y := range x.Consolidations {
			fmt.Fprintln(a.out, "consolidation/"+y.Token)
		}
		return nil
	}
	most := 4
	if a.output.format == "wide" {
		most = math.MaxInt
	}
	fmt.Fprintf(a.out, "By the report of %s:\n", x.TakenAt.Local().Format(time.DateTime))
	for _, text := range []string{x.Stopped, x.TooMuch, x.Cut} {
		if text != "" {
			fmt.Fprintf(a.out, "! %s\n", text)
		}
	}
	if len(waiting) == 0 {
		fmt.Fprintln(a.out, "No change waits for approval.")
	} else {
		t := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
		fmt.Fprintln(t, "CHANGE\tREASON\tOBJECT\tWHAT")
		for _, x := range waiting {
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", gate.Token(x.ID, x.Digest), x.Reason, about(x), steps(x, most))
		}
		if err := t.Flush(); err != nil {
			return err
		}
		fmt.Fprintf(a.out, "All %d: certherd approve --all=%s\n", len(waiting), x.All)
	}
	if x.Unread != "" {
		fmt.Fprintln(a.err, "certherd: Consolidations are not listed:", x.Unread)
	}
	if len(x.Consolidations) > 0 {
		t := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
		fmt.Fprintln(t, "CONSOLIDATION\tWILDCARDS\tHOSTS\tCERTS")
		for _, y := range x.Consolidations {
			fmt.Fprintf(t, "%s\t%s\t%d\t%d\n", y.Token, strings.Join(y.Wildcards, ","), y.Hosts, y.Certificates)
		}
		if err := t.Flush(); err != nil {
			return err
		}
	}
	for _, y := range consent.Approvals {
		fmt.Fprintf(a.out, "approved %s by %s until %s", gate.Token(y.ID, y.Digest), y.By, y.Until.Local().Format(time.DateTime))
		if y.Reason != "" {
			fmt.Fprintf(a.out, ": %s", y.Reason)
		}
		fmt.Fprintln(a.out)
	}
	return nil
}

// about is what a change is about.
func about(x report.Change) string {
	first := ""
	if len(x.Steps) > 0 {
		first = x.Steps[0].Object.String()
	}
	return cmp.Or(x.Wildcard, first)
}

// steps are what a change does, at most so many of them.
func steps(x report.Change, most int) string {
	var out []string
	for i, st := range x.Steps {
		if i == most {
			out = append(out, fmt.Sprintf("and %d more steps", len(x.Steps)-i))
			break
		}
		out = append(out, st.Action+" "+st.Object.String())
	}
	return strings.Join(out, ", ")
}

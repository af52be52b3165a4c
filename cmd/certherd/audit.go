package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/certherd/certherd/controller"
	"github.com/certherd/certherd/inventory"
	"github.com/certherd/certherd/plan"
	"github.com/certherd/certherd/report"
	"github.com/certherd/certherd/simulate"
)

// docsURL is where findings lead to from other people's tools.
const docsURL = "https://github.com/certherd/certherd/blob/main/docs/reasons.md#"

// deciding adds the flags of what the checks can be told.
func deciding(c *cobra.Command, o *controller.Options) {
	*o = controller.Defaults()
	f := c.Flags()
	f.DurationVar(&o.GC.MinAge, "min-age", o.GC.MinAge, "what is younger is never called unused")
	f.DurationVar(&o.GC.RequestAge, "request-age", o.GC.RequestAge, "report finished requests without an owner when they are this old")
	f.IntVar(&o.Consolidate.MinCertificates, "min-certificates", o.Consolidate.MinCertificates, "propose a wildcard for at least so many certificates")
	f.IntVar(&o.Consolidate.MaxHosts, "max-hosts", o.Consolidate.MaxHosts, "never propose a wildcard that more hosts would share")
	f.StringSliceVar(&o.Consolidate.AllowIssuers, "allow-issuer", nil, "this issuer (Kind/name or Kind/namespace/name) is known to sign wildcards although nothing in the cluster says so; repeatable")
}

func auditCommand() *cobra.Command {
	var (
		s      source
		e      envoys
		o      controller.Options
		out    output
		failOn []string
		x      contexts
		again  watch
	)
	c := &cobra.Command{
		Use:   "audit",
		Short: "Report certificates that nobody needs, and what could become a wildcard",
		Long: `audit reads the cluster, or a dump of one, and reports which certificates are orphaned,
duplicate or superseded, which could become one wildcard, what that means for the
gateway's memory, and why each of them is what it is said to be. It writes nothing to the
cluster.

A certificate is called unused only if every kind of object was read in full and no string in
any of them could name it. Whatever could not be read makes it unknown.

With --gateway or --gateway-pods it asks Envoys themselves: how much memory they have allocated, by which the
prediction is fitted to this gateway, and which certificates they have loaded, and how often. --gateway-certs does
the latter with an answer to GET /certs that was saved before.

With --contexts or --all-contexts it looks at several clusters, at the same time, and makes one report, in which everything says
in which cluster it is. A cluster that cannot be read is a gap of the report; the audit fails if none can be.

-o name writes the objects of findings as kubectl does, without their namespaces: use it with -n. -o jsonpath= takes
kubectl's templates, of what -o json writes.

Exit codes: 0 fine, 1 the audit failed, 2 findings match --fail-on.`,
		Example: `  # The whole cluster, on the terminal
  certherd audit

  # One page to send around
  certherd audit -o html > report.html

  # In a pipeline: fail when a gateway names a Secret that is not there
  certherd audit -o sarif --fail-on MissingSecret,SharedSecretName > certherd.sarif

  # With what the gateway itself says
  kubectl -n kourier-system port-forward deployment/3scale-kourier-gateway 9000 &
  certherd audit --gateway http://127.0.0.1:9000/stats/prometheus
  curl -s http://127.0.0.1:9000/certs > certs.json; certherd audit -f dump.tar.gz --gateway-certs certs.json

  # Several clusters in one report, and what is unused in all of them
  certherd audit --contexts prod-eu,prod-us -o wide
  certherd audit --all-contexts -o jsonpath='{range .findings[?(@.verdict=="unused")]}{.cluster}{"\t"}{.object.namespace}/{.object.name}{"\n"}{end}'

  # Again and again
  certherd audit -w --every 5m

  # Without a cluster: a dump, a must-gather, or kubectl's output
  certherd audit -f examples/knative-mess
  kubectl get secrets,certificates,ingresses -A -o yaml | certherd audit -f -`,
		Args: cobra.NoArgs,
	}
	s.flags(c)
	deciding(c, &o)
	e.lookFlags(c)
	out.flag(c, "table", append(slices.Clone(report.Formats), "name", jsonPathOutput)...)
	x.flags(c, &s)
	again.flags(c, time.Minute, "the report each time that it has changed")
	c.Flags().StringSliceVar(&failOn, "fail-on", nil, "exit with 2 if there are findings with this reason, or any; repeatable")
	_ = c.RegisterFlagCompletionFunc("fail-on", cobra.FixedCompletions(append([]string{"any"}, controller.Reasons()...), cobra.ShellCompDirectiveNoFileComp))
	c.RunE = func(c *cobra.Command, _ []string) error {
		if err := errors.Join(out.check(), again.check()); err != nil {
			return err
		}
		if _, err := controller.Failed(report.Report{}, failOn); err != nil {
			return err
		}
		if err := s.scope(&o); err != nil {
			return err
		}
		if _, err := e.options(); err != nil {
			return err
		}
		names, err := x.wanted(&s, c.ErrOrStderr())
		if err != nil {
			return err
		}
		switch {
		case names != nil && e.each() != nil:
			return errors.New("--gateway, --gateway-pods and --gateway-certs do not go with several clusters")
		case again.on && (len(s.files) > 0 || e.each() != nil || len(failOn) > 0):
			return errors.New("--watch does not go with -f, --fail-on and what reads gateways")
		}
		if again.on {
			return again.run(c, func() error {
				r, err := s.report(c, names, o)
				if err != nil {
					return err
				}
				r.Normalize()
				same := r
				same.TakenAt = time.Time{}
				if changed, err := again.changed(same); !changed || err != nil {
					return err
				}
				return writeFormat(c.OutOrStdout(), out.format, &r)
			})
		}
		var r report.Report
		if names != nil {
			if r, err = s.audit(c.Context(), names, o, c.ErrOrStderr()); err != nil {
				return err
			}
			err = writeFormat(c.OutOrStdout(), out.format, &r)
		} else {
			var snapshot *inventory.Snapshot
			if snapshot, err = s.look(c.Context(), c.ErrOrStderr(), e.each()); err != nil {
				return err
			}
			if snapshot, err = e.ask(c.Context(), &s, snapshot, &o, c.ErrOrStderr()); err != nil {
				return err
			}
			r, err = writeReport(c.OutOrStdout(), c.ErrOrStderr(), out.format, snapshot, o)
		}
		if err != nil {
			return err
		}
		n, err := controller.Failed(r, failOn)
		if err == nil && n > 0 {
			err = foundError{n}
		}
		return err
	}
	return c
}

// writeReport writes the report of a Snapshot, and returns it with the counts at
// least. JSON is for clusters of any size, so that it is written part by part.
func writeReport(out, stderr io.Writer, format string, s *inventory.Snapshot, o controller.Options) (report.Report, error) {
	if format == "json" {
		a, err := controller.NewAudit(s, o)
		sayUnsafe(stderr, err)
		return a.Report, report.WriteJSON(out, &a.Report, a.Findings(), a.Changes())
	}
	r, _, err := controller.RunOnce(s, o)
	sayUnsafe(stderr, err)
	if format == "html" {
		r.Reloads = reloads(s)
	}
	return r, writeFormat(out, format, &r)
}

// sayUnsafe tells of an error of plan's own check.
func sayUnsafe(stderr io.Writer, err error) {
	if err != nil {
		fmt.Fprintln(stderr, "certherd: no changes are proposed, because one of them would not have been safe; please report this:", err)
	}
}

// report looks at a cluster, or at those of several contexts, whole.
func (s *source) report(c *cobra.Command, names []string, o controller.Options) (report.Report, error) {
	if names != nil {
		return s.audit(c.Context(), names, o, c.ErrOrStderr())
	}
	snapshot, err := s.look(c.Context(), c.ErrOrStderr(), nil)
	if err != nil {
		return report.Report{}, err
	}
	r, _, err := controller.RunOnce(snapshot, o)
	sayUnsafe(c.ErrOrStderr(), err)
	return r, nil
}

// writeFormat writes a report in one of the formats of audit.
func writeFormat(out io.Writer, format string, r *report.Report) error {
	switch {
	case format == "name":
		r.Normalize()
		var refs []report.Ref
		for _, f := range r.Findings {
			refs = append(refs, f.Object)
		}
		return writeNames(out, refs)
	case strings.HasPrefix(format, jsonPathOutput):
		r.Normalize()
		return writeJSONPath(out, format, r)
	}
	return report.Write(out, format, r, reportOptions(out))
}

// reloads predicts those that the renewals of a year cause: by cert-manager alone, and
// in batches behind a relay.
func reloads(s *inventory.Snapshot) *report.Reloads {
	f, o := simulate.Of(s), simulate.Defaults()
	o.Days = 52 * 7
	o.Budget.Largest = o.Size // certherd's relay makes one update of what comes together
	r := simulate.Simulate(f, o, s.Taken)
	out := &report.Reloads{Days: o.Days, Certificates: r.Served, Together: o.Budget.Largest, Total: report.NowAfter{Now: r.Without.Reloads, After: r.With.Reloads}, Weeks: make([]report.NowAfter, 52)}
	for day := range o.Days {
		w := &out.Weeks[day/7]
		w.Now, w.After = w.Now+r.Without.Daily[day], w.After+r.With.Daily[day]
	}
	return out
}

// reportOptions fit the output to where it goes.
func reportOptions(w io.Writer) report.Options {
	o := report.Options{Version: version()}
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		o.Width, _, _ = term.GetSize(int(f.Fd()))
		o.Color = os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
	}
	for _, c := range controller.Checks(controller.Defaults()) {
		level := report.LevelWarning
		switch {
		case c.Serious:
			level = report.LevelError
		case c.Reason == plan.Consolidatable || c.Reason == plan.NotConsolidatable:
			level = report.LevelNote
		}
		o.Rules = append(o.Rules, report.Rule{Reason: string(c.Reason), Short: c.Doc, Help: c.Doc, HelpURI: docsURL + strings.ToLower(string(c.Reason)), Level: level})
	}
	return o
}

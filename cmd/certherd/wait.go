package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/certherd/certherd/gateway"
	"github.com/certherd/certherd/steady"
)

// unsteadyError ends the program with exitUnsteady.
type unsteadyError struct {
	n      int
	waited time.Duration
}

func (e unsteadyError) Error() string {
	what := fmt.Sprintf("%d are not steady", e.n)
	if e.n == 1 {
		what = "one is not steady"
	}
	return fmt.Sprintf("after %s %s", e.waited.Round(time.Second), what)
}

func waitCommand() *cobra.Command {
	var (
		s      source
		e      envoys
		o      steady.Options
		parts  []string
		format string
	)
	c := &cobra.Command{
		Use:   "wait",
		Short: "Wait until no certificate is being issued and gateways are left in peace",
		Long: `wait returns when the cluster has come to rest, so that tests which begin then do not meet a gateway
that is being given new certificates:

  certs    every Certificate of cert-manager and of Knative is Ready, and none is being issued;
           and certherd itself holds no change for a later batch
  routes   every Knative Service, Route, DomainMapping and Ingress, and every Gateway is Ready, and so is each
           certificate that they or an Ingress of Kubernetes name
  gateway  the listeners of every Envoy that --gateway or --gateway-pods name are not being changed, do not warm
           up and do not drain

All of it has to stay so for --quiet-for without a break. wait only lists, and writes nothing.

Exit codes: 0 everything is steady, 1 it could not be looked at or the flags are wrong, 3 the time is over, and
what is not steady stands on standard output. Progress goes to standard error.`,
		Example: `  # Before the tests of a pipeline
  certherd wait --timeout 5m

  # Only what belongs to two namespaces
  certherd wait -n shop,checkout

  # The gateway, too: from inside of the cluster, or through kubectl port-forward
  certherd wait --gateway-pods ` + gateway.Kourier().String() + `
  kubectl -n kourier-system port-forward deployment/3scale-kourier-gateway 9000 &
  certherd wait --gateway http://127.0.0.1:9000/stats/prometheus

  # One look, for a program
  certherd wait --timeout 0 --quiet-for 0 -o json | jq -r '.unsteady[] | "\(.object): \(.why)"'`,
		Args: cobra.NoArgs,
	}
	s.connection(c, "wait for the objects of these namespaces alone, several with commas")
	e.flags(c)
	f := c.Flags()
	f.StringVar(&o.Home, "certherd-namespace", home, "the namespace that certherd runs in, to see what it holds for a batch")
	f.StringSliceVar(&parts, "for", nil, "what to wait for: certs, routes, gateway; without it all of them, gateway if one is named")
	f.DurationVar(&o.Timeout, "timeout", 5*time.Minute, "how long to wait; 0 looks once")
	f.DurationVar(&o.QuietFor, "quiet-for", 10*time.Second, "how long everything has to be steady without a break")
	f.StringVarP(&format, "output", "o", "", "format of what is not steady: json, or none for a table")
	_ = c.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"json"}, cobra.ShellCompDirectiveNoFileComp))
	_ = c.RegisterFlagCompletionFunc("for", cobra.FixedCompletions([]string{"certs", "routes", "gateway"}, cobra.ShellCompDirectiveNoFileComp))
	c.RunE = func(c *cobra.Command, _ []string) error {
		if format != "" && format != "json" {
			return fmt.Errorf("there is no format %q; use json, or none", format)
		}
		for _, p := range parts {
			o.For = append(o.For, steady.Part(p))
		}
		o.Namespaces = s.namespaces()
		var err error
		if o.Envoys, err = e.options(); err != nil {
			return err
		}
		if err := o.Check(); err != nil {
			return err
		}
		cfg, err := s.config()
		if err != nil {
			return err
		}
		told := newTold(c.ErrOrStderr(), s.quiet)
		o.Progress = told.look
		w, err := steady.New(cfg, o)
		if err != nil {
			return err
		}
		r, err := w.Wait(c.Context())
		told.end()
		if err != nil {
			return fmt.Errorf("cannot look at the cluster at %s: %w", cfg.Host, err)
		}
		if err := writeSteady(c.OutOrStdout(), format, r); err != nil {
			return err
		}
		if !r.Steady {
			return unsteadyError{len(r.Unsteady), r.Waited}
		}
		return nil
	}
	return c
}

// steadyDocument is what -o json writes.
type steadyDocument struct {
	Steady        bool             `json:"steady"`
	WaitedSeconds float64          `json:"waitedSeconds"`
	QuietSeconds  float64          `json:"quietSeconds"`
	Unsteady      []unsteadyObject `json:"unsteady"`
	Notes         []string         `json:"notes"`
}

type unsteadyObject struct {
	Part   string `json:"part"`
	Object string `json:"object"`
	Why    string `json:"why"`
}

func writeSteady(w io.Writer, format string, r steady.Result) error {
	if format == "json" {
		d := steadyDocument{r.Steady, r.Waited.Seconds(), r.Quiet.Seconds(), []unsteadyObject{}, append([]string{}, r.Notes...)}
		for _, u := range r.Unsteady {
			d.Unsteady = append(d.Unsteady, unsteadyObject{string(u.Part), u.Object, u.Why})
		}
		e := json.NewEncoder(w)
		e.SetEscapeHTML(false)
		e.SetIndent("", "  ")
		return e.Encode(d)
	}
	if r.Steady {
		return nil
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "PART\tOBJECT\tWHY")
	for _, u := range r.Unsteady {
		fmt.Fprintf(t, "%s\t%s\t%s\n", u.Part, u.Object, u.Why)
	}
	return t.Flush()
}

// told says on standard error how far it is: on a terminal in one line that
// changes, elsewhere in a line for each change, and one every half minute.
type told struct {
	w        io.Writer
	quiet    bool
	terminal int // columns, 0 where there is none
	last     string
	at       time.Time
	notes    int
}

func newTold(w io.Writer, quiet bool) *told {
	t := &told{w: w, quiet: quiet}
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		if t.terminal, _, _ = term.GetSize(int(f.Fd())); t.terminal == 0 {
			t.terminal = 80
		}
	}
	return t
}

func (t *told) look(r steady.Result) {
	if t.quiet {
		return
	}
	for _, n := range r.Notes[min(t.notes, len(r.Notes)):] {
		fmt.Fprintln(t.w, "certherd: "+n)
	}
	t.notes = max(t.notes, len(r.Notes))
	what := ""
	switch {
	case r.Steady:
		what = "everything is steady"
	case r.Pending:
		what = "everything is steady, to be seen for some time yet"
	default:
		u := r.Unsteady[0]
		what = fmt.Sprintf("%d not steady: %s: %s", len(r.Unsteady), u.Object, u.Why)
	}
	line := fmt.Sprintf("certherd: %3.0f s: %s", r.Waited.Seconds(), what)
	if t.terminal > 0 {
		if runes := []rune(line); len(runes) >= t.terminal {
			line = string(runes[:t.terminal-1])
		}
		fmt.Fprint(t.w, "\r\x1b[K"+line)
		return
	}
	if what != t.last || time.Since(t.at) >= 30*time.Second {
		t.last, t.at = what, time.Now()
		fmt.Fprintln(t.w, line)
	}
}

func (t *told) end() {
	if t.terminal > 0 && !t.quiet {
		fmt.Fprint(t.w, "\r\x1b[K")
	}
}

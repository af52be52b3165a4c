package main

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/certherd/certherd/simulate"
)

func simulateCommand() *cobra.Command {
	var (
		s        source
		o        = simulate.Defaults()
		fleet    int
		lifetime time.Duration
		start    string
		format   string
	)
	c := &cobra.Command{
		Use:   "simulate",
		Short: "Replay a year of renewals, with certherd and without it",
		Long: `simulate replays the renewals of a year in virtual time, as cert-manager makes them by itself, and as certherd
brings them together under a gateway's budget, and compares what gateway and certificate authorities are put
through. It writes nothing to the cluster.

The certificates are those of the cluster, of dumps (-f), or as many as --fleet says, with a lifetime
of --lifetime at random phases that --seed chooses. The same certificates, options, seed and start give the
same result.

  -o table  the comparison
  -o json   the same with the reloads of each day
  -o html   the same as a page with a plot`,
		Example: `  # What would certherd spare this cluster's gateway?
  certherd simulate

  # The same from a dump, with the budget of a gateway behind certherd's relay
  certherd simulate -f dump.yaml --largest 100

  # Ten thousand certificates of 45 days
  certherd simulate --fleet 10000 --lifetime 1080h --largest 100

  # The same, and what Envoy counts as updates of listeners behind the relay
  certherd simulate --relay --largest 100

  # The next quarter of an hour of a cluster whose certificates live for an hour
  certherd simulate --for 15m --rounds 10s --horizon 1h --early 0.95 --size 1000

  # With a plot
  certherd simulate --fleet 500 -o html > year.html`,
		Args: cobra.NoArgs,
	}
	s.flags(c)
	f := c.Flags()
	f.IntVar(&fleet, "fleet", 0, "simulate this many certificates at random phases instead of those of a cluster")
	f.DurationVar(&lifetime, "lifetime", 2160*time.Hour, "with --fleet: how long each certificate lasts; it is renewed after two thirds of that")
	f.Uint64Var(&o.Seed, "seed", o.Seed, "with --fleet: chooses the phases")
	f.IntVar(&o.Days, "days", o.Days, "days to replay")
	f.StringVar(&start, "start", "", "when the replay begins, as 2026-01-31 or 2026-01-31T12:00:00Z (default: when the look was taken; with --fleet, 2026-01-01)")
	f.IntVar(&o.Budget.Updates, "updates", o.Budget.Updates, "updates of a gateway in a period at most")
	f.DurationVar(&o.Budget.Period, "period", o.Budget.Period, "the period of --updates")
	f.DurationVar(&o.Budget.Gap, "gap", o.Budget.Gap, "least time between two updates: the gateway's drain time")
	f.IntVar(&o.Budget.Largest, "largest", o.Budget.Largest, "changes in one update: 1 for a stock Kourier, 100 with certherd's relay in front")
	f.DurationVar(&o.Horizon, "horizon", o.Horizon, "how far ahead of its time a certificate is renewed at most")
	f.Float64Var(&o.Early, "early", o.Early, "how far ahead at most, as a share (0 to 1) of the time between two renewals")
	f.IntVar(&o.Size, "size", o.Size, "certificates renewed together at most")
	f.DurationVar(&o.For, "for", 0, "replay so long instead of --days")
	f.DurationVar(&o.Rounds, "rounds", o.Rounds, "time between two rounds of certherd's rule batch")
	f.DurationVar(&o.Latency, "latency", 0, "how long cert-manager takes to issue one certificate")
	f.DurationVar(&o.Apart, "apart", 750*time.Millisecond, "how long after another cert-manager issues one on average, when many are due: it makes 20 requests a second, and needs some 15")
	f.DurationVar(&o.Gateway.Taking, "taking", 0, "how long Envoy is at one update of its listeners (default: 0.65 ms for each certificate that it loads)")
	f.BoolVar(&o.Gateway.Relay, "relay", false, "the gateway is behind certherd's relay, where a renewal changes no listener")
	f.StringVarP(&format, "output", "o", "table", "format: table, json or html")
	_ = c.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"table", "json", "html"}, cobra.ShellCompDirectiveNoFileComp))
	c.RunE = func(c *cobra.Command, _ []string) error {
		write, ok := map[string]func(io.Writer, simulate.Result) error{"table": simulate.WriteTable, "json": simulate.WriteJSON, "html": simulate.WriteHTML}[format]
		switch {
		case !ok:
			return fmt.Errorf("there is no format %q; use table, json or html", format)
		case s.selector != "":
			return errors.New("--selector does not go with simulate: a gateway sees all certificates")
		case fleet < 0 || fleet > 1_000_000:
			return errors.New("--fleet must be from 1 to 1000000")
		case fleet > 0 && len(s.files) > 0:
			return errors.New("--fleet does not go with -f: choose one")
		case fleet == 0 && c.Flags().Changed("lifetime"), fleet == 0 && c.Flags().Changed("seed"):
			return errors.New("--lifetime and --seed go with --fleet: what is in the cluster has its own lifetimes and phases")
		case lifetime < time.Minute:
			return errors.New("--lifetime must be 1m at least")
		}
		if err := o.Check(); err != nil {
			return err
		}
		from := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		certificates := simulate.Fleet{}
		if fleet == 0 {
			snapshot, err := s.look(c.Context(), c.ErrOrStderr(), nil)
			if err != nil {
				return err
			}
			from, certificates = snapshot.Taken, simulate.Of(snapshot)
			if len(certificates.Certificates) == 0 {
				return errors.New("there is no issued Certificate to replay; try --fleet 1000")
			}
		}
		if start != "" {
			var err error
			if from, err = parseStart(start); err != nil {
				return err
			}
		}
		if fleet > 0 {
			certificates = simulate.Synthetic(fleet, lifetime, o.Seed, from)
		}
		taking, relay := o.Gateway.Taking, o.Gateway.Relay
		o.Gateway = simulate.Kourier(certificates.Served())
		o.Gateway.Relay = relay
		if c.Flags().Changed("taking") {
			o.Gateway.Taking = taking
		}
		o.Progress = simulating(c.ErrOrStderr(), s.quiet)
		result := simulate.Simulate(certificates, o, from)
		o.Progress(-1)
		return write(c.OutOrStdout(), result)
	}
	return c
}

func parseStart(text string) (time.Time, error) {
	for _, layout := range []string{time.DateOnly, time.RFC3339} {
		if t, err := time.Parse(layout, text); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("cannot use --start %q: write a day such as 2026-01-31, or a time such as 2026-01-31T12:00:00Z", text)
}

// simulating shows on a terminal how far a replay is once it has taken two seconds; a
// negative part ends the line.
func simulating(w io.Writer, quiet bool) func(float64) {
	f, ok := w.(interface{ Fd() uintptr })
	if quiet || !ok || !term.IsTerminal(int(f.Fd())) {
		return func(float64) {}
	}
	begin, shown := time.Now(), -1
	return func(done float64) {
		switch percent := int(100 * done); {
		case done < 0 && shown >= 0:
			fmt.Fprint(w, "\r\x1b[K")
		case done >= 0 && time.Since(begin) > 2*time.Second && percent != shown:
			shown = percent
			fmt.Fprintf(w, "\rsimulating: %d %%", percent)
		}
	}
}

// Command batch measures what the renewals of many certificates cost a Kourier
// gateway: with cert-manager alone, with certherd, which has them renewed together,
// and with certherd's strict pacing; and in each of these once without certherd's relay and
// once with it, as two Envoys have their configuration from the same net-kourier. Each
// arm is a real stack of its own, and all run at the same time, so that they have the
// same machine. At the beginning, certherd simulate predicts what is then counted.
// docs/performance.md explains the figures.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"text/tabwriter"
	"time"
)

// settings are what the flags say.
type settings struct {
	Services    int
	For, Margin time.Duration
	Every       time.Duration // between two renewals of one certificate
	Arms        string
	LogFolder   string
	Record      string
	Off         float64
	Programs    string // folder of certherd and certherd-relay
}

// arm is one way to have certificates renewed.
type arm struct {
	name             string
	certherd, strict bool
}

var (
	arms = []arm{{"cert-manager alone", false, false}, {"certherd", true, false}, {"certherd, strict", true, true}}
	// gateways are the two Envoys of each arm.
	gateways = [2]string{"", " and relay"}
)

// row is the name of an arm's gateway.
func (a arm) row(i int) string {
	if !a.certherd && i == 1 {
		return "relay alone"
	}
	return a.name + gateways[i]
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	var s settings
	flag.IntVar(&s.Services, "services", 60, "services with a certificate each")
	flag.DurationVar(&s.For, "for", 15*time.Minute, "for how long to count")
	flag.DurationVar(&s.Every, "every", 2*time.Minute, "how long after it was issued a certificate is due")
	flag.DurationVar(&s.Margin, "margin", 57*time.Minute, "what every certificate, which lives for an hour, has to have left")
	flag.StringVar(&s.Arms, "arms", "cert-manager alone;certherd", "what to compare, with semicolons; there is \"certherd, strict\", too")
	flag.StringVar(&s.Record, "record", "", "folder for when Secrets were written, and how many updates that was, as JSON")
	flag.Float64Var(&s.Off, "off", 0.2, "how far off the prediction may be, as a share of what was counted")
	flag.StringVar(&s.LogFolder, "logs", "", "folder for the logs of certherd (default: none are kept)")
	flag.Parse()
	folder, err := os.MkdirTemp("", "certherd-bench-batch-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(folder)
	s.Programs = folder
	if s.LogFolder == "" {
		s.LogFolder = folder
	}
	build := exec.CommandContext(ctx, "go", "build", "-o", folder, "github.com/certherd/certherd/cmd/certherd", "github.com/certherd/certherd/cmd/certherd-relay")
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		return fmt.Errorf("build certherd: %w", err)
	}
	var wanted []arm
	for name := range strings.SplitSeq(s.Arms, ";") {
		i := slices.IndexFunc(arms, func(a arm) bool { return a.name == strings.TrimSpace(name) })
		if i < 0 {
			return fmt.Errorf("cannot use -arms: there is no arm %q", name)
		}
		wanted = append(wanted, arms[i])
	}
	beds := make([]*bed, len(wanted))
	defer func() {
		for _, b := range beds {
			if b != nil {
				b.close()
			}
		}
	}()
	results := make([]result, len(beds))
	errs := make([]error, len(beds))
	var running sync.WaitGroup
	for i, a := range wanted {
		progress("%s: starting a stack and making %d services", a.name, s.Services)
		running.Go(func() {
			if beds[i], errs[i] = newBed(ctx, s, a); errs[i] != nil {
				errs[i] = fmt.Errorf("%s: %w", a.name, errs[i])
			}
		})
	}
	running.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	progress("counting for %s", s.For)
	for i, b := range beds {
		running.Go(func() { results[i], errs[i] = b.measure(ctx) })
	}
	running.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	rows := [][]string{{"", "issued", "listener updates", "for each certificate", "listeners modified", "rejected", "Envoy CPU s", "Envoy peak MiB", "batches", "triggered", "triggered twice", "least time left"}}
	predicted := [][]string{{"", "certificates predicted", "issued", "listener updates predicted", "counted", "off"}}
	failed := false
	fail := func(format string, a ...any) { failed = true; fmt.Printf(format+"\n\n", a...) }
	fmt.Printf("%d certificates, each due %s after it was issued, for %s, %s, load %s:\n\n", s.Services, s.Every, s.For, time.Now().UTC().Format(time.DateOnly), load())
	for i, r := range results {
		for j, g := range r.gateways {
			rows = append(rows, []string{wanted[i].row(j), fmt.Sprint(r.issued), fmt.Sprint(g.updates), fmt.Sprintf("%.2f", float64(g.updates)/float64(max(1, r.issued))), fmt.Sprint(g.modified), fmt.Sprint(g.rejected),
				fmt.Sprintf("%.1f", g.cpu.Seconds()), fmt.Sprintf("%.0f", g.peak), fmt.Sprint(r.batches), fmt.Sprint(r.triggered), fmt.Sprint(r.twice), r.least.Round(time.Second).String()})
			predicted = append(predicted, []string{wanted[i].row(j), fmt.Sprint(r.foreseen), fmt.Sprint(r.issued), fmt.Sprint(g.predicted), fmt.Sprint(g.updates), off(g.predicted, g.updates)})
		}
	}
	table(rows)
	fmt.Printf("Predicted by certherd simulate before anything was counted:\n\n")
	table(predicted)
	for i, r := range results {
		name := wanted[i].name
		fmt.Printf("%s: before that, cert-manager took %s for a certificate and %s for each one more, and Envoy %s for an update.\n\n", name,
			r.measured.Latency.Round(time.Millisecond), r.measured.Apart.Round(time.Millisecond), r.measured.Taking.Round(100*time.Microsecond))
		if r.least < s.Margin {
			fail("%s: a certificate had %s left, and %s is the margin", name, r.least.Round(time.Second), s.Margin)
		}
		if r.twice > 0 {
			fail("%s: %d certificates were triggered twice", name, r.twice)
		}
		for j, g := range r.gateways {
			if difference := math.Abs(float64(g.predicted - g.updates)); difference > s.Off*float64(max(g.updates, 1)) {
				fail("%s: %d updates of listeners were predicted, and there were %d", wanted[i].row(j), g.predicted, g.updates)
			}
		}
		if s.Record != "" {
			if err := record(filepath.Join(s.Record, strings.NewReplacer(" ", "-", ",", "").Replace(name)+".json"), r); err != nil {
				return err
			}
		}
	}
	if i := slices.Index(wanted, arms[0]); i >= 0 {
		if j := slices.Index(wanted, arms[1]); j >= 0 {
			ratio := float64(results[i].gateways[0].updates) / float64(max(1, results[j].gateways[1].updates))
			fmt.Printf("With certherd and its relay there were %.0f times fewer updates of listeners.\n", ratio)
			failed = failed || ratio < 10
		}
	}
	if failed {
		os.Exit(2)
	}
	return nil
}

// off is how far a prediction is from what was counted.
func off(predicted, counted int) string {
	if counted == 0 {
		return fmt.Sprintf("%+d", predicted)
	}
	return fmt.Sprintf("%+.0f %%", 100*float64(predicted-counted)/float64(counted))
}

// load is the machine's (proc_loadavg(5)).
func load() string {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	return strings.Join(strings.Fields(string(text))[:3], " ")
}

// record keeps when Secrets were written, in milliseconds from the first one on, how long
// Envoy took for an update before, and how many updates of listeners there were.
func record(file string, r result) error {
	out := struct {
		TakingMicroseconds int64   `json:"takingMicroseconds"`
		Updates            int     `json:"updates"`
		Written            []int64 `json:"writtenMilliseconds"`
	}{r.measured.Taking.Microseconds(), r.gateways[0].updates, nil}
	for _, at := range r.writes {
		out.Written = append(out.Written, at.Sub(r.writes[0]).Milliseconds())
	}
	text, err := json.Marshal(out)
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(text, '\n'), 0o644)
}

func progress(format string, a ...any) { fmt.Fprintf(os.Stderr, "bench: "+format+"\n", a...) }

// table prints rows as Markdown does.
func table(rows [][]string) {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 1, ' ', 0)
	for i, r := range rows {
		fmt.Fprintln(w, "| "+strings.Join(r, "\t| ")+"\t|")
		if i == 0 {
			fmt.Fprintln(w, "|"+strings.Repeat("---\t|", len(r)))
		}
	}
	w.Flush()
	fmt.Println()
}

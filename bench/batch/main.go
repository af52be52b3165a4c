// Command batch measures what the renewals of many certificates cost a Kourier
// gateway: with cert-manager alone, with certherd, which has them renewed together,
// and with certherd and its relay. Each arm is a real stack of its own, and all run at
// the same time, so that they have the same machine. docs/performance.md explains the
// figures.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
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
	Programs    string // folder of certherd and certherd-relay
}

// arm is one way to have certificates renewed.
type arm struct {
	name            string
	certherd, relay bool
}

var arms = []arm{{"cert-manager alone", false, false}, {"certherd", true, false}, {"certherd and relay", true, true}, {"relay alone", false, true}}

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
	flag.StringVar(&s.Arms, "arms", "cert-manager alone,certherd,certherd and relay", "what to compare, with commas; there is relay alone, too")
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
	for name := range strings.SplitSeq(s.Arms, ",") {
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
	rows := [][]string{{"", "issued", "listener updates", "for each certificate", "listeners modified", "rejected", "Envoy CPU s", "Envoy peak MiB", "batches", "least time left"}}
	for i, r := range results {
		rows = append(rows, []string{wanted[i].name, fmt.Sprint(r.issued), fmt.Sprint(r.updates), fmt.Sprintf("%.2f", float64(r.updates)/float64(max(1, r.issued))), fmt.Sprint(r.modified), fmt.Sprint(r.rejected),
			fmt.Sprintf("%.1f", r.cpu.Seconds()), fmt.Sprintf("%.0f", r.peak), fmt.Sprint(r.batches), r.least.Round(time.Second).String()})
	}
	fmt.Printf("%d certificates, each due %s after it was issued, for %s, %s:\n\n", s.Services, s.Every, s.For, time.Now().UTC().Format(time.DateOnly))
	table(rows)
	failed := false
	for i, r := range results {
		if r.least < s.Margin {
			failed = true
			fmt.Printf("%s: a certificate had %s left, and %s is the margin\n", wanted[i].name, r.least.Round(time.Second), s.Margin)
		}
	}
	if i := slices.Index(wanted, arms[0]); i >= 0 {
		if j := slices.Index(wanted, arms[2]); j >= 0 {
			ratio := float64(results[i].updates) / float64(max(1, results[j].updates))
			fmt.Printf("With certherd and its relay there were %.0f times fewer listener updates.\n", ratio)
			failed = failed || ratio < 10
		}
	}
	if failed {
		os.Exit(2)
	}
	return nil
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

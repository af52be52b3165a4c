// Command bench measures what an audit of a large cluster costs, against
// listing the same kinds with typed clients, or with -service what the service does. It starts a real kube-apiserver and
// etcd, fills them once (later runs find the data in the cache), and runs
// each way of reading in a fresh process, in turn. docs/performance.md explains the
// figures.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"

	"github.com/certherd/certherd/e2e/stack"
)

func main() {
	if len(os.Args) > 2 && os.Args[1] == "child" {
		if err := child(os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			os.Exit(1)
		}
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	held, err := bench(ctx)
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	if !held {
		os.Exit(2)
	}
}

// result is what the command prints with -json.
type result struct {
	Recipe  recipe
	State   string
	Rounds  int
	Runs    map[string][]run // by way of reading, in order
	Medians map[string]run
	Budgets []budget
}

// budget is a promise with what was measured.
type budget struct {
	Text  string
	Value float64
	Limit float64
	Holds bool
}

func bench(ctx context.Context) (bool, error) {
	scale := flag.Float64("scale", 1, "size of the cluster; 1 is 30,000 certificates")
	rounds := flag.Int("rounds", 3, "how often each way of reading is measured")
	state := flag.String("state", "cache", "where the API server has list pages from: cache or etcd")
	certherd := flag.String("certherd", "", "the program to measure as a whole, with checks and report; empty measures the look alone")
	asJSON := flag.Bool("json", false, "print the result as JSON")
	fresh := flag.Bool("fresh", false, "fill the cluster anew")
	ways := flag.String("ways", strings.Join(allWays, ","), "what to measure, comma-separated")
	wait := flag.Bool("wait", false, "measure nothing: print the KUBECONFIG of the filled cluster and wait for Ctrl-C")
	service := flag.Bool("service", false, "measure certherd run instead of an audit; needs -certherd, and -rounds is how many rounds in steady state")
	flag.Parse()
	if *service && *certherd == "" {
		return false, errors.New("-service needs -certherd, the program to run")
	}
	args := []string{"--etcd-compaction-interval=0"}
	switch *state {
	case "cache":
	case "etcd":
		args = append(args, "--feature-gates=ListFromCacheSnapshot=false")
	default:
		return false, fmt.Errorf("-state is cache or etcd, not %q", *state)
	}
	r := scaled(*scale)
	s, err := start(ctx, r, args, *fresh)
	if err != nil {
		return false, err
	}
	defer s.Stop()
	if *wait {
		fmt.Println(s.Kubeconfig)
		<-ctx.Done()
		return true, nil
	}

	if *service {
		res, err := benchService(ctx, s, r, *certherd, *rounds)
		if err != nil {
			return false, err
		}
		if *asJSON {
			return hold(res.Budgets), encode(res)
		}
		printService(res)
		return hold(res.Budgets), nil
	}

	res := result{Recipe: r, State: *state, Rounds: *rounds, Runs: map[string][]run{}, Medians: map[string]run{}}
	list := strings.Split(*ways, ",")
	if *certherd != "" {
		list = append(list, "certherd", "certherd-proof")
	}
	// The first lists make the API server build its caches.
	if _, err := measure(ctx, s, "typed", *certherd); err != nil {
		return false, err
	}
	for i := range *rounds {
		for _, way := range list {
			m, err := measure(ctx, s, way, *certherd)
			if err != nil {
				return false, fmt.Errorf("%s: %w", way, err)
			}
			fmt.Fprintf(os.Stderr, "bench: round %d: %-16s %6.2f s %5.0f MiB\n", i+1, way, m.Seconds, m.PeakMiB)
			res.Runs[way] = append(res.Runs[way], m)
		}
	}
	for way, runs := range res.Runs {
		res.Medians[way] = median(runs)
	}
	res.Budgets = budgets(res.Medians)
	if *asJSON {
		return hold(res.Budgets), encode(res)
	}
	printTable(res, list)
	return hold(res.Budgets), nil
}

func hold(all []budget) bool {
	return !slices.ContainsFunc(all, func(b budget) bool { return !b.Holds })
}

func encode(x any) error {
	e := json.NewEncoder(os.Stdout)
	e.SetIndent("", "  ")
	return e.Encode(x)
}

// start starts a control plane with the recipe's objects.
func start(ctx context.Context, r recipe, args []string, fresh bool) (*stack.Stack, error) {
	cache, err := stack.CacheDir()
	if err != nil {
		return nil, err
	}
	data := filepath.Join(cache, "bench-"+r.key())
	ready := filepath.Join(data, "ready")
	if _, err := os.Stat(ready); err != nil || fresh {
		// Half of a cluster is of no use.
		if err := os.RemoveAll(data); err != nil {
			return nil, err
		}
	}
	if err := os.MkdirAll(data, 0o700); err != nil {
		return nil, err
	}
	etcd := []string{"--data-dir=" + filepath.Join(data, "etcd")}
	s, err := stack.Start(ctx, stack.Options{Level: stack.ControlPlane, Out: os.Stderr, ExtraAPIServerArgs: args, ExtraEtcdArgs: etcd})
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(ready); err == nil {
		return s, nil
	}
	cfg, err := s.RESTConfig()
	if err == nil {
		err = populate(ctx, cfg, r, os.Stderr)
	}
	if err == nil {
		err = os.WriteFile(ready, nil, 0o600)
	}
	// A fresh API server has no traces of the writes.
	if e := s.Stop(); err == nil {
		err = e
	}
	if err != nil {
		return nil, err
	}
	return stack.Start(ctx, stack.Options{Level: stack.ControlPlane, Out: os.Stderr, ExtraAPIServerArgs: args, ExtraEtcdArgs: etcd})
}

func median(runs []run) run {
	pick := func(get func(run) float64) float64 {
		v := make([]float64, len(runs))
		for i, r := range runs {
			v[i] = get(r)
		}
		slices.Sort(v)
		if n := len(v); n%2 == 0 {
			return (v[n/2-1] + v[n/2]) / 2
		}
		return v[len(v)/2]
	}
	return run{
		Seconds:    pick(func(r run) float64 { return r.Seconds }),
		CPUSeconds: pick(func(r run) float64 { return r.CPUSeconds }),
		PeakMiB:    pick(func(r run) float64 { return r.PeakMiB }),
		Requests:   pick(func(r run) float64 { return r.Requests }),
		WireMB:     pick(func(r run) float64 { return r.WireMB }),
		AllocMB:    pick(func(r run) float64 { return r.AllocMB }),
	}
}

func budgets(m map[string]run) []budget {
	var out []budget
	add := func(text string, value, limit float64) {
		out = append(out, budget{text, value, limit, value <= limit})
	}
	yard, ok := m["typed"]
	if !ok {
		return nil
	}
	for _, way := range []string{"look-proof", "certherd-proof"} {
		if x, ok := m[way]; ok {
			add(way+": time against typed", x.Seconds/yard.Seconds, 2)
			add(way+": peak RSS in MiB", x.PeakMiB, 120)
		}
	}
	for _, way := range []string{"look", "certherd"} {
		if x, ok := m[way]; ok {
			add(way+": time against typed", x.Seconds/yard.Seconds, 1)
		}
	}
	return out
}

func printTable(res result, ways []string) {
	fmt.Printf("%d certificates, %d namespaces, %d Ingresses, %d Helm Secrets, %d ConfigMaps, %d Pods; list pages from %s; median of %d\n\n",
		res.Recipe.Certificates, res.Recipe.Namespaces, res.Recipe.Ingresses, res.Recipe.Helm, res.Recipe.ConfigMaps, res.Recipe.Pods, res.State, res.Rounds)
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "\twall s\tof typed\tclient CPU s\tpeak RSS MiB\trequests\twire MB\tallocated MB\t")
	for _, way := range ways {
		m := res.Medians[way]
		ratio := "-"
		if y := res.Medians["typed"].Seconds; y > 0 {
			ratio = fmt.Sprintf("%.2f", m.Seconds/y)
		}
		fmt.Fprintf(w, "%s\t%.2f\t%s\t%.2f\t%.0f\t%s\t%s\t%s\t\n", way, m.Seconds, ratio, m.CPUSeconds, m.PeakMiB, figure(m.Requests), figure(m.WireMB), figure(m.AllocMB))
	}
	w.Flush()
	fmt.Println()
	printBudgets(res.Budgets)
}

func printBudgets(all []budget) {
	for _, b := range all {
		verdict := "holds"
		if !b.Holds {
			verdict = "DOES NOT HOLD"
		}
		fmt.Printf("%-40s %7.2f, limit %.0f: %s\n", b.Text, b.Value, b.Limit, verdict)
	}
}

func figure(v float64) string {
	if v == 0 {
		return "-"
	}
	return fmt.Sprintf("%.0f", v)
}

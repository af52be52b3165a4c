package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/certherd/certherd/controller"
	"github.com/certherd/certherd/inventory"
	"github.com/certherd/certherd/inventory/dump"
	"github.com/certherd/certherd/inventory/live"
)

// source is where a look comes from: a cluster, or dumps.
type source struct {
	files     []string
	complete  bool
	proof     bool
	quiet     bool
	selector  string
	loading   *clientcmd.ClientConfigLoadingRules
	overrides clientcmd.ConfigOverrides
}

// connection adds the flags of kubectl for a cluster; namespace says what -n means.
func (s *source) connection(c *cobra.Command, namespace string) {
	s.loading = clientcmd.NewDefaultClientConfigLoadingRules()
	f := c.Flags()
	f.StringVar(&s.loading.ExplicitPath, "kubeconfig", "", "path of the kubeconfig file to use")
	names := clientcmd.RecommendedConfigOverrideFlags("")
	names.ContextOverrideFlags.Namespace.ShortName = "n"
	names.ContextOverrideFlags.Namespace.Description = namespace
	clientcmd.BindOverrideFlags(&s.overrides, f, names)
	f.BoolVarP(&s.quiet, "quiet", "q", false, "show no progress")
	_ = c.RegisterFlagCompletionFunc("context", s.completeContexts)
}

func (s *source) completeContexts(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	raw, err := s.loading.Load()
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	var out []string
	for n := range raw.Contexts {
		out = append(out, n)
	}
	return out, cobra.ShellCompDirectiveNoFileComp
}

// flags adds connection's, and those for dumps.
func (s *source) flags(c *cobra.Command) {
	s.connection(c, "report on this namespace only; references to it are looked for everywhere")
	f := c.Flags()
	f.StringVarP(&s.selector, "selector", "l", "", "report on Secrets and Certificates with these labels only")
	f.BoolVar(&s.proof, "proof", true, "read every kind of object for strings that could name a Secret; without it nothing is called unused")
	f.StringArrayVarP(&s.files, "filename", "f", nil, "read this dump instead of a cluster: file, directory, archive, or - for standard input; repeatable")
	f.BoolVar(&s.complete, "complete", false, "the dump holds every object of the cluster")
}

// namespaces are those that -n asks for; the namespace of the kubeconfig's
// context does not count, because an audit is about the whole cluster.
func (s *source) namespaces() []string {
	if n := s.overrides.Context.Namespace; n != "" {
		return strings.Split(n, ",")
	}
	return nil
}

// scope narrows what is reported.
func (s *source) scope(o *controller.Options) error {
	o.Namespaces = s.namespaces()
	if s.selector == "" {
		return nil
	}
	var err error
	if o.Selector, err = labels.Parse(s.selector); err != nil {
		return fmt.Errorf("cannot use --selector: %w", err)
	}
	return nil
}

// look takes the Snapshot. each, if not nil, is given every object that
// becomes a record.
func (s *source) look(ctx context.Context, stderr io.Writer, each func(group, version, kind string, doc []byte)) (*inventory.Snapshot, error) {
	if len(s.files) > 0 {
		snapshot, problems, err := dump.Read(s.files, dump.Options{Complete: s.complete, Stdin: os.Stdin, Object: each})
		for i, p := range problems {
			if i == 20 {
				fmt.Fprintf(stderr, "certherd: and %d more documents that could not be read\n", len(problems)-i)
				break
			}
			fmt.Fprintln(stderr, "certherd:", p)
		}
		return snapshot, err
	}
	if s.complete {
		return nil, errors.New("--complete goes with -f: it says that a dump holds everything")
	}
	cfg, err := s.config()
	if err != nil {
		return nil, err
	}
	// What a look leaves behind is small, what it reads on the way is not.
	debug.SetGCPercent(live.GCPercent)
	forgetPages()
	progress := newProgress(stderr, s.quiet)
	snapshot, _, err := live.Look(ctx, cfg, live.Options{
		Namespaces: s.namespaces(),
		Proof:      s.proof,
		Progress:   progress.show,
		Object:     each,
		Now:        time.Now,
	})
	progress.end()
	// Checks and report take the place of what was read, instead of more.
	debug.FreeOSMemory()
	forgetPages()
	switch {
	case apierrors.IsUnauthorized(err):
		return nil, fmt.Errorf("the API server %s does not know who you are: %w; log in again, or choose another --context", cfg.Host, err)
	case err != nil:
		return nil, fmt.Errorf("cannot look at the cluster at %s: %w; check --kubeconfig and --context, or read a dump with -f", cfg.Host, err)
	}
	return snapshot, nil
}

func (s *source) config() (*rest.Config, error) {
	cc := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(s.loading, &s.overrides)
	cfg, err := cc.ClientConfig()
	if clientcmd.IsEmptyConfig(err) {
		if in, inErr := rest.InClusterConfig(); inErr == nil {
			return in, nil
		}
		return nil, errors.New("there is no cluster to look at: set KUBECONFIG or --kubeconfig, or read a dump with -f")
	}
	if err != nil {
		return nil, fmt.Errorf("cannot use the kubeconfig: %w", err)
	}
	cfg.UserAgent = "certherd/" + version()
	return cfg, nil
}

// progress is one line on a terminal that says what is being read. Where
// standard error is no terminal it stays silent.
type progress struct {
	w     io.Writer
	width int
	shown bool
	last  time.Time
}

func newProgress(w io.Writer, quiet bool) *progress {
	p := &progress{}
	if f, ok := w.(*os.File); ok && !quiet && term.IsTerminal(int(f.Fd())) {
		p.w = w
		p.width, _, _ = term.GetSize(int(f.Fd()))
	}
	return p
}

func (p *progress) show(x live.Progress) {
	if p.w == nil || time.Since(p.last) < 100*time.Millisecond {
		return
	}
	p.last, p.shown = time.Now(), true
	line := fmt.Sprintf("reading %s (%d of %d kinds, %d objects)", x.Kind, x.Kinds, x.Of, x.Objects)
	if p.width > 0 && len(line) >= p.width {
		line = line[:p.width-1]
	}
	fmt.Fprintf(p.w, "\r\x1b[K%s", line)
}

func (p *progress) end() {
	if p.shown {
		fmt.Fprint(p.w, "\r\x1b[K")
	}
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/spf13/cobra"

	"github.com/certherd/certherd/controller"
	"github.com/certherd/certherd/report"
)

// lookingAtOnce is how many clusters are looked at at the same time: each look takes
// memory for what it has read.
const lookingAtOnce = 4

// contexts are the flags of a report on several clusters.
type contexts struct {
	names []string
	all   bool
}

func (x *contexts) flags(c *cobra.Command, s *source) {
	c.Flags().StringSliceVar(&x.names, "contexts", nil, "report on the clusters of these contexts of the kubeconfig, in one report")
	c.Flags().BoolVar(&x.all, "all-contexts", false, "report on the clusters of all contexts, in one report")
	_ = c.RegisterFlagCompletionFunc("contexts", s.completeContexts)
}

// wanted are the contexts to look at, nil for the one of the source alone. Of all
// contexts that lead to one server only the first counts.
func (x *contexts) wanted(s *source, stderr io.Writer) ([]string, error) {
	if !x.all && x.names == nil {
		return nil, nil
	}
	switch {
	case x.all && x.names != nil:
		return nil, errors.New("--contexts does not go with --all-contexts")
	case len(s.files) > 0:
		return nil, errors.New("--contexts and --all-contexts do not go with -f")
	case s.overrides.CurrentContext != "" || s.overrides.Context.Cluster != "" || s.overrides.ClusterInfo.Server != "":
		return nil, errors.New("--contexts and --all-contexts do not go with --context, --cluster and --server")
	}
	raw, err := s.loading.Load()
	if err != nil {
		return nil, fmt.Errorf("cannot use the kubeconfig: %w", err)
	}
	if !x.all {
		names := slices.Clone(x.names)
		slices.Sort(names)
		names = slices.Compact(names)
		for _, n := range names {
			if raw.Contexts[n] == nil {
				return nil, fmt.Errorf("the kubeconfig has no context %q; there are %s", n, strings.Join(slices.Sorted(maps.Keys(raw.Contexts)), ", "))
			}
		}
		if len(names) == 0 {
			return nil, errors.New("--contexts names none")
		}
		return names, nil
	}
	var names []string
	first := map[string]string{}
	for _, n := range slices.Sorted(maps.Keys(raw.Contexts)) {
		if c := raw.Clusters[raw.Contexts[n].Cluster]; c != nil {
			if same, ok := first[c.Server]; ok {
				fmt.Fprintf(stderr, "certherd: the context %s leads to the same server as %s, and is left out\n", n, same)
				continue
			}
			first[c.Server] = n
		}
		names = append(names, n)
	}
	if len(names) == 0 {
		return nil, errors.New("the kubeconfig has no context")
	}
	return names, nil
}

// audit looks at the clusters of contexts and makes one report. One that cannot be
// looked at is a Gap of it; an error is returned if none can.
func (s *source) audit(ctx context.Context, names []string, o controller.Options, stderr io.Writer) (report.Report, error) {
	var (
		group  sync.WaitGroup
		mu     sync.Mutex
		slots  = make(chan struct{}, lookingAtOnce)
		read   = map[string]report.Report{}
		failed = map[string]error{}
	)
	for _, name := range names {
		group.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			one := *s
			one.overrides.CurrentContext = name
			one.quiet = true // lines of several would write over each other
			snapshot, err := one.look(ctx, io.Discard, nil)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				failed[name] = err
				fmt.Fprintf(stderr, "certherd: not read: %s: %v\n", name, err)
				return
			}
			r, _, err := controller.RunOnce(snapshot, o)
			if err != nil {
				fmt.Fprintf(stderr, "certherd: no changes are proposed for %s, because one of them would not have been safe; please report this: %v\n", name, err)
			}
			read[name] = r
		})
	}
	group.Wait()
	if len(read) == 0 {
		return report.Report{}, errors.New("no cluster could be read")
	}
	return report.Merge(read, failed), ctx.Err()
}

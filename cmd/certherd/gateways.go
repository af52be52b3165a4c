package main

import (
	"context"
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/client-go/rest"

	"github.com/certherd/certherd/controller"
	"github.com/certherd/certherd/cost"
	"github.com/certherd/certherd/gateway"
	"github.com/certherd/certherd/inventory"
)

// envoys are the flags that say where gateways can be read.
type envoys struct {
	pages, pods, saved []string
	serials            gateway.Serials
}

func (e *envoys) flags(c *cobra.Command) {
	f := c.Flags()
	f.StringArrayVar(&e.pages, "gateway", nil, "URL of an Envoy: its page of statistics, such as http://127.0.0.1:9000/stats/prometheus, or its admin interface; repeatable")
	f.StringArrayVar(&e.pods, "gateway-pods", nil, "Envoys that run as Pods: namespace/labelselector:port/path, for Kourier "+gateway.Kourier().String()+"; repeatable")
}

func (e *envoys) options() (o gateway.Options, err error) {
	for _, page := range e.pages {
		if err := gateway.CheckURL(page); err != nil {
			return o, fmt.Errorf("cannot use --gateway: %w", err)
		}
		// The admin interface itself will do, too.
		if u, err := url.Parse(page); err == nil && strings.Trim(u.Path, "/") == "" {
			page = u.JoinPath("stats/prometheus").String()
		}
		o.Pages = append(o.Pages, page)
	}
	for _, text := range e.pods {
		p, err := gateway.ParsePods(text)
		if err != nil {
			return o, fmt.Errorf("cannot use --gateway-pods: %w", err)
		}
		o.Pods = append(o.Pods, p)
	}
	return o, nil
}

// lookFlags are flags, and what a look can do with an answer that was saved.
func (e *envoys) lookFlags(c *cobra.Command) {
	e.flags(c)
	c.Flags().StringArrayVar(&e.saved, "gateway-certs", nil, "file with the answer of an Envoy to GET /certs; repeatable")
}

// each is for source.look: nil where no certificate has to be told from others.
func (e *envoys) each() func(group, version, kind string, doc []byte) {
	if len(e.pages)+len(e.pods)+len(e.saved) == 0 {
		return nil
	}
	return e.serials.Object
}

// ask asks the gateways, if any are named. The Snapshot that it returns knows that what
// they have loaded is in use. What cannot be read is said on stderr, and left out.
func (e *envoys) ask(ctx context.Context, s *source, snapshot *inventory.Snapshot, o *controller.Options, stderr io.Writer) (*inventory.Snapshot, error) {
	options, err := e.options()
	if err != nil || e.each() == nil {
		return snapshot, err
	}
	var loaded [][]cost.Loaded
	for _, name := range e.saved {
		f, err := os.Open(name)
		if err != nil {
			return nil, fmt.Errorf("cannot use --gateway-certs: %w", err)
		}
		l, err := gateway.ParseCertificates(f)
		f.Close()
		if err != nil {
			return nil, fmt.Errorf("cannot use --gateway-certs %s: %w", name, err)
		}
		loaded = append(loaded, l)
	}
	complete := true
	var measured cost.Measured
	if len(e.pages)+len(e.pods) > 0 {
		var cfg *rest.Config
		if len(e.pods) > 0 {
			if cfg, err = s.config(); err != nil {
				return nil, err
			}
		}
		options.EnvoysOnly = true
		r, err := gateway.New(cfg, options)
		if err != nil {
			return nil, err
		}
		now := r.Read(ctx)
		l, unread := r.Certificates(ctx)
		for _, text := range append(now.Unread, unread...) {
			fmt.Fprintln(stderr, "certherd: not read: "+text)
		}
		if len(now.Envoys)+len(now.Unread) == 0 {
			fmt.Fprintln(stderr, "certherd: not read: no Pod of a gateway runs")
		}
		// With one that is unread nobody knows what is not loaded.
		complete = len(unread) == 0 && len(now.Envoys) > 0
		measured = now.Measured()
		if complete {
			measured.Certificates = len(l)
		}
		loaded = append(loaded, l)
	}
	if measured.Envoys > 0 {
		known := cost.Gateways(snapshot, nil, nil)
		if len(known) == 1 {
			o.Measured = map[inventory.Ref]cost.Measured{known[0].Workload.Ref: measured}
		} else {
			fmt.Fprintf(stderr, "certherd: %d gateways are known, so that nobody can tell which of them was measured\n", len(known))
		}
	}
	if complete {
		o.Loads = cost.Find(snapshot, gateway.MostLoaded(loaded...), e.serials.Of(snapshot))
		snapshot = snapshot.With(o.Loads.Evidence(snapshot)...)
	}
	return snapshot, nil
}

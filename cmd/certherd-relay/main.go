// Command certherd-relay relays xDS from net-kourier's controller to its Envoys. It
// is a program of its own because the xDS libraries would double what an audit
// needs.
//
// This package is flags and wiring; it decides nothing.
package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/certherd/certherd/relay"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := rootCommand().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "certherd-relay: "+err.Error())
		os.Exit(1)
	}
}

func rootCommand() *cobra.Command {
	o, level, pod := relay.Defaults(), "info", podFromEnvironment()
	c := &cobra.Command{
		Use:   "certherd-relay",
		Short: "Give Kourier's gateways only what changed, once, in a stable form",
		Long: `certherd-relay stands between net-kourier's controller and its Envoys. It follows the
controller as a gateway would, and serves the gateways: in a stable order, with the certificates
as secrets of their own, and with listeners replaced no faster than Envoy can drain them. See
docs/relay.md.

Gateways come to it when their bootstrap configuration has its address as xds_cluster. It sends
nothing before it has a complete state, and goes on serving the last one when the controller is
away. Several replicas need no leader.`,
		Example: `  # Beside Kourier in a cluster
  certherd-relay --upstream net-kourier-controller.knative-serving:18000

  # As a sidecar of the gateway
  certherd-relay --listen 127.0.0.1:18000 --drain-time 15s

  # With mutual TLS to the gateways
  certherd-relay --listen-cert tls.crt --listen-key tls.key --listen-client-ca ca.crt

  # What it has and what it hands out, without keys
  certherd-relay dump`,
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(c *cobra.Command, _ []string) error {
			log, err := newLog(level)
			if err != nil {
				return err
			}
			defer func() { _ = log.Sync() }()
			if os.Getenv("GOGC") == "" {
				debug.SetGCPercent(relay.GCPercent)
			}
			o.Log, o.Version = log, version()
			tell, stop, err := pod.events(log)
			if err != nil {
				return err
			}
			defer stop()
			o.Tell = tell
			r, err := relay.New(o)
			if err != nil {
				return err
			}
			return r.Run(c.Context(), func(net.Addr, net.Addr) {})
		},
	}
	f := c.Flags()
	f.StringVar(&o.Upstream, "upstream", o.Upstream, "xDS address of net-kourier's controller")
	f.StringVar(&o.NodeID, "node-id", o.NodeID, "node id to ask the controller for: that of the gateways' bootstrap configuration")
	f.StringVar(&o.NodeCluster, "node-cluster", o.NodeCluster, "node cluster to go with it")
	f.StringVar(&o.UpstreamTLS.CA, "upstream-ca", "", "file with the CA of the controller's certificate; without it, there is no TLS to the controller")
	f.StringVar(&o.UpstreamTLS.Certificate, "upstream-cert", "", "file with the certificate to show to the controller")
	f.StringVar(&o.UpstreamTLS.Key, "upstream-key", "", "file with its key")
	f.StringVar(&o.UpstreamTLS.ServerName, "upstream-server-name", "", "name that the controller's certificate must have (default: the host of --upstream)")
	f.StringVar(&o.Listen, "listen", o.Listen, "address that gateways are served at")
	f.StringVar(&o.ListenTLS.Certificate, "listen-cert", "", "file with the certificate to show to gateways; without it, there is no TLS to them")
	f.StringVar(&o.ListenTLS.Key, "listen-key", "", "file with its key")
	f.StringVar(&o.ListenTLS.ClientCA, "listen-client-ca", "", "file with the CA that must have signed the gateways' certificates")
	f.StringVar(&o.Local, "local", o.Local, "address of metrics, health and, for callers from the same host, the dump")
	f.DurationVar(&o.Pace.Period, "drain-time", o.Pace.Period, "drain time of the gateways (their --drain-time-s)")
	f.IntVar(&o.Pace.Updates, "listener-updates", o.Pace.Updates, "how many listener updates a gateway gets within one drain time")
	f.DurationVar(&o.Pace.Debounce, "listener-debounce", o.Pace.Debounce, "how long listeners must have stayed the same before they are sent")
	f.DurationVar(&o.Pace.Patience, "listener-patience", o.Pace.Patience, "how long listeners that go on changing may be held by the debounce")
	f.BoolVar(&o.Shape.SDS, "sds", o.Shape.SDS, "hand certificates out as secrets, so that a renewal changes no listener")
	f.BoolVar(&o.Shape.Merge, "merge", o.Shape.Merge, "make one filter chain of those that differ in server names alone")
	f.BoolVar(&o.Shape.OnDemand, "on-demand", false, "let gateways load certificates when they are first asked for (Envoy 1.37 or newer)")
	f.StringSliceVar(&o.Shape.Prefetch, "prefetch", nil, "with --on-demand, server names whose certificates are loaded at once")
	f.StringVar(&pod.kubeconfig, "kubeconfig", "", "kubeconfig file for the API server that gets Events on the relay's pod (default: the cluster that it runs in, if any)")
	f.StringVar(&level, "log-level", level, "debug, info, warn or error")
	c.AddCommand(dumpCommand(), &cobra.Command{
		Use: "version", Short: "Print the version", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			_, err := fmt.Fprintln(c.OutOrStdout(), version())
			return err
		},
	})
	return c
}

func dumpCommand() *cobra.Command {
	address := "http://127.0.0.1:9105"
	c := &cobra.Command{
		Use:   "dump",
		Short: "Print what a running relay has and hands out, without keys",
		Long: `dump asks a relay on the same host for what it got from the controller, what it made of it, and what
each gateway runs. Private keys are left out.`,
		Example: `  # In a cluster
  kubectl -n kourier-system exec deploy/certherd-relay -- certherd-relay dump

  # Which gateways do not run what they should?
  certherd-relay dump | jq '.gateways[] | select(.types[] | .behindSeconds > 0)'`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(c.Context(), time.Minute)
			defer cancel()
			request, err := http.NewRequestWithContext(ctx, http.MethodGet, address+"/dump", nil)
			if err != nil {
				return fmt.Errorf("cannot use --address: %w", err)
			}
			answer, err := http.DefaultClient.Do(request)
			if err != nil {
				return fmt.Errorf("no relay answers; name its --local address with --address: %w", err)
			}
			defer answer.Body.Close()
			if answer.StatusCode != http.StatusOK {
				text, err := io.ReadAll(io.LimitReader(answer.Body, 1<<10))
				if err != nil {
					return err
				}
				return fmt.Errorf("the relay answers %s: %s", answer.Status, text)
			}
			_, err = io.Copy(c.OutOrStdout(), answer.Body)
			return err
		},
	}
	c.Flags().StringVar(&address, "address", address, "URL of the relay's --local address")
	return c
}

func newLog(level string) (*zap.Logger, error) {
	c := zap.NewProductionConfig()
	if err := c.Level.UnmarshalText([]byte(level)); err != nil {
		return nil, fmt.Errorf("cannot use --log-level: %w; use debug, info, warn or error", err)
	}
	c.Sampling, c.DisableStacktrace = nil, true
	c.EncoderConfig.TimeKey, c.EncoderConfig.EncodeTime = "time", zapcore.ISO8601TimeEncoder
	c.EncoderConfig.EncodeDuration = zapcore.SecondsDurationEncoder
	log, err := c.Build()
	if err != nil {
		return nil, fmt.Errorf("cannot log: %w", err)
	}
	return log.Named("relay"), nil
}

// released is the version of a release, set when it is linked.
var released string

// version is the release, else what the go command knows of the build.
func version() string {
	if released != "" {
		return released
	}
	if b, ok := debug.ReadBuildInfo(); ok && b.Main.Version != "" && b.Main.Version != "(devel)" {
		return b.Main.Version
	}
	return "devel"
}

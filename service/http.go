package service

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/http/pprof"
	"sync"
	"time"
	"weak"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.uber.org/zap"

	"github.com/certherd/certherd/report"
	"github.com/certherd/certherd/web"
)

// published is a report as it is kept until the next one. Findings and changes, which
// are most of one, are kept compressed: a large cluster's take tens of MiB, and are
// looked at now and then.
type published struct {
	outline  report.Report     // without findings and changes
	findings map[[2]string]int // their number by reason and verdict
	packed   []byte            // the whole report, as pack packs it
	options  report.Options

	mu    sync.Mutex
	forms map[string][]byte // compressed
	last  weak.Pointer[report.Report]
}

func publish(r *report.Report, o report.Options) (*published, error) {
	packed, err := pack(r)
	if err != nil {
		return nil, err
	}
	p := &published{outline: *r, findings: map[[2]string]int{}, packed: packed, options: o}
	p.outline.Findings, p.outline.Changes = nil, nil
	for _, f := range r.Findings {
		p.findings[[2]string{f.Reason, f.Verdict}]++
	}
	return p, nil
}

// whole is all of the report.
func (p *published) whole() (*report.Report, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.unpacked()
}

// unpacked is whole for a caller that holds mu.
func (p *published) unpacked() (*report.Report, error) {
	if r := p.last.Value(); r != nil {
		return r, nil
	}
	r := new(report.Report)
	if err := unpack(p.packed, math.MaxInt64, r); err != nil {
		return nil, err
	}
	p.last = weak.Make(r)
	return r, nil
}

func (p *published) as(format string) ([]byte, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	packed, ok := p.forms[format]
	if format == "json" {
		packed, ok = p.packed, true
	}
	if ok {
		return expand(packed)
	}
	r, err := p.unpacked()
	if err != nil {
		return nil, err
	}
	// Never more than one form of it is in memory.
	if packed, err = compress(func(w io.Writer) error { return report.Write(w, format, r, p.options) }); err != nil {
		return nil, err
	}
	if p.forms == nil {
		p.forms = map[string][]byte{}
	}
	p.forms[format] = packed
	return expand(packed)
}

func (s *Service) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", s.healthz)
	mux.HandleFunc("GET /readyz", s.readyz)
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.metrics.registry, promhttp.HandlerOpts{ErrorLog: zap.NewStdLog(s.log)}))
	page := s.newPage()
	for _, path := range web.Paths() {
		mux.Handle(path, page)
	}
	mux.Handle("GET /report", page.Guard(s.show("html", "text/html; charset=utf-8")))
	mux.Handle("GET /report.json", page.Guard(s.show("json", "application/json")))
	mux.Handle("GET /since.json", page.Guard(http.HandlerFunc(s.sinceJSON)))
	mux.Handle("GET /loglevel", s.o.Level)
	mux.Handle("PUT /loglevel", fromWithin(s.o.Level))
	if s.o.Pprof {
		mux.Handle("/debug/pprof/", fromWithin(http.HandlerFunc(pprof.Index)))
		mux.Handle("/debug/pprof/cmdline", fromWithin(http.HandlerFunc(pprof.Cmdline)))
		mux.Handle("/debug/pprof/profile", fromWithin(http.HandlerFunc(pprof.Profile)))
		mux.Handle("/debug/pprof/symbol", fromWithin(http.HandlerFunc(pprof.Symbol)))
		mux.Handle("/debug/pprof/trace", fromWithin(http.HandlerFunc(pprof.Trace)))
	}
	return mux
}

// fromWithin lets callers pass that are in the same Pod, as kubectl
// port-forward is.
func fromWithin(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, _ := net.SplitHostPort(r.RemoteAddr)
		if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() {
			http.Error(w, "this is for callers from the Pod itself: use kubectl port-forward", http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// healthz fails when a round hangs, which only a new start can end.
func (s *Service) healthz(w http.ResponseWriter, _ *http.Request) {
	if c := s.began.Load(); c != 0 {
		// Carrying changes out is paced, and may take longer than the look.
		if d := time.Since(time.Unix(0, c)); d > 2*s.o.RoundTimeout {
			http.Error(w, fmt.Sprintf("a round has been under way for %s", d.Round(time.Second)), http.StatusInternalServerError)
			return
		}
	}
	fmt.Fprintln(w, "ok")
}

// readyz says whether there is something to show.
func (s *Service) readyz(w http.ResponseWriter, _ *http.Request) {
	switch {
	case s.ending.Load():
		http.Error(w, "ending", http.StatusServiceUnavailable)
	case s.config.Load() == nil:
		http.Error(w, "the ConfigMap of the configuration could not be looked for yet", http.StatusServiceUnavailable)
	case s.newest.Load() == nil:
		http.Error(w, "the first look at the cluster has not ended yet", http.StatusServiceUnavailable)
	default:
		fmt.Fprintln(w, "ok")
	}
}

func (s *Service) show(format, contentType string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		p := s.newest.Load()
		if p == nil {
			w.Header().Set("Retry-After", "10")
			http.Error(w, "the first look at the cluster has not ended yet", http.StatusServiceUnavailable)
			return
		}
		b, err := p.as(format)
		if err != nil {
			s.log.Error("report not shown", zap.String("format", format), zap.Error(err))
			http.Error(w, "the report cannot be shown: see the log", http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", contentType)
		w.Header().Set("X-Content-Type-Options", "nosniff")
		if s.o.Page != web.Private {
			w.Header().Set("Cache-Control", "no-cache")
		}
		http.ServeContent(w, r, "", p.outline.TakenAt, bytes.NewReader(b))
	}
}

// serve answers until ctx ends, and then finishes what it has begun.
func (s *Service) serve(ctx context.Context, l net.Listener) error {
	server := &http.Server{
		Handler: s.handler(), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10,
		ErrorLog: zap.NewStdLog(s.log),
	}
	done := make(chan error, 1)
	go func() { done <- server.Serve(l) }()
	select {
	case err := <-done:
		return fmt.Errorf("the HTTP server ended: %w", err)
	case <-ctx.Done():
	}
	draining, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if err := server.Shutdown(draining); err != nil {
		_ = server.Close()
	}
	if err := <-done; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

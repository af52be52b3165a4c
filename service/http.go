package service

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.uber.org/zap"

	"github.com/certherd/certherd/report"
	"github.com/certherd/certherd/web"
)

// published is a report with the forms in which it was asked for.
type published struct {
	report  report.Report
	options report.Options

	mu    sync.Mutex
	forms map[string][]byte
}

func (p *published) as(format string) ([]byte, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if b, ok := p.forms[format]; ok {
		return b, nil
	}
	var b bytes.Buffer
	if err := report.Write(&b, format, &p.report, p.options); err != nil {
		return nil, err
	}
	if p.forms == nil {
		p.forms = map[string][]byte{}
	}
	p.forms[format] = b.Bytes()
	return b.Bytes(), nil
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
		http.ServeContent(w, r, "", p.report.TakenAt, bytes.NewReader(b))
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

package gateway

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// wanted are the statistics that are read, for Envoy's admin interface, which
// matches it with their names (docs/root/operations/admin.rst there, GET /stats).
// Without it the page of a gateway with thousands of clusters has many megabytes.
const wanted = `update_rejected$|listener_create_failure$|downstream_rq_[0-9x]+$|downstream_rq_completed$|^server\.(uptime|memory_allocated|memory_physical_size)$|` +
	`^listener_manager\.(listener_(added|modified|in_place_updated|removed)|total_listeners_(warming|draining)|total_filter_chains_draining)$`

// pageLimit is the most bytes of a page that are read.
const pageLimit = 64 << 20

// page reads one Envoy's page.
func (r *Reader) page(ctx context.Context, page string) (Envoy, error) {
	u, err := url.Parse(page)
	if err != nil {
		return Envoy{}, err
	}
	if u.RawQuery == "" && strings.HasSuffix(u.Path, "/stats/prometheus") {
		u.RawQuery = "usedonly&filter=" + url.QueryEscape(wanted)
	}
	ctx, cancel := context.WithTimeout(ctx, r.o.Timeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return Envoy{}, err
	}
	response, err := r.http.Do(request)
	if err != nil {
		return Envoy{}, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return Envoy{}, fmt.Errorf("its page says %s", response.Status)
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(io.LimitReader(response.Body, pageLimit))
	if err != nil {
		return Envoy{}, fmt.Errorf("its page is none of Prometheus: %w", err)
	}
	if families["envoy_server_uptime"] == nil {
		return Envoy{}, fmt.Errorf("its page is none of an Envoy: it has no envoy_server_uptime")
	}
	return count(families), nil
}

// count adds up what a page says. The names are those that Envoy makes of its
// statistics (source/server/admin/prometheus_stats.cc there): listener_manager.lds.update_rejected
// becomes envoy_listener_manager_lds_update_rejected, and what varies in a name
// becomes a label.
func count(families map[string]*dto.MetricFamily) Envoy {
	e := Envoy{Rejected: map[string]float64{}}
	completed := 0.0
	for name, f := range families {
		for _, m := range f.GetMetric() {
			labels := map[string]string{}
			for _, l := range m.GetLabel() {
				labels[l.GetName()] = l.GetValue()
			}
			n := m.GetCounter().GetValue() + m.GetGauge().GetValue() + m.GetUntyped().GetValue()
			prefix := labels["envoy_http_conn_manager_prefix"]
			served := prefix != "" && prefix != "admin" && prefix != "stats_server"
			switch {
			case name == "envoy_server_uptime":
				e.Uptime = n
			case name == "envoy_server_memory_allocated":
				e.Memory.Allocated = n
			case name == "envoy_server_memory_physical_size":
				e.Memory.Physical = n
			case name == "envoy_listener_manager_listener_added", name == "envoy_listener_manager_listener_removed",
				name == "envoy_listener_manager_listener_modified", name == "envoy_listener_manager_listener_in_place_updated":
				e.Listeners.Changes += n
			case name == "envoy_listener_manager_total_listeners_warming":
				e.Listeners.Warming += n
			case name == "envoy_listener_manager_total_listeners_draining", name == "envoy_listener_manager_total_filter_chains_draining":
				e.Listeners.Draining += n
			case strings.HasSuffix(name, "_update_rejected"), name == "envoy_listener_manager_listener_create_failure":
				e.Rejected[name] += n
			case name == "envoy_http_downstream_rq_completed" && served:
				completed += n
			case name == "envoy_http_downstream_rq_xx" && served:
				e.Responses += n
				if labels["envoy_response_code_class"] == "5" {
					e.Failed += n
				}
			}
		}
	}
	// An Envoy that counts no classes still counts requests.
	e.Responses = max(e.Responses, completed)
	return e
}

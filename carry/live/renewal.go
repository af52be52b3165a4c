package live

import (
	"encoding/json"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/rest"

	"github.com/certherd/certherd/inventory"
)

// Windows are when wildcards that certherd makes may be renewed, as cert-manager has
// it from 1.21 on (spec.renewal.windows of a Certificate; its
// pkg/apis/certmanager/v1/types_certificate.go). The zero Windows are at any time.
type Windows struct {
	List []Window
	// Every is the longest time between two openings.
	Every time.Duration
}

// Window opens at each time of Cron, whose time zone is an IANA name, empty for UTC.
type Window struct {
	Cron, TimeZone string
	Duration       time.Duration
}

// fit reports whether a certificate like one that was issued finds a window early
// enough: where there is none before its end, cert-manager renews it at any time, and
// calls it not Ready (pkg/controller/certificates/readiness there).
func (w Windows) fit(like *unstructured.Unstructured) bool {
	at := func(field string) time.Time {
		text, _, _ := unstructured.NestedString(like.Object, "status", field)
		t, _ := time.Parse(time.RFC3339, text) // zero where it has none
		return t
	}
	renewal, end := at("renewalTime"), at("notAfter")
	if len(w.List) == 0 || w.Every <= 0 || renewal.IsZero() || end.IsZero() {
		return false
	}
	for _, x := range w.List {
		// A window of no length makes cert-manager 1.21 panic
		// (internal/controller/certificates/policies/checks.go there).
		if x.Duration < time.Minute || x.Cron == "" {
			return false
		}
	}
	return 3*w.Every <= end.Sub(renewal)
}

// Renewal is what spec.renewal of a Certificate like one that was issued says; nil where
// it is better left alone.
func (w Windows) Renewal(like *unstructured.Unstructured) map[string]any {
	if !w.fit(like) {
		return nil
	}
	var list []any
	for _, x := range w.List {
		m := map[string]any{"cron": x.Cron, "windowDuration": x.Duration.String()}
		if x.TimeZone != "" {
			m["timezone"] = x.TimeZone
		}
		list = append(list, m)
	}
	return map[string]any{"policy": "RenewBefore", "windows": list}
}

// RenewalWindowsServed reports whether the Certificates of a cluster have
// spec.renewal.windows: an API server drops fields that a schema lacks, and says
// nothing.
func RenewalWindowsServed(cfg *rest.Config) (bool, error) {
	d, err := discovery.NewDiscoveryClientForConfig(cfg)
	if err != nil {
		return false, err
	}
	paths, err := d.OpenAPIV3().Paths()
	if err != nil {
		return false, err
	}
	group, ok := paths["apis/"+inventory.GroupCertManager+"/v1"]
	if !ok {
		return false, nil
	}
	text, err := group.Schema("application/json")
	if err != nil {
		return false, err
	}
	type schema struct {
		Properties map[string]json.RawMessage
	}
	var document struct {
		Components struct{ Schemas map[string]schema }
	}
	if err := json.Unmarshal(text, &document); err != nil {
		return false, err
	}
	at := document.Components.Schemas["io.cert-manager.v1.Certificate"]
	for _, field := range []string{"spec", "renewal"} {
		raw := at.Properties[field]
		at = schema{}
		if raw == nil || json.Unmarshal(raw, &at) != nil {
			return false, nil
		}
	}
	return at.Properties["windows"] != nil, nil
}

// renewal is RenewalWindowsServed, and Renewal; nil where anything speaks against it.
func (r *Carrier) renewal(like *unstructured.Unstructured) map[string]any {
	windows := r.o.Windows.Renewal(like)
	if windows == nil {
		return nil
	}
	if served, err := RenewalWindowsServed(r.cfg); err != nil || !served {
		return nil // it is renewed at any time, as ever
	}
	return windows
}

package inventory

import (
	"fmt"
	"testing"
	"time"
)

// TestWorkload reads the ways in which a gateway is told its drain time.
func TestWorkload(t *testing.T) {
	for args, want := range map[string]int{
		`["--drain-time-s 15"]`:                                       15,
		`["--drain-time-s", "15"]`:                                    15,
		`["--drain-time-s=15"]`:                                       15,
		`["--base-id 1", "--drain-time-s $(DRAIN_TIME_SECONDS)"]`:     45, // net-kourier config/300-gateway.yaml
		`["--drain-time-s $(NOWHERE)"]`:                               600,
		`["--drain-strategy immediate", "--drain-timeout-minutes 3"]`: 600, // Envoy's default
	} {
		c := NewCollector()
		kept, err := c.Add("apps", "Deployment", fmt.Appendf(nil, `{"metadata": {"name": "3scale-kourier-gateway", "namespace": "kourier-system",
			"labels": {"networking.knative.dev/ingress-provider": "kourier"}},
			"spec": {"template": {"spec": {"containers": [{"name": "gateway", "args": %s, "env": [{"name": "DRAIN_TIME_SECONDS", "value": "45"}]}]}}}}`, args))
		if err != nil || !kept {
			t.Fatalf("%s: kept %t, %v", args, kept, err)
		}
		if w := c.Snapshot(time.Time{}).Workloads[0]; w.DrainSeconds != want || w.Controller != "kourier" {
			t.Errorf("%s: a drain time of %d s on %q, not %d s", args, w.DrainSeconds, w.Controller, want)
		}
	}
}

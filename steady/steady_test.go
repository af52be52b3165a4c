package steady

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/certherd/certherd/gateway"
	"github.com/certherd/certherd/inventory"
)

// TestWait: when it ends, and what it says then.
func TestWait(t *testing.T) {
	busy := []Unsteady{{Certificates, "Certificate/a/b", "issuing"}}
	for name, tc := range map[string]struct {
		o Options
		// looks are what is unsteady at every second; the last goes on.
		looks  [][]Unsteady
		steady bool
		waited time.Duration
		says   string
	}{
		"steady at once":            {Options{Timeout: time.Minute}, [][]Unsteady{nil}, true, 0, ""},
		"quiet for a while":         {Options{Timeout: time.Minute, QuietFor: 10 * time.Second}, [][]Unsteady{nil}, true, 10 * time.Second, ""},
		"after five seconds":        {Options{Timeout: time.Minute}, [][]Unsteady{busy, busy, busy, busy, busy, nil}, true, 5 * time.Second, ""},
		"a break starts over":       {Options{Timeout: time.Minute, QuietFor: 4 * time.Second}, [][]Unsteady{nil, nil, nil, busy, nil}, true, 8 * time.Second, ""},
		"never":                     {Options{Timeout: 7 * time.Second}, [][]Unsteady{busy}, false, 7 * time.Second, "issuing"},
		"one look":                  {Options{}, [][]Unsteady{busy, nil}, false, 0, "issuing"},
		"steady, but not for long":  {Options{Timeout: 6 * time.Second, QuietFor: 5 * time.Second}, [][]Unsteady{busy, busy, busy, nil}, false, 6 * time.Second, "steady for no more than 3s; before that: issuing"},
		"never quiet for long":      {Options{Timeout: 20 * time.Second, QuietFor: 3 * time.Second}, flicker(busy, 30), false, 20 * time.Second, "issuing"},
		"quiet at the very end too": {Options{Timeout: 6 * time.Second, QuietFor: 5 * time.Second}, [][]Unsteady{busy, nil}, true, 6 * time.Second, ""},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tc.o.Pause = time.Second
				told, begin := 0, time.Now()
				tc.o.Progress = func(r Result) { told++ }
				w := &Watcher{o: tc.o}
				r, err := w.wait(t.Context(), func(context.Context) ([]Unsteady, []string, error) {
					i := int(time.Since(begin) / time.Second)
					return tc.looks[min(i, len(tc.looks)-1)], []string{"a note"}, nil
				})
				if err != nil {
					t.Fatal(err)
				}
				if r.Steady != tc.steady || r.Waited != tc.waited {
					t.Errorf("steady: %v after %s, want %v after %s", r.Steady, r.Waited, tc.steady, tc.waited)
				}
				if r.Steady != (len(r.Unsteady) == 0) {
					t.Errorf("steady: %v, and unsteady are %v", r.Steady, r.Unsteady)
				}
				if tc.says != "" && !strings.Contains(r.Unsteady[0].Why, tc.says) {
					t.Errorf("it says %q, want %q", r.Unsteady[0].Why, tc.says)
				}
				if told == 0 || len(r.Notes) != 1 {
					t.Errorf("told %d times, notes %q", told, r.Notes)
				}
			})
		})
	}
}

// flicker is unsteady at every other look.
func flicker(busy []Unsteady, n int) (looks [][]Unsteady) {
	for i := range n {
		looks = append(looks, [][]Unsteady{nil, busy}[i%2])
	}
	return looks
}

func TestWaitEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &Watcher{o: Options{Timeout: time.Hour, Pause: time.Second}}
		// With what cannot be helped.
		if _, err := w.wait(t.Context(), func(context.Context) ([]Unsteady, []string, error) { return nil, nil, errors.New("forbidden") }); err == nil || err.Error() != "forbidden" {
			t.Errorf("it ends with %v", err)
		}
		// With its context.
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Minute, func() { cancel(errors.New("the end")) })
		if _, err := w.wait(ctx, func(context.Context) ([]Unsteady, []string, error) { return []Unsteady{{Object: "x"}}, nil, nil }); err == nil || err.Error() != "the end" {
			t.Errorf("it ends with %v", err)
		}
		// In time, when the API server never answers.
		w.o.Timeout = 20 * time.Second
		begin := time.Now()
		r, err := w.wait(t.Context(), func(ctx context.Context) ([]Unsteady, []string, error) {
			<-ctx.Done()
			return nil, nil, nil
		})
		if err != nil || r.Steady || time.Since(begin) != 20*time.Second || !strings.Contains(r.Unsteady[0].Why, "does not answer") {
			t.Errorf("after %s: %+v, %v", time.Since(begin), r, err)
		}
	})
}

func TestOptionsAreChecked(t *testing.T) {
	page := gateway.Options{Pages: []string{"http://127.0.0.1:9901/stats/prometheus"}}
	for why, o := range map[string]Options{
		"":                     {Timeout: time.Minute, QuietFor: time.Second, For: []Part{Gateways, Routes}, Envoys: page},
		"can be waited for":    {For: []Part{"certificates"}},
		"less than nothing":    {Timeout: -1},
		"within a timeout":     {Timeout: time.Second, QuietFor: time.Second},
		"looks once":           {QuietFor: time.Second},
		"where it can be read": {For: []Part{Gateways}},
		"not waited for":       {For: []Part{Routes}, Envoys: page},
	} {
		if err := o.Check(); why == "" && err != nil || why != "" && (err == nil || !strings.Contains(err.Error(), why)) {
			t.Errorf("%+v: %v, want %q", o, err, why)
		}
	}
}

// TestGatewayChanges: what two readings of Envoys say.
func TestGatewayChanges(t *testing.T) {
	at := func(changes, warming, draining float64) gateway.Envoy {
		return gateway.Envoy{Uptime: 100, Listeners: gateway.Listeners{Changes: changes, Warming: warming, Draining: draining}}
	}
	again := at(2, 0, 0)
	again.Uptime = 3
	rejects := at(5, 0, 0)
	rejects.Rejected = map[string]float64{"lds": 1}
	for name, tc := range map[string]struct {
		before, now map[string]gateway.Envoy
		unread      []string
		want        string
	}{
		"the first reading":         {nil, map[string]gateway.Envoy{"x": at(5, 0, 0)}, nil, ""},
		"nothing has changed":       {map[string]gateway.Envoy{"x": at(5, 0, 0)}, map[string]gateway.Envoy{"x": at(5, 0, 0)}, nil, ""},
		"a push":                    {map[string]gateway.Envoy{"x": at(5, 0, 0)}, map[string]gateway.Envoy{"x": at(6, 0, 0)}, nil, "listeners were changed"},
		"it drains at once":         {nil, map[string]gateway.Envoy{"x": at(5, 0, 2)}, nil, "2 listeners or filter chains are draining"},
		"it warms":                  {nil, map[string]gateway.Envoy{"x": at(5, 1, 0)}, nil, "1 listeners are warming"},
		"it was started again":      {map[string]gateway.Envoy{"x": at(5, 0, 0)}, map[string]gateway.Envoy{"x": again}, nil, "just been started"},
		"another one":               {map[string]gateway.Envoy{"x": at(5, 0, 0)}, map[string]gateway.Envoy{"x": at(5, 0, 0), "y": at(1, 0, 0)}, nil, "just been started"},
		"it rejects":                {map[string]gateway.Envoy{"x": at(5, 0, 0)}, map[string]gateway.Envoy{"x": rejects}, nil, "rejects"},
		"one is gone":               {map[string]gateway.Envoy{"x": at(5, 0, 0), "y": at(5, 0, 0)}, map[string]gateway.Envoy{"x": at(5, 0, 0)}, nil, ""},
		"all are gone":              {map[string]gateway.Envoy{"x": at(5, 0, 0)}, map[string]gateway.Envoy{}, nil, "no Pod of it runs"},
		"one cannot be read at all": {nil, map[string]gateway.Envoy{"x": at(5, 0, 0)}, []string{"gateway http://10.0.0.1:9000/x: refused"}, "refused"},
	} {
		t.Run(name, func(t *testing.T) {
			s := &sight{w: &Watcher{last: tc.before}}
			s.gateways(gateway.Reading{Envoys: tc.now, Unread: tc.unread})
			switch {
			case tc.want == "" && len(s.unsteady) > 0:
				t.Errorf("it is unsteady: %v", s.unsteady)
			case tc.want != "" && (len(s.unsteady) != 1 || !strings.Contains(s.unsteady[0].Why, tc.want)):
				t.Errorf("%v, want %q", s.unsteady, tc.want)
			}
		})
	}
}

func TestUnready(t *testing.T) {
	kind := func(group, name string) func(*unstructured.Unstructured) string {
		for _, k := range kinds {
			if k.group == group && k.name == name {
				return k.unready
			}
		}
		t.Fatalf("no kind %s of %q", name, group)
		return nil
	}
	for _, tc := range []struct{ group, name, object, want string }{
		{inventory.GroupCertManager, "Certificate", "{metadata: {generation: 2}, status: {conditions: [{type: Ready, status: 'True', observedGeneration: 2}]}}", ""},
		{inventory.GroupCertManager, "Certificate", "{metadata: {generation: 2}}", "no condition Ready yet"},
		{inventory.GroupCertManager, "Certificate", "{metadata: {generation: 2}, status: {conditions: [{type: Ready, status: 'True', observedGeneration: 1}]}}", notSeen},
		{inventory.GroupCertManager, "Certificate", "{status: {conditions: [{type: Ready, status: 'True'}, {type: Issuing, status: 'True', reason: ManuallyTriggered}]}}", "it is being issued: ManuallyTriggered"},
		{inventory.GroupCertManager, "Certificate", "{status: {conditions: [{type: Ready, status: 'True'}, {type: Issuing, status: 'False', reason: Failed}]}}", ""},
		{inventory.GroupCertManager, "Certificate", "{status: {failedIssuanceAttempts: 3, lastFailureTime: '2026-01-02T03:04:05Z', conditions: [{type: Ready, status: 'False', reason: DoesNotExist, message: 'no\n secret'}]}}",
			"Ready is False: DoesNotExist: no secret (3 attempts have failed, the last at 2026-01-02T03:04:05Z)"},
		{inventory.GroupKnativeNet, "Certificate", "{metadata: {generation: 1}, status: {observedGeneration: 1, conditions: [{type: Ready, status: Unknown}]}}", "Ready is Unknown"},
		{inventory.GroupKnativeNet, "Ingress", "{metadata: {generation: 3}, status: {observedGeneration: 2, conditions: [{type: Ready, status: 'True'}]}}", notSeen},
		{inventory.GroupServing, "Route", "{status: {conditions: [{type: Ready, status: 'True'}, {type: CertificateProvisioned, status: 'True', reason: HTTPDowngrade, message: x}]}}", "serves plain HTTP: HTTPDowngrade: x"},
		{inventory.GroupServing, "Route", "{status: {conditions: [{type: Ready, status: 'True'}, {type: CertificateProvisioned, status: 'True', reason: TLSNotEnabled}]}}", ""},
		{inventory.GroupServing, "Service", "{status: {conditions: [{type: Ready, status: Unknown, reason: RevisionMissing}]}}", "Ready is Unknown: RevisionMissing"},
		{inventory.GroupGateway, "Gateway", "{metadata: {generation: 1}, status: {conditions: [{type: Programmed, status: 'True', observedGeneration: 1}], listeners: [{name: https, conditions: [{type: ResolvedRefs, status: 'True'}]}]}}", ""},
		{inventory.GroupGateway, "Gateway", "{metadata: {generation: 1}, status: {conditions: [{type: Programmed, status: 'True', observedGeneration: 1}], listeners: [{name: https, conditions: [{type: ResolvedRefs, status: 'False', reason: InvalidCertificateRef}]}]}}", "listener https: ResolvedRefs is False: InvalidCertificateRef"},
		{inventory.GroupGateway, "Gateway", "{metadata: {generation: 2}, status: {conditions: [{type: Programmed, status: 'True', observedGeneration: 1}]}}", notSeen},
		{inventory.GroupNetworking, "Ingress", "{}", ""},
	} {
		if got := kind(tc.group, tc.name)(object(t, tc.object)); (tc.want == "") != (got == "") || !strings.Contains(got, tc.want) {
			t.Errorf("%s of %s %s\nis unready because %q, want %q", tc.name, tc.group, tc.object, got, tc.want)
		}
	}
}

func object(t *testing.T, text string) *unstructured.Unstructured {
	t.Helper()
	doc, err := yaml.YAMLToJSON([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	u := &unstructured.Unstructured{}
	// As a client decodes it: numbers are int64.
	if err := u.UnmarshalJSON([]byte(`{"apiVersion":"x/v1","kind":"X",` + strings.TrimPrefix(string(doc), "{"))); err != nil && string(doc) != "{}" {
		t.Fatal(err)
	}
	return u
}

func TestSecretsThatAreNamed(t *testing.T) {
	for _, tc := range []struct {
		names func(*unstructured.Unstructured) []inventory.Ref
		spec  string
		want  string
	}{
		{kIngressSecrets, "{metadata: {namespace: a}, spec: {tls: [{secretName: x, secretNamespace: b}, {secretName: w}]}}", "Secret/b/x Secret/a/w"},
		{ingressSecrets, "{metadata: {namespace: a}, spec: {tls: [{hosts: [h]}, {secretName: w}]}}", "Secret/a/w"},
		{gatewaySecrets, "{metadata: {namespace: a}, spec: {listeners: [{name: http}, {name: https, tls: {certificateRefs: [{name: x}, {name: w, namespace: b, kind: Secret}, {name: z, kind: Bundle}, {name: z, group: g}]}}]}}", "Secret/a/x Secret/b/w"},
	} {
		var got []string
		for _, ref := range tc.names(object(t, tc.spec)) {
			got = append(got, ref.String())
		}
		if s := strings.Join(got, " "); s != tc.want {
			t.Errorf("%s names %q, want %q", tc.spec, s, tc.want)
		}
	}
}

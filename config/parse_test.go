package config

import (
	"errors"
	"fmt"
	"math"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"golang.org/x/tools/txtar"

	"github.com/certherd/certherd/gate"
	"github.com/certherd/certherd/notify"
)

func TestDefaultFileIsDefault(t *testing.T) {
	c, err := Parse(DefaultFile())
	if err != nil {
		t.Fatal(err)
	}
	// The file says that lists are empty, where Default says nothing.
	if got, want := fmt.Sprintf("%+v", c), fmt.Sprintf("%+v", Default()); got != want {
		t.Errorf("the file says\n%s\nthe default is\n%s", got, want)
	}
	if err := Default().Check(); err != nil {
		t.Error(err)
	}
}

func TestNothingSaidIsDefault(t *testing.T) {
	for name, doc := range map[string]string{
		"an empty file":           "",
		"a comment":               "# later\n",
		"a document of nothing":   "---\n",
		"null":                    "null\n",
		"a section of nothing":    "gc:\n",
		"a section of no keys":    "gc: {}\nignore: {}\n",
		"lists of nothing":        "ignore:\n  names:\n",
		"what is the default":     "gc: {mode: audit}\n",
		"a document with its end": "---\ngc:\n...\n",
	} {
		t.Run(name, func(t *testing.T) {
			if c, err := Parse([]byte(doc)); err != nil || !reflect.DeepEqual(c, Default()) {
				t.Errorf("got %+v, %v", c, err)
			}
		})
	}
}

func TestParse(t *testing.T) {
	c, err := Parse([]byte(`
timeZone: Europe/Berlin
maxShare: 12.5%
ignore:
  namespaces: [kube-*, istio-system]
  names: [legacy-*, "prod-?/web"]
  labels: ["team in (a, b)", tier=gold]
notify:
  source: prod
  delay: 5m
  webhooks: [{format: teams, urlFile: /etc/certherd/notify/teams, warnings: true}]
gc:
  mode: enforce
  schedule: "CRON_TZ=Asia/Tokyo 0 3 * * *"
  startingDeadline: disabled
  windows:
    - {schedule: "0 2 * * *", duration: 3h, timeZone: Asia/Tokyo}
    - schedule: "@daily"
      duration: 90m
  budget: {count: disabled, share: 100%}
  minAge: 0
  requestAge: disabled
  gracePeriod: 1h30m
  expiredGracePeriod: 1h
consolidate:
  mode: propose
  schedule: "@every 90m"
  timeZone: UTC
  budget:
    count: 0
  minCertificates: 3
  maxHosts: 100
  allowIssuers: [ClusterIssuer/vault, Issuer/team/venafi]
batch:
  mode: audit
  reloads: {updates: 2, period: 10m, gap: 1m, largest: 50}
`))
	if err != nil {
		t.Fatal(err)
	}
	want := Default()
	want.TimeZone, want.MaxShare = "Europe/Berlin", 0.125
	want.Ignore = Ignore{Namespaces: []string{"kube-*", "istio-system"}, Names: []string{"legacy-*", "prod-?/web"}, Labels: []Selector{"team in (a, b)", "tier=gold"}}
	want.Notify = Notify{Source: "prod", Delay: Duration(5 * time.Minute), Webhooks: []Webhook{{Format: notify.Teams, URLFile: "/etc/certherd/notify/teams", Warnings: true}}}
	want.GC = GC{
		Rule: Rule{Mode: gate.Enforce, Schedule: "CRON_TZ=Asia/Tokyo 0 3 * * *", StartingDeadline: Disabled, Budget: Budget{gate.NoLimit, 1},
			Windows: []Window{{Schedule: "0 2 * * *", Duration: Duration(3 * time.Hour), TimeZone: "Asia/Tokyo"}, {Schedule: "@daily", Duration: Duration(90 * time.Minute)}}},
		RequestAge: Disabled, GracePeriod: Duration(90 * time.Minute), ExpiredGracePeriod: Duration(time.Hour),
	}
	want.Consolidate.Mode, want.Consolidate.Schedule, want.Consolidate.TimeZone = gate.Propose, "@every 90m", "UTC"
	want.Consolidate.Budget.Count, want.Consolidate.MinCertificates, want.Consolidate.MaxHosts = 0, 3, 100
	want.Consolidate.AllowIssuers = []string{"ClusterIssuer/vault", "Issuer/team/venafi"}
	want.Batch.Reloads = Reloads{Updates: 2, Period: Duration(10 * time.Minute), Gap: Gap(time.Minute), Largest: 50}
	if !reflect.DeepEqual(c, want) {
		t.Errorf("got\n%+v\nwant\n%+v", c, want)
	}
	p := c.Policy()
	if terms := p.Terms[gate.GC]; terms.Mode != gate.Enforce || len(terms.Windows) != 2 || terms.Budget != (gate.Budget{Count: math.MaxInt, Share: 1}) {
		t.Errorf("the gate gets %+v", terms)
	}
	if len(p.Ignore.Selectors) != 2 || p.MaxShare != 0.125 || p.Stopped != "" || len(p.Approvals) != 0 {
		t.Errorf("the gate gets %+v", p)
	}
	// The second window has the time zone of the file: midnight in Berlin.
	if _, open := p.Terms[gate.GC].Windows[1].Open(time.Date(2026, 11, 23, 23, 30, 0, 0, time.UTC)); !open {
		t.Error("the window does not have the time zone of the file")
	}
	if o := c.NotifySettings(); !reflect.DeepEqual(o, notify.Settings{Source: "prod", Delay: 5 * time.Minute, Webhooks: []notify.Webhook{{Format: notify.Teams, URLFile: "/etc/certherd/notify/teams", Warnings: true}}}) {
		t.Errorf("notify gets %+v", o)
	}
	if o := c.GCOptions(); o.MinAge != 0 || o.RequestAge != math.MaxInt64 {
		t.Errorf("gc gets %+v", o)
	}
	if o := c.ConsolidateOptions(); o.MinCertificates != 3 || o.MaxHosts != 100 || len(o.AllowIssuers) != 2 {
		t.Errorf("consolidate gets %+v", o)
	}
}

// TestErrors: each file of testdata/errors.txtar, and after it every error that
// it must lead to.
func TestErrors(t *testing.T) {
	const name = "testdata/errors.txtar"
	a, err := txtar.ParseFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(a.Files); i += 2 {
		in, want := a.Files[i], &a.Files[i+1]
		t.Run(in.Name, func(t *testing.T) {
			if want.Name != "errors" {
				t.Fatalf("%q stands where errors should", want.Name)
			}
			c, err := ParseFile(in.Data)
			var errs Errors
			if !errors.As(err, &errs) || !reflect.DeepEqual(c, Config{}) {
				t.Fatalf("got %+v, %v", c, err)
			}
			got := errs.Error() + "\n"
			if *update {
				want.Data = []byte(got)
			} else if got != string(want.Data) {
				t.Errorf("got\n%swant\n%s", got, want.Data)
			}
		})
	}
	if *update {
		if err := os.WriteFile(name, txtar.Format(a), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func TestManifest(t *testing.T) {
	const other = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: other\ndata:\n  config.yaml: |\n    server: 1\n"
	for name, file := range map[string]string{
		"the ConfigMap":          "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: certherd\ndata:\n  config.yaml: |\n    gc:\n      mode: propose\n",
		"one among others":       "apiVersion: apps/v1\nkind: Deployment\n---\n" + other + "---\napiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: certherd\ndata:\n  config.yaml: \"gc: {mode: propose}\"\n",
		"under a name of yours":  "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: certherd-test\ndata:\n  config.yaml: |-\n    gc: {mode: propose}\n",
		"JSON":                   `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"certherd"},"data":{"config.yaml":"gc:\n  mode: propose\n"}}`,
		"no manifest at all":     "gc:\n  mode: propose\n",
		"a plain file in JSON":   `{"gc": {"mode": "propose"}}`,
		"what kubectl get shows": "apiVersion: v1\ndata:\n  config.yaml: |\n    gc:\n      mode: propose\nkind: ConfigMap\nmetadata:\n  name: certherd\n  uid: abc\n",
	} {
		t.Run(name, func(t *testing.T) {
			if c, err := ParseFile([]byte(file)); err != nil || c.GC.Mode != gate.Propose {
				t.Errorf("got %q, %v", c.GC.Mode, err)
			}
		})
	}
}

func TestDurationsAreWrittenShort(t *testing.T) {
	for d, want := range map[Duration]string{
		0: "0s", Duration(90 * time.Second): "1m30s", Duration(5 * time.Minute): "5m", Duration(time.Hour): "1h", Duration(90 * time.Minute): "1h30m",
		Duration(time.Hour + time.Second): "1h0m1s", Duration(168 * time.Hour): "168h", Duration(10 * time.Hour): "10h", Duration(10 * time.Second): "10s", Duration(20 * time.Minute): "20m", Disabled: "disabled",
	} {
		var back Duration
		if got := d.String(); got != want || back.UnmarshalText([]byte(got)) != nil || back != d {
			t.Errorf("%d is written %q, want %q, and read as %d", d, got, want, back)
		}
	}
}

func TestExpiredGracePeriodFollowsTheOthers(t *testing.T) {
	for doc, want := range map[string]string{
		"gc: {gracePeriod: 1h}":               "1h",
		"gc: {gracePeriod: 100h}":             "24h",
		"gc: {gracePeriod: disabled}":         "24h",
		"gc: {minAge: 30h}":                   "30h",
		"gc: {gracePeriod: 0, minAge: 0}":     "0s",
		"gc: {expiredGracePeriod: 5m}":        "5m",
		"batch: {schedule: '@every 10m'}":     "24h",
		"gc: {expiredGracePeriod: 168h}":      "168h",
		"gc: {minAge: 0, requestAge: 0s}":     "24h",
		"gc: {gracePeriod: 5m, minAge: 300s}": "5m",
	} {
		if c, err := Parse([]byte(doc)); err != nil || c.GC.ExpiredGracePeriod.String() != want {
			t.Errorf("%s: %s, %v; want %s", doc, c.GC.ExpiredGracePeriod, err, want)
		}
	}
}

func TestWindowsAreLimited(t *testing.T) {
	file := func(n int) []byte {
		return []byte("gc:\n  windows:\n" + strings.Repeat("  - {schedule: '0 22 * * *', duration: 1m}\n", n) + "  schedule: '0 22 * * *'\n")
	}
	if _, err := Parse(file(50)); err != nil {
		t.Error(err)
	}
	if _, err := Parse(file(51)); err == nil || err.Error() != "line 2: gc.windows: there are 51, and more than 50 cannot be told apart: use ranges and lists in the fields of cron" {
		t.Error(err)
	}
}

// FuzzParse: whatever a ConfigMap holds, Parse says what is wrong, by line, or
// gives a Config that holds what it promises.
func FuzzParse(f *testing.F) {
	f.Add(string(DefaultFile()))
	if a, err := txtar.ParseFile("testdata/errors.txtar"); err == nil {
		for i := 0; i < len(a.Files); i += 2 {
			f.Add(string(a.Files[i].Data))
		}
	}
	f.Add("gc: {mode: enforce, windows: [{schedule: '0 22 * * *', duration: 6h}]}")
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	f.Fuzz(func(t *testing.T, doc string) {
		_, _ = ParseFile([]byte(doc))
		c, err := Parse([]byte(doc))
		if err != nil {
			var errs Errors
			if !errors.As(err, &errs) || len(errs) == 0 {
				t.Fatalf("%T is no list of errors", err)
			}
			lines := strings.Count(doc, "\n") + 2 // \r, too, ends a line
			for _, e := range errs {
				if e.Message == "" || e.Line < 0 || e.Line > lines+strings.Count(doc, "\r")+strings.Count(doc, "\u0085")+strings.Count(doc, "\u2028")+strings.Count(doc, "\u2029") {
					t.Fatalf("%+v", e)
				}
			}
			if !reflect.DeepEqual(c, Config{}) {
				t.Fatal("there is a Config beside the error")
			}
			return
		}
		if err := c.Check(); err != nil {
			t.Fatalf("what was read is wrong: %v", err)
		}
		due, skipped := c.Due(nil, now)
		if len(due) != 3 || len(skipped) != 0 {
			t.Fatalf("due %v, skipped %v", due, skipped)
		}
		next := c.Next(nil, now)
		if len(next) != 3 {
			t.Fatalf("only %v come", next)
		}
		for _, r := range next {
			if !r.At.After(now) {
				t.Fatalf("%v is past", r)
			}
		}
		for rule, terms := range c.PolicyFor(due, next).Terms {
			terms.Check(func(field, why string) { t.Fatalf("%s.%s: %s", rule, field, why) })
		}
		if c.Explain(now, 3) == "" {
			t.Fatal("there is nothing to explain")
		}
	})
}

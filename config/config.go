// Package config is the file config.yaml of the ConfigMap certherd: what it may
// say, what holds where it says nothing, and which rounds follow from it. It
// composes the options that each package owns. Nothing in it reads the clock or
// talks to a server.
//
// docs/configuration.md and default.yaml are generated from the types, their
// comments and Default:
//
//go:generate go test -run ^TestGenerated$ -update .
package config

import (
	"cmp"
	_ "embed"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
	_ "time/tzdata" // an image from scratch has no time zones of its own

	"k8s.io/apimachinery/pkg/labels"

	"github.com/certherd/certherd/batch"
	"github.com/certherd/certherd/carry"
	"github.com/certherd/certherd/carry/live"
	"github.com/certherd/certherd/consolidate"
	"github.com/certherd/certherd/gate"
	"github.com/certherd/certherd/gateway"
	"github.com/certherd/certherd/gc"
	"github.com/certherd/certherd/inventory"
	"github.com/certherd/certherd/notify"
	"github.com/certherd/certherd/renew"
)

// Where the configuration is in a cluster.
const (
	ConfigMapName = "certherd"
	ConfigMapKey  = "config.yaml"
)

// Config is everything that certherd can be told. Use Parse or Default to make
// one: the zero Config is in audit mode and has no rounds.
type Config struct {
	// TimeZone is the time zone, as an IANA name such as Europe/Berlin, of
	// every schedule that names none itself.
	TimeZone string `yaml:"timeZone"`
	// MaxShare is the circuit breaker: where one round could take away more
	// than this share of all certificates, nothing is done at all, because a
	// list that came back short is likelier than so much garbage. A person then
	// looks at the plan and approves it as a whole, or raises this.
	MaxShare Share `yaml:"maxShare"`
	// ApprovalLifetime is how long an approval holds. It should reach to the next
	// window, and is for one state of one change in any case.
	ApprovalLifetime Duration `yaml:"approvalLifetime" min:"1m" max:"8760h"`
	// Breaker is what gateways are watched for while changes are carried out.
	// Whatever becomes worse after a batch stops everything, until a person says
	// `certherd approve --resume`.
	Breaker Breaker `yaml:"breaker"`
	// Notify tells people, by webhooks, what the leader tells as Events: serious
	// findings that are new, steps that were carried out or could not be, stops, and
	// what waits for an approval.
	Notify Notify `yaml:"notify"`
	// Ignore says what is never touched, in addition to what carries the
	// annotation certherd.dev/ignore: "true" or is in a namespace that does.
	Ignore Ignore `yaml:"ignore"`
	// GC is about certificates that nobody needs any more.
	GC GC `yaml:"gc"`
	// Consolidate is about certificates that one wildcard could replace.
	Consolidate Consolidate `yaml:"consolidate"`
	// Batch is about what the gateway is put through: certificates that become due
	// one by one are renewed together. Its reloads hold for all rules.
	Batch Batch `yaml:"batch"`
}

// Ignore are the opt-outs.
type Ignore struct {
	// Namespaces are patterns of namespace names, such as kube-* (with *, ? and
	// [a-z] as in a shell).
	Namespaces []string `yaml:"namespaces"`
	// Names are patterns of names in any namespace, such as legacy-*, or of
	// namespace/name, such as prod-*/legacy-*. They stand for objects of every
	// kind.
	Names []string `yaml:"names"`
	// Labels are label selectors as kubectl takes them, such as tier=gold or
	// "team in (a, b)"; one that matches is enough.
	Labels []Selector `yaml:"labels"`
}

// Breaker is what gateways are watched for.
type Breaker struct {
	// Gateways are the Prometheus pages of Envoys, as URLs such as
	// http://envoy.example:9901/stats/prometheus.
	Gateways []string `yaml:"gateways"`
	// Pods find the pages of Envoys that run as Pods: namespace/labelselector,
	// port and path. The default finds those of Kourier, if there are any.
	Pods []Pods `yaml:"pods"`
	// Unreadable is what to do while a gateway cannot be read: stop, until it can
	// be, or go on with the others. Both are said.
	Unreadable Unreadable `yaml:"unreadable" values:"stop, go-on"`
	// Settle is how long after each batch the gateways are read again. An object
	// that is not Ready then gets as long again.
	Settle Duration `yaml:"settle" min:"0s" max:"10m"`
	// Rejected is how many updates of their configuration gateways may reject
	// after a batch.
	Rejected int `yaml:"rejected" min:"0" max:"1000000"`
	// Failed is by how much the share of answers with 5xx may rise; fewer than 10
	// such answers do not count.
	Failed Share `yaml:"failed"`
	// Unready is how many Knative Ingresses, Gateways and Ingresses may lose their
	// readiness.
	Unready int `yaml:"unready" min:"0" max:"1000000"`
}

// Notify is whom to tell.
type Notify struct {
	// Source is what messages call this certherd, such as the name of its cluster.
	Source string `yaml:"source"`
	// Delay is for how long things are collected before they are told in one
	// message. When nothing happens, nothing is sent.
	Delay Duration `yaml:"delay" min:"1s" max:"24h"`
	// Webhooks are where messages go.
	Webhooks []Webhook `yaml:"webhooks"`
}

// Webhook is where messages go.
type Webhook struct {
	// Format is slack, teams (an Adaptive Card), or generic: a document of our own,
	// which docs/running.md describes.
	Format notify.Format `yaml:"format" values:"generic, slack, teams"`
	// URLFile is a file that holds the URL, from a Secret that is mounted into the
	// Pod: whoever has such a URL can write to its channel.
	URLFile string `yaml:"urlFile"`
	// Warnings leaves out what is not a warning.
	Warnings bool `yaml:"warnings"`
}

// Rule is what every rule has.
type Rule struct {
	// Mode is how far it goes. audit: it reports. propose: it does what
	// `certherd approve` has approved. enforce: it does what windows and budget
	// allow.
	Mode gate.Mode `yaml:"mode" values:"audit, propose, enforce"`
	// Schedule is when a round begins: the five fields of cron, @hourly,
	// @daily, @weekly, @monthly, @yearly, or "@every 90m", which counts from the
	// last round. CRON_TZ=Europe/Berlin in front of it names a time zone.
	Schedule string `yaml:"schedule"`
	// TimeZone is the time zone of the schedule and of the windows that name
	// none themselves; if it is empty, that of the whole file.
	TimeZone string `yaml:"timeZone"`
	// StartingDeadline is how late a round that was missed, because nobody was
	// leader, may still begin. Later it is skipped, which the log says. Of
	// several missed rounds only the last is caught up. disabled: it is never
	// too late.
	StartingDeadline Duration `yaml:"startingDeadline" min:"10s" max:"8760h" off:"never too late"`
	// Windows are when changes may begin; none means at any time. A round
	// outside of all windows reports.
	Windows []Window `yaml:"windows"`
	// Budget is how much one round may take away.
	Budget Budget `yaml:"budget"`
}

// Window is a time that comes again and again.
type Window struct {
	// Schedule is when it opens: the five fields of cron, or @daily and its
	// like, but not @every.
	Schedule string `yaml:"schedule"`
	// Duration is how long it stays open; it has to close before it opens
	// again.
	Duration Duration `yaml:"duration" min:"1m" max:"8760h"`
	// TimeZone is the time zone of its schedule; if it is empty, that of the
	// rule, or of the whole file.
	TimeZone string `yaml:"timeZone"`
}

// Budget limits one round; both limits hold.
type Budget struct {
	// Count is how many objects may go: certificates, each one with its Secret,
	// and requests. 0 allows nothing. disabled: any number.
	Count Count `yaml:"count"`
	// Share is how many of all certificates may go, rounded down; more than 0%
	// always allows one. 100%: any number.
	Share Share `yaml:"share"`
}

// GC is what gc can be told.
type GC struct {
	Rule `yaml:",inline"`
	// MinAge is how old an object must be before it can be called unused: a
	// Secret may exist for a moment before the object that will name it.
	MinAge Duration `yaml:"minAge" min:"0s" max:"8760h"`
	// RequestAge is how long a CertificateRequest, Order or Challenge that
	// nobody owns must have been final. disabled: they are left alone.
	RequestAge Duration `yaml:"requestAge" min:"0s" max:"8760h" off:"left alone"`
	// GracePeriod is how long a Secret that is no longer used is kept, marked,
	// before it is deleted; until then `certherd undo` brings everything back
	// without a new order. disabled: it is marked, and never deleted.
	GracePeriod Duration `yaml:"gracePeriod" min:"0s" max:"8760h" off:"never deleted"`
	// ExpiredGracePeriod is the same for a certificate that has expired. Where it
	// is not said, it is no longer than gracePeriod and no shorter than minAge.
	ExpiredGracePeriod Duration `yaml:"expiredGracePeriod" min:"0s" max:"8760h" off:"never deleted"`
}

// Consolidate is what consolidate can be told.
type Consolidate struct {
	Rule `yaml:",inline"`
	// MinCertificates is how many certificates a new wildcard must replace.
	MinCertificates int `yaml:"minCertificates" min:"2" max:"10000"`
	// MaxHosts is how many hosts may share one key and one filter chain: all of
	// them drain together, and all are lost with the key.
	MaxHosts int `yaml:"maxHosts" min:"2" max:"10000"`
	// AllowIssuers are issuers that sign wildcards although nothing in the
	// cluster says so (Vault, Venafi, external ones): Kind/name, or
	// Kind/namespace/name.
	AllowIssuers []string `yaml:"allowIssuers"`
	// AllowCrossNamespace must be false: a wildcard's key never leaves its
	// namespace. The key is here so that a file can say so.
	AllowCrossNamespace bool `yaml:"allowCrossNamespace"`
	// AcceptDrains allows several hosts on one filter chain of a gateway that
	// drains for a shorter time than the longest allowed request: stock Kourier
	// replaces such a chain at every event, and longer requests are cut.
	AcceptDrains bool `yaml:"acceptDrains"`
	// DomainMappings allows spec.tls.secretName of Knative's DomainMappings to be
	// set, which is the only way to serve several of them with one certificate. It
	// is their owners' field: one that a GitOps tool or certherd.dev/ignore keeps
	// from being changed is left to a person.
	DomainMappings bool `yaml:"domainMappings"`
	// Quotas are what certificate authorities issue, by issuer. A proposal that
	// would burst one waits. Let's Encrypt's are known and need not be said.
	Quotas []Quota `yaml:"quotas"`
	// CAAResolver is the address of a DNS server, such as 10.96.0.10:53, that is
	// asked for CAA records before a wildcard of an ACME issuer is proposed;
	// empty: nobody is.
	CAAResolver string `yaml:"caaResolver"`
	// IssueTimeout is how long a wildcard may take to be issued before it is
	// given up.
	IssueTimeout Duration `yaml:"issueTimeout" min:"10s" max:"720h"`
	// SwitchTimeout is how long all consumers may take to use it before all goes
	// back.
	SwitchTimeout Duration `yaml:"switchTimeout" min:"10s" max:"24h"`
	// Patience is how long, from the switch on, a consumer may be not Ready, a
	// handshake may fail, or a gateway may reject updates, before all goes back.
	Patience Duration `yaml:"patience" min:"5s" max:"1h"`
	// Soak is how long every consumer uses the wildcard before the old
	// certificates are taken away. Until then they are renewed, and going back
	// costs nothing.
	Soak Duration `yaml:"soak" min:"0s" max:"8760h"`
	// Gateway is the address (host:port) at which a handshake shows what a gateway
	// serves. If it is empty, it is the one in the status of each Knative Ingress or
	// Ingress, port 443.
	Gateway string `yaml:"gateway"`
	// Probe asks for these handshakes. false relies on what controllers say.
	Probe bool `yaml:"probe"`
}

// Quota is what the authority behind an issuer issues.
type Quota struct {
	// Issuer is Kind/name, or Kind/namespace/name.
	Issuer string `yaml:"issuer"`
	// PerDomain is how many certificates for one registered domain it issues in
	// 7 days. disabled: any number.
	PerDomain Count `yaml:"perDomain"`
	// Orders is how many orders it takes in 3 hours. disabled: any number.
	Orders Count `yaml:"orders"`
	// Identical is how many certificates for the same names it issues in 7 days.
	// disabled: any number.
	Identical Count `yaml:"identical"`
}

// Batch is what batch can be told.
type Batch struct {
	Rule `yaml:",inline"`
	// Renewals are which certificates are renewed together. Whatever is said here,
	// cert-manager renews each one when it is due.
	Renewals Renewals `yaml:"renewals"`
	// Requests are about a cert-manager that runs without its own approver.
	Requests Requests `yaml:"requests"`
	// Reloads are how often a gateway is given something new. What certherd
	// writes that a gateway would see goes through this, whatever rule wants it;
	// only what is urgent does not wait.
	Reloads Reloads `yaml:"reloads"`
}

// Renewals is what can be said about renewing certificates together.
type Renewals struct {
	// Horizon is how far ahead of their time certificates are renewed at most.
	Horizon Duration `yaml:"horizon" min:"10s" max:"8760h"`
	// Early is how much of the time between two renewals that may be at most: what
	// lives for an hour is not renewed a day ahead.
	Early Share `yaml:"early"`
	// Largest is how many certificates are renewed together at most.
	Largest int `yaml:"largest" min:"2" max:"10000"`
	// Challenges is how many names ACME servers may be asked about at one time:
	// cert-manager's --max-concurrent-challenges, which is 60 where nobody has set it.
	Challenges int `yaml:"challenges" min:"1" max:"10000"`
}

// Requests is what can be said about approving CertificateRequests in batches.
type Requests struct {
	// Approve has certherd approve CertificateRequests, some at once and the others in
	// batches, whatever the mode is. It is for a cert-manager that runs with
	// --controllers=*,-certificaterequests-approver: where that approves them
	// itself, nothing is left to approve. With approver-policy installed, certherd
	// approves nothing.
	Approve bool `yaml:"approve"`
	// Hold is how long a request waits for others at most.
	Hold Duration `yaml:"hold" min:"1s" max:"24h"`
	// Margin is how much of its lifetime a certificate is to have left at least: a
	// request to renew one within it does not wait, nor does one for a certificate
	// that is not there yet.
	Margin Share `yaml:"margin"`
}

// Reloads is the budget of each gateway.
type Reloads struct {
	// Updates is how many updates a gateway gets in any period.
	Updates int `yaml:"updates" min:"1" max:"10000"`
	// Period is the time that updates are counted in.
	Period Duration `yaml:"period" min:"1s" max:"168h"`
	// Gap is the least time between two updates. drain: the gateway's own drain time,
	// as its Deployment's arguments have it; until it is over, Envoy keeps a copy of
	// what the last update replaced. Where the gateway is not known, that is 15s.
	Gap Gap `yaml:"gap"`
	// Largest is how many changes make up one update at most. Kourier sends its
	// whole configuration for each of them, so that 1 is right there; with
	// certherd's relay in front, which makes one update of what comes together, 100.
	Largest int `yaml:"largest" min:"1" max:"10000"`
}

//go:embed default.yaml
var defaultFile []byte

// DefaultFile is the configuration that holds when there is none, as a file
// that explains every key.
func DefaultFile() []byte { return append([]byte(nil), defaultFile...) }

// Default is the configuration that holds when there is none: audit, with
// limits that are in force as soon as a mode is chosen.
func Default() Config {
	limits, carrying, reloads, renewing := gate.Defaults(), carry.Defaults(), batch.Defaults(), renew.Defaults()
	rule := func(r gate.Rule, schedule string) Rule {
		t := limits.Terms[r]
		return Rule{Mode: t.Mode, Schedule: schedule, StartingDeadline: Duration(time.Hour), Budget: Budget{Count(t.Budget.Count), Share(t.Budget.Share)}}
	}
	return Config{
		TimeZone: "UTC",
		MaxShare: Share(limits.MaxShare),

		ApprovalLifetime: Duration(168 * time.Hour),
		Breaker:          Breaker{Pods: []Pods{Pods(gateway.Kourier().String())}, Unreadable: StopUnreadable, Settle: Duration(10 * time.Second), Failed: Share(gateway.Defaults().Failed)},
		Notify:           Notify{Source: "certherd", Delay: Duration(time.Minute)},
		GC: GC{
			Rule:   rule(gate.GC, "7 * * * *"),
			MinAge: Duration(5 * time.Minute), RequestAge: Duration(24 * time.Hour),
			GracePeriod: Duration(168 * time.Hour), ExpiredGracePeriod: Duration(24 * time.Hour),
		},
		Consolidate: Consolidate{
			Rule:            rule(gate.Consolidate, "37 3 * * *"),
			MinCertificates: 2, MaxHosts: 500,
			IssueTimeout: Duration(carrying.Issue), SwitchTimeout: Duration(carrying.Switch), Patience: Duration(carrying.Patience),
			Soak: Duration(carrying.Soak), Probe: true,
		},
		Batch: Batch{
			Rule:     rule(gate.Batch, "7 * * * *"),
			Renewals: Renewals{Horizon: Duration(renewing.Horizon), Early: Share(renewing.Early), Largest: renewing.Size, Challenges: renewing.Challenges},
			Requests: Requests{Hold: Duration(10 * time.Minute), Margin: 0.2},
			Reloads:  Reloads{Updates: reloads.Updates, Period: Duration(reloads.Period), Gap: DrainTime, Largest: reloads.Largest},
		},
	}
}

// Rules are the rules by name.
func (c Config) Rules() map[gate.Rule]Rule {
	return map[gate.Rule]Rule{gate.GC: c.GC.Rule, gate.Consolidate: c.Consolidate.Rule, gate.Batch: c.Batch.Rule}
}

// NotifySettings are the settings of package notify.
func (c Config) NotifySettings() notify.Settings {
	n := c.Notify
	o := notify.Settings{Source: n.Source, Delay: time.Duration(n.Delay)}
	for _, w := range n.Webhooks {
		o.Webhooks = append(o.Webhooks, notify.Webhook(w))
	}
	return o
}

// GCOptions are the options of package gc.
func (c Config) GCOptions() gc.Options {
	return gc.Options{MinAge: time.Duration(c.GC.MinAge), RequestAge: time.Duration(c.GC.RequestAge)}
}

// ConsolidateOptions are the options of package consolidate, without what the DNS
// says.
func (c Config) ConsolidateOptions() consolidate.Options {
	o := consolidate.Options{
		MinCertificates: c.Consolidate.MinCertificates, MaxHosts: c.Consolidate.MaxHosts,
		AllowIssuers: c.Consolidate.AllowIssuers, AcceptDrains: c.Consolidate.AcceptDrains,
		DomainMappings: c.Consolidate.DomainMappings,
	}
	limit := func(n Count) int {
		if n == gate.NoLimit {
			return 0
		}
		return int(n)
	}
	for _, q := range c.Consolidate.Quotas {
		o.Quotas = append(o.Quotas, consolidate.Quota{Issuer: q.Issuer, PerDomain: limit(q.PerDomain), Orders: limit(q.Orders), Identical: limit(q.Identical)})
	}
	return o
}

// CarryOptions are the options of package carry.
func (c Config) CarryOptions() carry.Options {
	o := carry.Defaults()
	x := c.Consolidate
	o.Issue, o.Switch, o.Patience, o.Soak = time.Duration(x.IssueTimeout), time.Duration(x.SwitchTimeout), time.Duration(x.Patience), time.Duration(x.Soak)
	return o
}

// RenewOptions are the options of package renew, but for when the next batch can be
// renewed.
func (c Config) RenewOptions() renew.Options {
	x := c.Batch.Renewals
	return renew.Options{Horizon: time.Duration(x.Horizon), Early: float64(x.Early), Size: x.Largest, Challenges: x.Challenges}
}

// RenewalWindows are the windows of batch as cert-manager takes them, looked at from a
// time on; none where one of them cannot be told in its words.
func (c Config) RenewalWindows(now time.Time) live.Windows {
	r := c.Batch.Rule
	terms := c.terms(r)
	var out live.Windows
	for i, w := range r.Windows {
		x := live.Window{Cron: w.Schedule, TimeZone: cmp.Or(w.TimeZone, r.TimeZone, c.TimeZone), Duration: time.Duration(w.Duration)}
		if strings.Contains(w.Schedule, "TZ=") {
			x.TimeZone = "" // it names one itself
		}
		if terms.Windows[i].Next(now).IsZero() {
			return live.Windows{}
		}
		out.List = append(out.List, x)
	}
	at := now
	for end := now.AddDate(1, 0, 0); len(out.List) > 0 && at.Before(end); {
		next := c.opening(r, at)
		if next.IsZero() {
			return live.Windows{}
		}
		out.Every = max(out.Every, next.Sub(at))
		at = next
	}
	return out
}

// Budgets are the budgets of gateways, of which drains has the drain times.
func (c Config) Budgets(drains map[inventory.Ref]time.Duration) batch.Budgets {
	r := c.Batch.Reloads
	b := batch.Budget{Updates: r.Updates, Period: time.Duration(r.Period), Gap: time.Duration(r.Gap), Largest: r.Largest}
	if r.Gap != DrainTime {
		return batch.Budgets{Else: b}
	}
	b.Gap = batch.Defaults().Gap
	out := batch.Budgets{Else: b, Of: map[inventory.Ref]batch.Budget{}}
	for gateway, drain := range drains {
		b.Gap = drain
		out.Of[gateway] = b
	}
	return out
}

// PacingOptions are how long requests are held where certherd approves them.
func (c Config) PacingOptions() renew.Pacing {
	return renew.Pacing{Hold: time.Duration(c.Batch.Requests.Hold), Margin: float64(c.Batch.Requests.Margin)}
}

// GatewayOptions are the options of package gateway.
func (c Config) GatewayOptions() gateway.Options {
	o := gateway.Options{Pages: c.Breaker.Gateways}
	for _, p := range c.Breaker.Pods {
		if x, err := gateway.ParsePods(string(p)); err == nil { // Parse lets nothing else through
			o.Pods = append(o.Pods, x)
		}
	}
	return o
}

// GatewayLimits are how much worse gateways may become.
func (c Config) GatewayLimits() gateway.Limits {
	l := gateway.Defaults()
	l.Rejected, l.Failed, l.Unready = c.Breaker.Rejected, float64(c.Breaker.Failed), c.Breaker.Unready
	return l
}

// Policy is the gate's policy for a round of all rules, without approvals. What
// is broken in a Config that did not come from Parse allows nothing: a window
// never opens, an opt-out opts everything out.
func (c Config) Policy() gate.Policy {
	p := gate.Policy{
		Terms:    map[gate.Rule]gate.Terms{},
		MaxShare: float64(c.MaxShare),
		Ignore:   gate.Ignore{Namespaces: c.Ignore.Namespaces, Names: c.Ignore.Names},
	}
	for _, s := range c.Ignore.Labels {
		selector, err := labels.Parse(string(s))
		if err != nil {
			selector = labels.Everything()
		}
		p.Ignore.Selectors = append(p.Ignore.Selectors, selector)
	}
	for name, r := range c.Rules() {
		p.Terms[name] = c.terms(r)
	}
	return p
}

// PolicyFor is the gate's policy for a round of the rules that are due; the
// changes of the others wait for theirs (see Due and Next).
func (c Config) PolicyFor(due, next []Round) gate.Policy {
	p := c.Policy()
	idle := map[gate.Rule]time.Time{}
	for _, r := range next {
		idle[r.Rule] = r.At
	}
	for _, r := range due {
		delete(idle, r.Rule)
	}
	for name, t := range p.Terms {
		at, waits := idle[name]
		switch {
		case waits:
			t.Next = at
		case !isDue(due, name):
			t.Mode = gate.Audit // it has no round at all
		}
		p.Terms[name] = t
	}
	return p
}

func isDue(due []Round, rule gate.Rule) bool {
	for _, r := range due {
		if r.Rule == rule {
			return true
		}
	}
	return false
}

func (c Config) terms(r Rule) gate.Terms {
	t := gate.Terms{Mode: r.Mode, Budget: gate.Budget{Count: int(r.Budget.Count), Share: float64(r.Budget.Share)}}
	for _, w := range r.Windows {
		t.Windows = append(t.Windows, c.window(r, w))
	}
	return t
}

// Duration is a time.Duration in Go's syntax, or Disabled.
type Duration time.Duration

// Disabled is the Duration that never ends, for what is switched off.
const Disabled Duration = math.MaxInt64

const disabled = "disabled"

// UnmarshalText takes what time.ParseDuration takes, and "disabled".
func (d *Duration) UnmarshalText(text []byte) error {
	if string(text) == disabled {
		*d = Disabled
		return nil
	}
	x, err := time.ParseDuration(string(text))
	if err != nil {
		if n, ok := strings.CutSuffix(string(text), "d"); ok {
			if days, err := strconv.ParseUint(n, 10, 16); err == nil {
				return fmt.Errorf("%q is no duration, because days are not always equally long: write %dh", text, 24*days)
			}
		}
		return fmt.Errorf("%q is no duration: write one like 30s, 5m or 1h30m", text)
	}
	*d = Duration(x)
	return nil
}

// String is the shortest form that UnmarshalText takes.
func (d Duration) String() string {
	if d == Disabled {
		return disabled
	}
	s := time.Duration(d).String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// Gap is a time between two updates of a gateway, or its drain time.
type Gap Duration

// DrainTime is the Gap that is the gateway's drain time.
const DrainTime Gap = -1

const drainTime = "drain"

// UnmarshalText takes what Duration takes but "disabled", and "drain".
func (g *Gap) UnmarshalText(text []byte) error {
	if string(text) == drainTime {
		*g = DrainTime
		return nil
	}
	var d Duration
	if err := d.UnmarshalText(text); err != nil {
		return err
	}
	if d < 0 || d > Duration(24*time.Hour) {
		return fmt.Errorf("%q is no gap: write a duration from 0s to 24h, or drain", text)
	}
	*g = Gap(d)
	return nil
}

func (g Gap) String() string {
	if g == DrainTime {
		return drainTime
	}
	return Duration(g).String()
}

// Share is a part of a whole, from 0 to 1, written like 12.5%.
type Share float64

// UnmarshalText takes a number with a percent sign.
func (s *Share) UnmarshalText(text []byte) error {
	number, ok := strings.CutSuffix(string(text), "%")
	x, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
	if !ok || err != nil || !(x >= 0 && x <= 100) {
		return fmt.Errorf("%q is no share: write one from 0%% to 100%%", text)
	}
	*s = Share(x / 100)
	return nil
}

// String is a percentage.
func (s Share) String() string {
	return strconv.FormatFloat(math.Round(float64(s)*1e6)/1e4, 'f', -1, 64) + "%"
}

// Count is a number, or any number.
type Count int

// UnmarshalText takes a number from 0 on, and "disabled".
func (c *Count) UnmarshalText(text []byte) error {
	if string(text) == disabled {
		*c = gate.NoLimit
		return nil
	}
	x, err := strconv.ParseUint(string(text), 10, 31)
	if err != nil {
		return fmt.Errorf("%q is no count: write a number from 0 on, or disabled", text)
	}
	*c = Count(x)
	return nil
}

// String is the number, or "disabled".
func (c Count) String() string {
	if c == gate.NoLimit {
		return disabled
	}
	return strconv.Itoa(int(c))
}

// Selector is a label selector in kubectl's syntax.
type Selector string

// UnmarshalText takes what labels.Parse takes, unless it matches everything.
func (s *Selector) UnmarshalText(text []byte) error {
	x, err := labels.Parse(string(text))
	switch {
	case err != nil:
		return fmt.Errorf("%q is no label selector: %w", text, err)
	case x.Empty():
		return fmt.Errorf("%q matches every object, so that nothing would ever be done: take it out, or use mode audit", text)
	}
	*s = Selector(text)
	return nil
}

// Unreadable is what to do while a gateway cannot be read. Any value but
// IgnoreUnreadable is StopUnreadable.
type Unreadable string

// The values of Unreadable.
const (
	StopUnreadable   Unreadable = "stop"
	IgnoreUnreadable Unreadable = "go-on"
)

// UnmarshalText takes the two values and nothing else.
func (u *Unreadable) UnmarshalText(text []byte) error {
	switch x := Unreadable(text); x {
	case StopUnreadable, IgnoreUnreadable:
		*u = x
		return nil
	}
	return fmt.Errorf("%q is not known: use stop or go-on", text)
}

func (u Unreadable) String() string { return string(u) }

// Pods are gateways that run as Pods, as gateway.ParsePods takes them.
type Pods string

// UnmarshalText takes what gateway.ParsePods does.
func (p *Pods) UnmarshalText(text []byte) error {
	if _, err := gateway.ParsePods(string(text)); err != nil {
		return err
	}
	*p = Pods(text)
	return nil
}

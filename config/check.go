package config

import (
	"fmt"
	"net"
	"path"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/certherd/certherd/gate"
	"github.com/certherd/certherd/gateway"
)

// Check tells what is wrong with a Config, nil if nothing is. Parse has done it.
func (c Config) Check() error {
	if errs := c.check(map[string]bool{}); len(errs) > 0 {
		return errs
	}
	return nil
}

// check adds the paths of what is wrong to broken, and says nothing of those
// that are there already.
func (c Config) check(broken map[string]bool) Errors {
	k := checker{broken: broken}
	k.limits(reflect.ValueOf(c), "")
	if _, err := location(c.TimeZone); err != nil {
		k.fail("timeZone", "%v", err)
	}
	if !(c.MaxShare >= 0 && c.MaxShare <= 1) {
		k.fail("maxShare", "it must be from 0%% to 100%%")
	}
	c.Breaker.check(&k)
	c.Notify.check(&k)
	c.Ignore.check(&k)
	for _, name := range gate.Rules() {
		c.checkRule(&k, string(name), c.Rules()[name])
	}
	c.GC.check(&k)
	c.Consolidate.check(&k)
	if e := c.Batch.Renewals.Early; !(e >= 0 && e <= 1) {
		k.fail("batch.renewals.early", "it must be from 0%% to 100%%")
	}
	if m := c.Batch.Requests.Margin; !(m >= 0 && m <= 1) {
		k.fail("batch.requests.margin", "it must be from 0%% to 100%%")
	}
	return k.errs
}

// checker collects what is wrong.
type checker struct {
	errs   Errors
	broken map[string]bool
}

func (k *checker) fail(path, format string, a ...any) {
	for p := path; ; p = p[:strings.LastIndexAny(p, ".[")] {
		if k.broken[p] {
			return // once is enough, and of what is no section there are no keys
		}
		if !strings.ContainsAny(p, ".[") {
			break
		}
	}
	k.broken[path] = true
	k.errs = append(k.errs, Error{Path: path, Message: fmt.Sprintf(format, a...)})
}

// ok reports whether nothing is known to be wrong with paths, so that they can
// be compared with each other.
func (k *checker) ok(paths ...string) bool {
	return !slices.ContainsFunc(paths, func(p string) bool { return k.broken[p] })
}

// limits holds every value against the tags min, max and off of its field.
func (k *checker) limits(v reflect.Value, at string) {
	for _, f := range reflect.VisibleFields(v.Type()) {
		key := keyOf(f)
		if key == "" {
			continue
		}
		x, at := v.FieldByIndex(f.Index), join(at, key)
		switch value := x.Interface().(type) {
		case Duration:
			least, most := durationTag(f, "min"), durationTag(f, "max")
			switch {
			case value == Disabled && f.Tag.Get("off") == "":
				k.fail(at, "it cannot be disabled: write %s to %s", least, most)
			case value != Disabled && (value < least || value > most):
				k.fail(at, "%s is not within %s to %s", value, least, most)
			}
		case int:
			least, most := intTag(f, "min"), intTag(f, "max")
			if value < least || value > most {
				k.fail(at, "%d is not within %d to %d", value, least, most)
			}
		default:
			switch x.Kind() {
			case reflect.Struct:
				k.limits(x, at)
			case reflect.Slice:
				for i := range x.Len() {
					if e := x.Index(i); e.Kind() == reflect.Struct {
						k.limits(e, fmt.Sprintf("%s[%d]", at, i))
					}
				}
			}
		}
	}
}

func durationTag(f reflect.StructField, name string) Duration {
	var d Duration
	if err := d.UnmarshalText([]byte(f.Tag.Get(name))); err != nil {
		panic("config: field " + f.Name + ": " + err.Error())
	}
	return d
}

func intTag(f reflect.StructField, name string) int {
	n, err := strconv.Atoi(f.Tag.Get(name))
	if err != nil {
		panic("config: field " + f.Name + ": " + err.Error())
	}
	return n
}

func (b Breaker) check(k *checker) {
	for i, page := range b.Gateways {
		if err := gateway.CheckURL(page); err != nil {
			k.fail(fmt.Sprintf("breaker.gateways[%d]", i), "%v", err)
		}
	}
	for i, p := range b.Pods {
		if _, err := gateway.ParsePods(string(p)); err != nil {
			k.fail(fmt.Sprintf("breaker.pods[%d]", i), "%v", err)
		}
	}
	if !(b.Failed >= 0 && b.Failed <= 1) {
		k.fail("breaker.failed", "it must be from 0%% to 100%%")
	}
}

func (n Notify) check(k *checker) {
	if n.Source == "" {
		k.fail("notify.source", "it must say what messages call this certherd")
	}
	for i, w := range n.Webhooks {
		at := fmt.Sprintf("notify.webhooks[%d]", i)
		if w.Format == "" {
			k.fail(at+".format", "it must be said: use generic, slack or teams")
		}
		if !path.IsAbs(w.URLFile) {
			k.fail(at+".urlFile", "it must be the absolute path of a file that holds the URL")
		}
	}
}

func (i Ignore) check(k *checker) {
	patterns := func(at string, list []string) {
		for i, p := range list {
			at := fmt.Sprintf("%s[%d]", at, i)
			if _, err := path.Match(p, ""); err != nil || p == "" {
				k.fail(at, "%q is no pattern: use *, ? and [a-z] as in a shell", p)
			} else if at := at; strings.HasPrefix(at, "ignore.namespaces") && strings.Contains(p, "/") {
				k.fail(at, "%q is a pattern of namespace/name: it belongs to ignore.names", p)
			} else if strings.Count(p, "/") > 1 {
				k.fail(at, "%q has more than one slash: write namespace/name, or a name alone", p)
			}
		}
	}
	patterns("ignore.namespaces", i.Namespaces)
	patterns("ignore.names", i.Names)
	for n, s := range i.Labels {
		if err := new(Selector).UnmarshalText([]byte(s)); err != nil {
			k.fail(fmt.Sprintf("ignore.labels[%d]", n), "%v", err)
		}
	}
}

// maxWindows keeps a file from costing minutes of computing.
const maxWindows = 50

// checkRule checks what every rule has. The gate checks its terms itself.
func (c Config) checkRule(k *checker, at string, r Rule) {
	if r.TimeZone != "" {
		if _, err := location(r.TimeZone); err != nil {
			k.fail(at+".timeZone", "%v", err)
		}
	}
	if len(r.Windows) > maxWindows {
		k.fail(at+".windows", "there are %d, and more than %d cannot be told apart: use ranges and lists in the fields of cron", len(r.Windows), maxWindows)
	}
	for i, w := range r.Windows {
		if w.TimeZone != "" {
			if _, err := location(w.TimeZone); err != nil {
				k.fail(fmt.Sprintf("%s.windows[%d].timeZone", at, i), "%v", err)
			}
		}
	}
	// A time zone that does not exist is said once, and hides nothing else.
	if !k.ok("timeZone") {
		c.TimeZone = "UTC"
	}
	if !k.ok(at + ".timeZone") {
		r.TimeZone = ""
	}
	rounds, _, err := c.schedule(r)
	if err != nil {
		k.fail(at+".schedule", "%v", err)
	}
	twoZones(k, at, r.Schedule, r.TimeZone)
	for i, w := range r.Windows {
		at := fmt.Sprintf("%s.windows[%d]", at, i)
		if !k.ok(at + ".timeZone") {
			continue
		}
		twoZones(k, at, w.Schedule, w.TimeZone)
		if _, _, err := schedule(w.Schedule, w.TimeZone, r.TimeZone, c.TimeZone); err != nil {
			k.fail(at+".schedule", "%v", err)
		}
	}
	// What cannot be read, or is out of its limits, is known by now.
	said := func(field string) bool {
		p := at + "." + field
		return !k.ok(p, p+".schedule", p+".duration", p+".timeZone")
	}
	terms, windows := c.terms(r), len(k.errs)
	terms.Check(func(field, why string) {
		if !said(field) {
			k.fail(at+"."+field, "%s", why)
		}
	})
	for i := range r.Windows {
		if said(fmt.Sprintf("windows[%d]", i)) {
			return
		}
	}
	if len(k.errs) == windows && k.ok(at+".schedule") && len(r.Windows) > 0 && !meets(rounds, terms.Windows) {
		k.fail(at+".windows", "no round of %q begins inside of a window, so that nothing would ever be done: move one of them", r.Schedule)
	}
}

// twoZones: of two time zones for one schedule, nobody would know which holds.
func twoZones(k *checker, at, schedule, zone string) {
	if zone != "" && strings.Contains(schedule, "TZ=") {
		k.fail(at+".timeZone", "the schedule names a time zone, too: take one of them out")
	}
}

func (g GC) check(k *checker) {
	if k.ok("gc.minAge", "gc.gracePeriod") && g.GracePeriod < g.MinAge {
		k.fail("gc.gracePeriod", "%s is shorter than minAge (%s): what is too young to be called unused would be deleted", g.GracePeriod, g.MinAge)
	}
	if !k.ok("gc.gracePeriod", "gc.expiredGracePeriod", "gc.minAge") {
		return
	}
	switch {
	case g.ExpiredGracePeriod < g.MinAge:
		k.fail("gc.expiredGracePeriod", "%s is shorter than minAge (%s): what is too young to be called unused would be deleted", g.ExpiredGracePeriod, g.MinAge)
	case g.ExpiredGracePeriod > g.GracePeriod:
		k.fail("gc.expiredGracePeriod", "%s is longer than gracePeriod (%s): what has expired is worth less, and never kept longer; set both", g.ExpiredGracePeriod, g.GracePeriod)
	}
}

func (c Consolidate) check(k *checker) {
	if k.ok("consolidate.minCertificates", "consolidate.maxHosts") && c.MaxHosts < c.MinCertificates {
		k.fail("consolidate.maxHosts", "%d is less than minCertificates (%d): no wildcard could ever be proposed", c.MaxHosts, c.MinCertificates)
	}
	issuer := func(at, s string) {
		parts := strings.Split(s, "/")
		if len(parts) < 2 || len(parts) > 3 || slices.Contains(parts, "") {
			k.fail(at, "%q is no issuer: write Kind/name or Kind/namespace/name, for example ClusterIssuer/vault", s)
		}
	}
	for i, s := range c.AllowIssuers {
		issuer(fmt.Sprintf("consolidate.allowIssuers[%d]", i), s)
	}
	for i, q := range c.Quotas {
		at := fmt.Sprintf("consolidate.quotas[%d]", i)
		issuer(at+".issuer", q.Issuer)
		for _, l := range []struct {
			field string
			n     Count
		}{{"perDomain", q.PerDomain}, {"orders", q.Orders}, {"identical", q.Identical}} {
			if l.n == 0 && k.ok(at+"."+l.field) {
				k.fail(at+"."+l.field, "0 would let nothing be issued: write the limit, or disabled")
			}
		}
	}
	for _, a := range []struct{ key, value, example string }{{"caaResolver", c.CAAResolver, "10.96.0.10:53"}, {"gateway", c.Gateway, "kourier.kourier-system.svc:443"}} {
		if host, port, err := net.SplitHostPort(a.value); a.value != "" && (err != nil || host == "" || port == "") {
			k.fail("consolidate."+a.key, "%q is no address: write host:port, for example %s", a.value, a.example)
		}
	}
	if c.AllowCrossNamespace {
		k.fail("consolidate.allowCrossNamespace", "certherd cannot do this: make the shared wildcard by hand, or with a tool that copies Secrets, and leave it false")
	}
}

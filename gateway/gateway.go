// Package gateway reads what gateways say about themselves, and whether the
// objects that they serve are Ready, so that two readings tell whether something
// has become worse.
package gateway

import (
	"context"
	"fmt"
	"maps"
	"math"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// Options say where gateways can be read.
type Options struct {
	// Pages are the Prometheus pages of single Envoys, as URLs: /stats/prometheus of
	// the admin interface, or of a listener in front of it.
	Pages []string
	// Pods find the pages of Envoys that run as Pods.
	Pods []Pods
	// EnvoysOnly leaves out whether objects are Ready, which takes long lists.
	EnvoysOnly bool
	// Timeout is that of one page; 5 s if it is 0.
	Timeout time.Duration
}

// Pods are gateways that run as Pods, each with a page of its own.
type Pods struct {
	// Namespace and Selector (a label selector, as kubectl takes it) are those of
	// the Pods.
	Namespace, Selector string
	// Port and Path are where each Pod serves its page.
	Port int
	Path string
}

// Kourier are the gateway Pods of net-kourier, whose bootstrap serves the admin
// interface's statistics on port 9000 (net-kourier, config/200-bootstrap.yaml).
func Kourier() Pods {
	return Pods{Namespace: "kourier-system", Selector: "app=3scale-kourier-gateway", Port: 9000, Path: "/stats/prometheus"}
}

// String is what ParsePods takes.
func (p Pods) String() string {
	return fmt.Sprintf("%s/%s:%d%s", p.Namespace, p.Selector, p.Port, p.Path)
}

var podsForm = regexp.MustCompile(`^([a-z0-9][-a-z0-9]*)/(.+):([0-9]+)(/.*)$`)

// ParsePods reads namespace/labelselector:port/path, such as
// kourier-system/app=3scale-kourier-gateway:9000/stats/prometheus.
func ParsePods(text string) (Pods, error) {
	m := podsForm.FindStringSubmatch(text)
	if m == nil {
		return Pods{}, fmt.Errorf("%q names no Pods: write namespace/labelselector:port/path, for example %s", text, Kourier())
	}
	if _, err := labels.Parse(m[2]); err != nil {
		return Pods{}, fmt.Errorf("%q is no label selector: %w", m[2], err)
	}
	port, err := strconv.ParseUint(m[3], 10, 16)
	if err != nil || port == 0 {
		return Pods{}, fmt.Errorf("%q is no port", m[3])
	}
	return Pods{Namespace: m[1], Selector: m[2], Port: int(port), Path: m[4]}, nil
}

// Reader takes Readings. It may be used by several goroutines.
type Reader struct {
	o       Options
	http    *http.Client
	typed   kubernetes.Interface
	dynamic dynamic.Interface
}

// New returns a Reader. cluster leads to the API server, where listing is all that
// is asked for: of Pods, and of the kinds that say whether they are Ready. With nil
// only Pages are read.
func New(cluster *rest.Config, o Options) (*Reader, error) {
	if o.Timeout <= 0 {
		o.Timeout = 5 * time.Second
	}
	for _, p := range o.Pages {
		if err := CheckURL(p); err != nil {
			return nil, err
		}
	}
	r := &Reader{o: o, http: &http.Client{Timeout: o.Timeout, Transport: &http.Transport{
		// Pages are near, and each reading has a connection of its own: what answers
		// is what runs now.
		DisableKeepAlives: true, DialContext: (&net.Dialer{Timeout: o.Timeout}).DialContext,
	}}}
	if cluster == nil {
		return r, nil
	}
	var err error
	if r.typed, err = kubernetes.NewForConfig(cluster); err != nil {
		return nil, fmt.Errorf("cannot find gateways: %w", err)
	}
	if r.dynamic, err = dynamic.NewForConfig(cluster); err != nil {
		return nil, fmt.Errorf("cannot find gateways: %w", err)
	}
	return r, nil
}

// CheckURL says what is wrong with the URL of a page, nil if nothing is.
func CheckURL(page string) error {
	u, err := url.Parse(page)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return fmt.Errorf("%q is no URL of a page: write one like http://envoy.example:9901/stats/prometheus", page)
	}
	if u.User != nil {
		return fmt.Errorf("the URL of a page on %s has a password: it would be shown in reports", u.Host)
	}
	return nil
}

// Reading is how things are at one time. It can be kept as JSON.
type Reading struct {
	Time time.Time `json:"time"`
	// Envoys are those whose page was read, by Pod/namespace/name or URL.
	Envoys map[string]Envoy `json:"envoys,omitempty"`
	// Objects is how many objects said whether they are Ready.
	Objects int `json:"objects"`
	// Unready are those that are not, by their names as
	// inventory.Ref.String has them, with what their status says.
	Unready map[string]string `json:"unready,omitempty"`
	// Newest is when the youngest object was made whose readiness was read, by the
	// API server's clock. What is younger cannot have become worse.
	Newest time.Time `json:"newest"`
	// Unread says what could not be read, and why; sorted.
	Unread []string `json:"unread,omitempty"`

	made map[string]time.Time // of Unready
}

// Envoy is what one Envoy has counted since it was started.
type Envoy struct {
	// Uptime in seconds; Envoy notes it every few seconds.
	Uptime float64 `json:"uptime"`
	// Rejected are the updates of its configuration that it rejected, by the name of
	// the metric, such as envoy_listener_manager_lds_update_rejected.
	Rejected map[string]float64 `json:"rejected,omitempty"`
	// Responses are the answers to its clients, Failed those of class 5xx. Those of
	// its admin interface and of Kourier's page of statistics do not count.
	Responses float64 `json:"responses"`
	Failed    float64 `json:"failed"`
	// Listeners and Memory are how things are now, and so are not kept.
	Listeners Listeners `json:"-"`
	Memory    Memory    `json:"-"`
}

// Listeners are what an Envoy's listener manager says
// (docs/root/configuration/listeners/stats.rst there).
type Listeners struct {
	// Changes counts listeners that were added, changed in any way, or removed since
	// Envoy was started.
	Changes float64
	// Warming are listeners that do not yet serve; Draining those, and the single
	// filter chains, that were replaced and end what they have begun.
	Warming, Draining float64
}

// AtRest reports whether nothing is on its way in or out.
func (l Listeners) AtRest() bool { return l.Warming == 0 && l.Draining == 0 }

// Memory is what an Envoy says of its memory, in bytes, 0 where it does not.
type Memory struct {
	// Allocated is what it uses (server.memory_allocated). Physical is what it holds
	// of the machine (server.memory_physical_size): also what it has not given back.
	Allocated, Physical float64
}

// Read takes a Reading. What cannot be read is in Unread, so that it never looks
// like something that is well.
func (r *Reader) Read(ctx context.Context) Reading {
	now := Reading{Time: time.Now(), Envoys: map[string]Envoy{}, Unready: map[string]string{}, made: map[string]time.Time{}}
	var mu sync.Mutex
	unread := func(format string, a ...any) {
		mu.Lock()
		defer mu.Unlock()
		now.Unread = append(now.Unread, fmt.Sprintf(format, a...))
	}
	var parts sync.WaitGroup
	for name, page := range r.find(ctx, unread) {
		parts.Go(func() {
			e, err := r.page(ctx, page)
			if err != nil {
				unread("gateway %s: %v", name, err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			now.Envoys[name] = e
		})
	}
	if r.dynamic != nil && !r.o.EnvoysOnly {
		for _, k := range kinds {
			parts.Go(func() {
				if err := r.readiness(ctx, k, func(name, why string, made time.Time) {
					mu.Lock()
					defer mu.Unlock()
					now.Objects++
					if made.After(now.Newest) {
						now.Newest = made
					}
					if why != "" {
						now.Unready[name], now.made[name] = why, made
					}
				}); err != nil {
					unread("whether %s are Ready: %v", k.resource.GroupResource(), err)
				}
			})
		}
	}
	parts.Wait()
	slices.Sort(now.Unread)
	return now
}

// find returns the pages of the Envoys, by their names. What could not be found is
// said.
func (r *Reader) find(ctx context.Context, unread func(format string, a ...any)) map[string]string {
	pages := map[string]string{} // name -> URL
	for _, p := range r.o.Pages {
		pages[p] = p
	}
	if r.typed != nil {
		for _, p := range r.o.Pods {
			list, err := r.typed.CoreV1().Pods(p.Namespace).List(ctx, metav1.ListOptions{LabelSelector: p.Selector})
			if err != nil {
				unread("gateway Pods in namespace %s: %v", p.Namespace, err)
				continue
			}
			for _, pod := range list.Items {
				// One that has no address yet, or ends, serves nobody.
				if pod.Status.PodIP != "" && pod.Status.Phase == "Running" && pod.DeletionTimestamp == nil {
					pages["Pod/"+pod.Namespace+"/"+pod.Name] = "http://" + net.JoinHostPort(pod.Status.PodIP, strconv.Itoa(p.Port)) + p.Path
				}
			}
		}
	}
	return pages
}

// Blind reports whether there is nothing that could become worse: no gateway was
// found, and no object that says whether it is Ready.
func (now Reading) Blind() bool { return len(now.Envoys)+now.Objects+len(now.Unread) == 0 }

// Limits are how much worse things may become between two Readings.
type Limits struct {
	// Rejected is how many updates all gateways together may reject.
	Rejected int
	// Failed is how many more of the answers may be 5xx, as a share (0 to 1) of
	// the answers between the two Readings, than of those before the first.
	Failed float64
	// LeastFailed is the number of 5xx below which their share says nothing.
	LeastFailed int
	// Unready is how many objects that were Ready may not be any more.
	Unready int
}

// Defaults allow nothing but single failures.
func Defaults() Limits { return Limits{Failed: 0.01, LeastFailed: 10} }

// Check tells what is wrong with Limits, field by field.
func (l Limits) Check(bad func(field, why string)) {
	if l.Rejected < 0 {
		bad("rejected", "it must be 0 or more")
	}
	if !(l.Failed >= 0 && l.Failed <= 1) {
		bad("failed", "it must be from 0% to 100%")
	}
	if l.LeastFailed < 1 {
		bad("leastFailed", "it must be 1 or more")
	}
	if l.Unready < 0 {
		bad("unready", "it must be 0 or more")
	}
}

// Worse says in sentences how a later Reading is worse than before, beyond
// limits; nothing if it is not. What was not read in either is no part of it: look
// at Unread. An Envoy that was started in between has counted from 0.
func (now Reading) Worse(before Reading, l Limits) []string {
	var out []string
	if why := now.rejections(before, l); why != "" {
		out = append(out, why)
	}
	if why := now.failures(before, l); why != "" {
		out = append(out, why)
	}
	if names := now.NotReady(before); len(names) > l.Unready {
		var first []string
		for _, n := range names[:min(3, len(names))] {
			first = append(first, n+" ("+now.Unready[n]+")")
		}
		why := strings.Join(first, ", ")
		if more := len(names) - len(first); more > 0 {
			why += fmt.Sprintf(" and %d more", more)
		}
		out = append(out, plural(len(names), "object")+" no longer Ready: "+why)
	}
	return out
}

// LastOf are the Envoys of an earlier Reading and of now, as each was read last.
func (now Reading) LastOf(before Reading) map[string]Envoy {
	all := make(map[string]Envoy, len(before.Envoys)+len(now.Envoys))
	maps.Copy(all, before.Envoys)
	maps.Copy(all, now.Envoys)
	return all
}

// NotReady are the objects that are not Ready and were in an earlier Reading,
// sorted.
func (now Reading) NotReady(before Reading) []string {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(now.Unready)) {
		if _, was := before.Unready[name]; !was && !now.made[name].After(before.Newest) {
			out = append(out, name)
		}
	}
	return out
}

// since is what an Envoy has counted since an earlier Reading.
func (e Envoy) since(b Envoy) Envoy {
	// Envoy's uptime is some seconds old.
	again := e.Uptime+15 < b.Uptime || e.Responses < b.Responses || e.Failed < b.Failed
	for name, n := range b.Rejected {
		again = again || e.Rejected[name] < n
	}
	if again {
		return e
	}
	d := Envoy{Uptime: e.Uptime - b.Uptime, Responses: e.Responses - b.Responses, Failed: e.Failed - b.Failed, Rejected: map[string]float64{}}
	for name, n := range e.Rejected {
		d.Rejected[name] = n - b.Rejected[name]
	}
	return d
}

func (now Reading) rejections(before Reading, l Limits) string {
	total := 0
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(now.Envoys)) {
		d := now.Envoys[name].since(before.Envoys[name])
		for _, metric := range slices.Sorted(maps.Keys(d.Rejected)) {
			if n := int(d.Rejected[metric]); n > 0 {
				total += n
				parts = append(parts, fmt.Sprintf("%s: %s +%d", name, metric, n))
			}
		}
	}
	if total <= l.Rejected {
		return ""
	}
	return fmt.Sprintf("gateways rejected %s of their configuration (%s)", plural(total, "update"), strings.Join(parts, ", "))
}

func (now Reading) failures(before Reading, l Limits) string {
	var n, failed, oldN, oldFailed float64
	for name, e := range now.Envoys {
		b := before.Envoys[name]
		d := e.since(b)
		n, failed = n+d.Responses, failed+d.Failed
		oldN, oldFailed = oldN+b.Responses, oldFailed+b.Failed
	}
	share := func(failed, n float64) float64 { return failed / math.Max(n, 1) }
	if failed < float64(l.LeastFailed) || share(failed, n) <= share(oldFailed, oldN)+l.Failed {
		return ""
	}
	return fmt.Sprintf("gateways answered %.0f of %.0f requests with 5xx (%.1f%%, and %.1f%% before)", failed, n, 100*share(failed, n), 100*share(oldFailed, oldN))
}

// Await waits for what was done to have its effect, and says how things are
// then. What is worse without doubt (Rejected, Failed) counts when settle is over;
// an object gets as long again to become Ready. It ends early, with an error, when
// ctx does.
func (r *Reader) Await(ctx context.Context, before Reading, l Limits, settle time.Duration) (now Reading, worse []string, err error) {
	if err := sleep(ctx, settle); err != nil {
		return now, nil, err
	}
	end := time.Now().Add(settle)
	for {
		now = r.Read(ctx)
		if ctx.Err() != nil {
			return now, nil, context.Cause(ctx)
		}
		worse = now.Worse(before, l)
		calm := now
		calm.Unready = nil
		if len(worse) == 0 || len(calm.Worse(before, l)) > 0 || !time.Now().Before(end) {
			return now, worse, nil
		}
		if err := sleep(ctx, min(time.Second, time.Until(end))); err != nil {
			return now, nil, err
		}
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}

func plural(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}

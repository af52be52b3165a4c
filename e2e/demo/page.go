package main

import (
	"bytes"
	"cmp"
	_ "embed"
	"encoding/json"
	"fmt"
	"html/template"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/certherd/certherd/api/v1alpha1"
	"github.com/certherd/certherd/e2e/plot"
	"github.com/certherd/certherd/e2e/replica"
	"github.com/certherd/certherd/report"
)

//go:embed page.html
var pageText string

var pageTemplate = template.Must(template.New("page").Parse(pageText))

// page is what the demo shows at its end.
type page struct {
	Before, After gateway
	Took          time.Duration
	Unfinished    bool
	Configuration string
	Folded        []folded
	Collected     []collected
	Held          []held
	Lanes         template.HTML

	before, after  report.Report
	consolidations []*v1alpha1.Consolidation
	folds, updates []plot.Point
}

// folded is a wildcard and what it replaced.
type folded struct {
	Namespace, Wildcard, Phase, Message string
	Certificates, Hosts                 int
}

// collected is what was taken away of one kind, for one reason.
type collected struct {
	Kind, Why string
	N         int
	Examples  []string
}

// held is what was left alone for one cause.
type held struct {
	Why     string
	Objects []string
}

func readReport(file string) (r report.Report, err error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return r, err
	}
	return r, json.Unmarshal(text, &r)
}

func (p *page) done(at time.Duration, members int) {
	p.folds = append(p.folds, plot.Point{At: at, Value: float64(members)})
}

func (p *page) updated(at time.Duration, n int) {
	p.updates = append(p.updates, plot.Point{At: at, Value: float64(n)})
}

// Rejected is how many updates the gateway rejected while certherd was at work, and
// Updates how many it took.
func (p *page) Rejected() int { return p.After.Rejected - p.Before.Rejected }
func (p *page) Updates() int  { return p.After.Updates - p.Before.Updates }

// Deleted is how many objects are gone.
func (p *page) Deleted() (n int) {
	for _, c := range p.Collected {
		n += c.N
	}
	return n
}

// HeldObjects is how many objects were left alone.
func (p *page) HeldObjects() (n int) {
	for _, h := range p.Held {
		n += len(h.Objects)
	}
	return n
}

// digest makes tables and time line of what certherd logged.
func (p *page) digest(lines []replica.Line, begun time.Time) {
	reasons := map[string]string{} // by object, in the words of the first report
	for _, f := range p.before.Findings {
		if f.Verdict == "unused" {
			reasons[f.Object.String()] = f.Reason
			for _, r := range f.Related {
				if reasons[r.String()] == "" {
					reasons[r.String()] = f.Reason
				}
			}
		}
	}
	for _, c := range p.consolidations {
		f := folded{Namespace: c.Namespace, Wildcard: strings.Join(c.Spec.Wildcards, ", "), Phase: string(c.Status.Phase), Certificates: len(c.Spec.Members), Hosts: len(c.Spec.Hosts)}
		if c.Status.Phase != v1alpha1.Done {
			f.Message = c.Status.Message
		}
		p.Folded = append(p.Folded, f)
		for _, m := range c.Spec.Members {
			for _, kind := range []string{"Secret", "Certificate", "KCertificate"} {
				reasons[kind+"/"+c.Namespace+"/"+m.SecretName] = "folded into " + f.Wildcard
			}
		}
	}
	lanes := map[string]*plot.Lane{}
	of, told := map[[2]string]*collected{}, map[[2]string]bool{}
	for _, l := range lines {
		// A step of which a round finds that it was carried out before is told again.
		step := [2]string{l.Text("action"), l.Text("object")}
		if l.Message != "step" || l.Text("why") != "" || l.Text("result") == "waiting" || told[step] {
			continue
		}
		told[step] = true
		name := map[string]string{"retire": "marked, kept for its grace period", "delete": "deleted"}[l.Text("action")]
		if name == "" {
			continue
		}
		if lanes[name] == nil {
			lanes[name] = &plot.Lane{Name: name}
		}
		lanes[name].Points = append(lanes[name].Points, plot.Point{At: l.At.Sub(begun), Value: 1})
		if l.Text("action") != "delete" {
			continue
		}
		object := l.Text("object")
		kind, _, _ := strings.Cut(object, "/")
		key := [2]string{kind, cmp.Or(reasons[object], "left over")}
		if of[key] == nil {
			of[key] = &collected{Kind: key[0], Why: key[1]}
		}
		of[key].N++
		if len(of[key].Examples) < 3 {
			of[key].Examples = append(of[key].Examples, object)
		}
	}
	p.Collected = nil
	for _, c := range of {
		p.Collected = append(p.Collected, *c)
	}
	slices.SortFunc(p.Collected, func(a, b collected) int { return cmp.Or(cmp.Compare(a.Why, b.Why), cmp.Compare(a.Kind, b.Kind)) })
	all := []plot.Lane{}
	for _, name := range slices.Sorted(maps.Keys(lanes)) {
		all = append(all, *lanes[name])
	}
	all = append(all, plot.Lane{Name: "certificates folded into wildcards", Points: p.folds}, plot.Lane{Name: "updates of the gateway's listeners", Points: p.updates})
	p.Lanes = template.HTML(plot.Lanes("What was done when", all)) // plot escapes what it is given
	p.holds()
}

// holds are what the newest report knows and certherd did not touch.
func (p *page) holds() {
	var causes []string
	of := map[string][]string{}
	add := func(why, object string) {
		if of[why] == nil {
			causes = append(causes, why)
		}
		if !slices.Contains(of[why], object) {
			of[why] = append(of[why], object)
		}
	}
	for _, f := range p.after.Findings {
		if f.Verdict == "unknown" || f.Reason == "NotConsolidatable" || f.Reason == "DrainHazard" {
			add(f.Message, f.Object.String())
		}
	}
	for _, c := range p.after.Changes {
		if c.Held != "" && len(c.Steps) > 0 {
			add(c.Held, c.Steps[0].Object.String())
		}
	}
	for _, why := range causes {
		p.Held = append(p.Held, held{why, of[why]})
	}
	slices.SortStableFunc(p.Held, func(a, b held) int { return cmp.Compare(len(b.Objects), len(a.Objects)) })
}

func (p *page) html() ([]byte, error) {
	var b bytes.Buffer
	err := pageTemplate.Execute(&b, p)
	return b.Bytes(), err
}

// Share is by how much a value went down, in percent.
func (p *page) Share(before, after float64) string {
	if before == 0 {
		return ""
	}
	return fmt.Sprintf("%+.0f %%", 100*(after-before)/before)
}

// CertificatesBefore and CertificatesAfter are for Share.
func (p *page) CertificatesBefore() float64 { return float64(p.Before.Certificates) }
func (p *page) CertificatesAfter() float64  { return float64(p.After.Certificates) }

package report

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// Formats lists the names that Write takes, in the order in which help texts
// should show them.
var Formats = []string{"table", "wide", "json", "yaml", "csv", "markdown", "html", "sarif", "junit"}

// Options says how a report is shown. The zero value is fine: no colour, no
// cutting, and rules taken from the findings themselves.
type Options struct {
	// Color allows ANSI colours in the table and wide formats.
	Color bool
	// Width is the number of columns of the terminal, 0 when the output is not
	// a terminal; the table format cuts its lines to it, and never cuts at 0.
	Width int
	// Rules describes the reasons that a finding may have, in the order in
	// which they are shown. A reason without a rule comes after these, in
	// alphabetical order, with a level taken from its verdicts.
	Rules []Rule
	// Version is the version of certherd, for formats that name their producer.
	Version string
}

// Rule describes one Reason to the formats that explain what they found.
type Rule struct {
	Reason  string // as in Finding.Reason
	Short   string // one sentence of plain text: what the reason means
	Help    string // plain text: how sure it is, and what to do
	HelpURI string // an absolute URL with more to read, or empty
	Level   string // error, warning or note, as in SARIF 2.1.0 section 3.27.10
}

// The values of Rule.Level.
const (
	LevelError   = "error"
	LevelWarning = "warning"
	LevelNote    = "note"
)

// Write writes r to w in the named format. It changes neither r nor its order:
// it works on a normalised copy, so that the same findings in any order give
// the same bytes. The output ends in one newline. An unknown format gives an
// error that lists Formats; nothing is written then, nor when r cannot be
// shown in that format (a number that is not finite, for example).
func Write(w io.Writer, format string, r *Report, o Options) error {
	formats := map[string]func(io.Writer, *Report, Options) error{
		"table":    writeTable,
		"wide":     writeWide,
		"json":     writeJSON,
		"yaml":     writeYAML,
		"csv":      writeCSV,
		"markdown": writeMarkdown,

		"html":  writeHTML,
		"sarif": writeSARIF,
		"junit": writeJUnit,
	}
	write, ok := formats[format]
	if !ok {
		return fmt.Errorf("unknown output format %q: use one of %s", format, strings.Join(Formats, ", "))
	}
	c := r.clone()
	c.Normalize()
	if format == "json" || format == "html" {
		// These may be large. The one finds out what cannot be shown before it writes;
		// to the other, nothing is that.
		if err := write(w, c, o); err != nil {
			return fmt.Errorf("writing the report as %s: %w", format, err)
		}
		return nil
	}
	var b bytes.Buffer
	if err := write(&b, c, o); err != nil {
		return fmt.Errorf("writing the report as %s: %w", format, err)
	}
	_, err := w.Write(b.Bytes())
	return err
}

// Normalize brings r into the one form in which it is written: the time in
// UTC, empty lists instead of nil ones, APIVersion and Kind filled in, and
// everything sorted whose order has no meaning. The steps of a change keep
// their order, because they are carried out in it.
func (r *Report) Normalize() {
	r.APIVersion, r.Kind = APIVersion, Kind
	r.TakenAt = r.TakenAt.Round(0).UTC()
	if r.Summary.Verdicts == nil {
		r.Summary.Verdicts = map[string]int{}
	}
	if r.Summary.Findings == nil {
		r.Summary.Findings = map[string]int{}
	}
	sortList(&r.Namespaces, func(a, b Namespace) int {
		return cmp.Or(cmp.Compare(a.Cluster, b.Cluster), cmp.Compare(a.Name, b.Name))
	})
	sortList(&r.Gateways, func(a, b Gateway) int {
		return cmp.Or(cmp.Compare(a.Cluster, b.Cluster), compareRefs(a.Object, b.Object))
	})
	if r.Loaded != nil {
		sortList(&r.Loaded.Secrets, func(a, b LoadedSecret) int { return compareRefs(a.Object, b.Object) })
		sortList(&r.Loaded.Strays, func(a, b Stray) int { return cmp.Or(slices.Compare(a.Names, b.Names), cmp.Compare(a.Serial, b.Serial)) })
	}
	for i := range r.Held {
		r.Held[i].Until = r.Held[i].Until.Round(0).UTC()
	}
	slices.SortStableFunc(r.Held, func(a, b Held) int {
		return cmp.Or(a.Until.Compare(b.Until), compareRefs(a.Object, b.Object), cmp.Compare(a.Action, b.Action), cmp.Compare(a.Why, b.Why))
	})
	sortFindings(&r.Findings)
	sortChanges(&r.Changes)
	sortList(&r.Gaps, func(a, b Gap) int {
		return cmp.Or(cmp.Compare(a.Cluster, b.Cluster), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Reason, b.Reason))
	})
}

func sortFindings(list *[]Finding) {
	for i := range *list {
		f := &(*list)[i]
		sortList(&f.Evidence, func(a, b Evidence) int {
			return cmp.Or(cmp.Compare(strength(a.How), strength(b.How)), cmp.Compare(a.How, b.How),
				compareRefs(a.From, b.From), cmp.Compare(a.Field, b.Field))
		})
		sortList(&f.Related, compareRefs)
	}
	sortList(list, compareFindings)
}

func sortChanges(list *[]Change) {
	for i := range *list {
		if (*list)[i].Steps == nil {
			(*list)[i].Steps = []Step{}
		}
	}
	sortList(list, compareChanges)
}

func sortList[T any](list *[]T, compare func(a, b T) int) {
	if *list == nil {
		*list = []T{}
	}
	slices.SortStableFunc(*list, compare)
}

// strength puts evidence that settles a verdict before evidence that only
// makes it unknown.
func strength(how string) int {
	if i := slices.Index([]string{"field", "owner", "label", "mention"}, how); i >= 0 {
		return i
	}
	return 4
}

func compareRefs(a, b Ref) int {
	return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Kind, b.Kind),
		cmp.Compare(a.Name, b.Name), cmp.Compare(a.Group, b.Group))
}

// compareFindings and compareChanges look at every field, so that not even
// two entries about the same object can swap places.
func compareFindings(a, b Finding) int {
	return cmp.Or(cmp.Compare(a.Reason, b.Reason), cmp.Compare(a.Cluster, b.Cluster), compareRefs(a.Object, b.Object),
		cmp.Compare(a.Verdict, b.Verdict), cmp.Compare(a.Message, b.Message),
		slices.CompareFunc(a.Related, b.Related, compareRefs),
		slices.CompareFunc(a.Evidence, b.Evidence, func(a, b Evidence) int {
			return cmp.Or(cmp.Compare(a.How, b.How), compareRefs(a.From, b.From), cmp.Compare(a.Field, b.Field))
		}))
}

func compareChanges(a, b Change) int {
	return cmp.Or(cmp.Compare(a.Reason, b.Reason), cmp.Compare(a.Cluster, b.Cluster), cmp.Compare(a.Wildcard, b.Wildcard),
		cmp.Compare(a.ID, b.ID), cmp.Compare(a.Message, b.Message), cmp.Compare(a.Held, b.Held),
		slices.CompareFunc(a.Steps, b.Steps, func(a, b Step) int {
			to := func(s Step) Ref {
				if s.To == nil {
					return Ref{}
				}
				return *s.To
			}
			return cmp.Or(cmp.Compare(a.Action, b.Action), compareRefs(a.Object, b.Object), compareRefs(to(a), to(b)))
		}))
}

// clone copies whatever Normalize changes.
func (r *Report) clone() *Report {
	c := *r
	c.Namespaces = slices.Clone(r.Namespaces)
	c.Gateways = slices.Clone(r.Gateways)
	c.Findings = slices.Clone(r.Findings)
	for i := range c.Findings {
		c.Findings[i].Evidence = slices.Clone(c.Findings[i].Evidence)
		c.Findings[i].Related = slices.Clone(c.Findings[i].Related)
	}
	c.Held = slices.Clone(r.Held)
	c.Changes = slices.Clone(r.Changes)
	c.Gaps = slices.Clone(r.Gaps)
	c.Clusters = slices.Clone(r.Clusters)
	if r.Loaded != nil {
		l := *r.Loaded
		l.Secrets, l.Strays = slices.Clone(l.Secrets), slices.Clone(l.Strays)
		c.Loaded = &l
	}
	return &c
}

// group is one reason with what was found for it.
type group struct {
	Rule     Rule
	Findings []Finding
}

// groups gives one group a reason: those with a rule first, in the order of
// the rules and also when nothing was found for them, then the others in
// alphabetical order. r is normalised.
func groups(r *Report, rules []Rule) []group {
	found := map[string][]Finding{}
	var rest []string
	for _, f := range r.Findings {
		if found[f.Reason] == nil && !slices.ContainsFunc(rules, func(u Rule) bool { return u.Reason == f.Reason }) {
			rest = append(rest, f.Reason)
		}
		found[f.Reason] = append(found[f.Reason], f)
	}
	var all []group
	seen := map[string]bool{}
	for _, u := range rules {
		if seen[u.Reason] {
			continue
		}
		seen[u.Reason] = true
		if u.Level == "" {
			u.Level = deriveLevel(found[u.Reason])
		}
		all = append(all, group{u, found[u.Reason]})
	}
	for _, reason := range rest {
		all = append(all, group{Rule{Reason: reason, Level: deriveLevel(found[reason])}, found[reason]})
	}
	return all
}

// nonEmpty leaves out the groups without a finding.
func nonEmpty(all []group) []group {
	return slices.DeleteFunc(slices.Clone(all), func(g group) bool { return len(g.Findings) == 0 })
}

// deriveLevel stands in for the level of a rule that has none: something that
// can be acted on, or that has no verdict, is a warning; the rest is to be
// noted.
func deriveLevel(findings []Finding) string {
	for _, f := range findings {
		if f.Verdict == "unused" || f.Verdict == "" {
			return LevelWarning
		}
	}
	return LevelNote
}

// unused and unknown read the summary's verdict counts.
func (s Summary) unused() int  { return s.Verdicts["unused"] }
func (s Summary) unknown() int { return s.Verdicts["unknown"] }

// counted is "1 finding" or "2 findings".
func counted(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return thousands(n) + " " + many
}

// thousands groups the digits of n: 12,345.
func thousands(n int) string {
	s := fmt.Sprint(n)
	sign := ""
	if n < 0 {
		sign, s = "-", s[1:]
	}
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return sign + s
}

// mib shows a number of MiB to the precision that the model behind it has.
func mib(x float64) string {
	if x < 10 {
		return fmt.Sprintf("%.1f MiB", x)
	}
	return thousands(int(x+0.5)) + " MiB"
}

// capacity says what a gateway's limit holds, and by what that is known.
func capacity(g Gateway) string {
	text := "no limit"
	if h := g.Holds; h != nil {
		text = fmt.Sprintf("limit %s: holds %s at rest, %s in churn", mib(g.MemoryMiB.Limit), counted(h.AtRest, "certificate", "certificates"), thousands(h.InChurn))
	}
	if g.NeedsLimitMiB > 0 {
		text += "; as it is it needs a limit of " + mib(float64(g.NeedsLimitMiB))
	}
	if g.BasisNote != "" {
		text += " (" + g.BasisNote + ")"
	}
	return text
}

// loadedText says how often something is loaded; empty where nobody asked.
func loadedText(copies *int) string {
	switch {
	case copies == nil:
		return ""
	case *copies == 0:
		return "not loaded"
	case *copies == 1:
		return "loaded once"
	}
	return fmt.Sprintf("loaded %s times", thousands(*copies))
}

// inShort is what gateways have loaded, in one line.
func (l *Loaded) inShort() string {
	n := 0
	for _, s := range l.Secrets {
		if s.Copies > 0 {
			n++
		}
	}
	text := fmt.Sprintf("%s in %s, from %s", counted(l.Certificates, "certificate", "certificates"), counted(l.Copies, "copy", "copies"), counted(n, "Secret", "Secrets"))
	if k := len(l.Strays); k > 0 {
		text += fmt.Sprintf("; %s of no Secret here", thousands(k))
	}
	return text
}

// stamp shows a time to the second.
func stamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") }

// gapSentence says what a gap means for the verdicts; table, Markdown and HTML
// use the same words.
const gapSentence = "so nothing that it could refer to is called unused"

// nothingFound is what the formats for people say instead of an empty list.
func nothingFound(r *Report) string {
	if len(r.Gaps) > 0 {
		return "No findings in what could be read; see below for what could not."
	}
	return "No findings: there is nothing to tidy up."
}

// stepCounts sums up the steps of a change: "14 steps: 1 issue, 1 await, 12 switch".
func stepCounts(steps []Step) string {
	var order []string
	count := map[string]int{}
	for _, s := range steps {
		if count[s.Action] == 0 {
			order = append(order, s.Action)
		}
		count[s.Action]++
	}
	if len(order) == 0 {
		return "no steps"
	}
	parts := make([]string, len(order))
	for i, a := range order {
		parts[i] = fmt.Sprintf("%d %s", count[a], a)
	}
	return counted(len(steps), "step", "steps") + ": " + strings.Join(parts, ", ")
}

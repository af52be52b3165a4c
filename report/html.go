package report

import (
	"bufio"
	"cmp"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"fmt"
	"html/template"
	"io"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

//go:embed html/page.html html/page.css html/page.js
var htmlFiles embed.FS

// The page's own style and script; the policy in its head allows these two by
// their hashes and nothing else, least of all the network.
var (
	pageCSS = mustRead("html/page.css")
	pageJS  = mustRead("html/page.js")
	policy  = "default-src 'none'; img-src data:; style-src '" + sourceHash(pageCSS) + "'; script-src '" + sourceHash(pageJS) +
		"'; base-uri 'none'; form-action 'none'"

	pageTemplate = template.Must(template.New("page.html").Funcs(template.FuncMap{
		"thousands": thousands,
		"mib":       mib,
		"stamp":     stamp,
		"counted":   counted,
		"waiting":   heldInShort,
		"what":      Held.what,
		"capacity":  capacity,
		"loaded":    loadedText,
		"join":      func(list []string) string { return strings.Join(list, ", ") },
		"steps":     stepCounts,
		"in":        in,
		"picture":   func(what string, p pairs) picture { return picture{what, p} },
	}).ParseFS(htmlFiles, "html/page.html"))
)

func mustRead(name string) string {
	b, err := htmlFiles.ReadFile(name)
	if err != nil {
		panic(err) // the file is embedded: it was there when this was built
	}
	return string(b)
}

// sourceHash is the hash-source of Content Security Policy Level 3 for an
// inline element with this text.
func sourceHash(text string) string {
	sum := sha256.Sum256([]byte(text))
	return "sha256-" + base64.StdEncoding.EncodeToString(sum[:])
}

// writeHTML writes one page that needs nothing else: no network, no script to
// be read in full. html/template escapes whatever comes from the cluster;
// beyond that, characters that show as nothing or turn the direction of the
// text are shown by their code, so that no name can pass for another.
func writeHTML(w io.Writer, r *Report, o Options) error {
	b := bufio.NewWriterSize(w, 64<<10)
	if err := pageTemplate.Execute(visibly{b}, newPage(r, o)); err != nil {
		return err
	}
	return b.Flush()
}

// visibly writes with WriteVisible what a template writes, which is whole strings.
type visibly struct{ w io.Writer }

func (v visibly) Write(text []byte) (int, error) {
	return len(text), WriteVisible(v.w, string(text))
}

// WriteVisible writes a page with the characters that show as nothing, or turn the
// direction of the text, replaced by their code.
func WriteVisible(w io.Writer, text string) error {
	for {
		i := strings.IndexFunc(text, unseen)
		if i < 0 {
			break
		}
		c, size := utf8.DecodeRuneInString(text[i:])
		if _, err := fmt.Fprintf(w, `%s\u%04x`, text[:i], c); err != nil {
			return err
		}
		text = text[i+size:]
	}
	_, err := io.WriteString(w, text)
	return err
}

func unseen(c rune) bool {
	return unicode.IsControl(c) && c != '\n' && c != '\r' && c != '\t' || unicode.Is(unicode.Bidi_Control, c)
}

// rowsInPicture is how many namespaces and gateways the pictures show at once;
// the others open on demand.
const rowsInPicture = 12

type page struct {
	Report      *Report
	Version     string
	CSS         template.CSS
	JS          template.JS
	Policy      string
	Lead        string // the sentence at the top
	Nothing     string // what to say when there are no findings
	GapSentence string
	Unused      int
	Unknown     int
	Memory      *memoryTile
	Loaded      string
	Namespaces  pairs
	Gateways    pairs
	Memories    []memoryPicture
	Reloads     *reloadsPicture
	Groups      []htmlGroup
	Verdicts    []string
	Places      []string // the namespaces of the findings
}

type htmlGroup struct {
	group
	First  int    // index of its first row
	Width  string // of the bar that shows its share of the findings
	Anchor string
}

// pairs is a picture of numbers now and after, one bar over the other.
type pairs struct {
	Shown, Rest []pair
	RestNow     int
	RestAfter   int
}

// picture is what the template of a picture takes.
type picture struct {
	What  string // the header of its first column
	Pairs pairs
}

type pair struct {
	Name, Note     string
	Now, After     int
	NowPct, AftPct string
}

type memoryTile struct {
	Memory
	Over, OverAfter bool
}

// memoryPicture shows one gateway's memory as bars against its limit.
type memoryPicture struct {
	Gateway  Gateway
	Bars     []memoryBar
	LimitPct string
	// Anchor says on which side of the limit line its label fits.
	Anchor string
	Verb   string // what the picture says, in words
}

// reloadsPicture shows the reloads of each week as two bars, one in front of the other.
type reloadsPicture struct {
	Reloads
	Most int // of a week
	Bars []reloadBar
	Says string
}

// reloadBar is a rectangle, in the units of the picture: 100 high, and 10 wide for each week.
type reloadBar struct {
	X, Y, Width, Height string
	After               bool
}

func newReloadsPicture(r Reloads) *reloadsPicture {
	p := &reloadsPicture{Reloads: r, Most: 1}
	for _, w := range r.Weeks {
		p.Most = max(p.Most, w.Now, w.After)
	}
	bar := func(week, n int, inset float64, after bool) {
		height := 100 * float64(n) / float64(p.Most)
		number := func(x float64) string { return fmt.Sprintf("%.1f", x) }
		p.Bars = append(p.Bars, reloadBar{number(10*float64(week) + inset), number(100 - height), number(10 - 2*inset), number(height), after})
	}
	for i, w := range r.Weeks {
		bar(i, w.Now, 1, false)
		bar(i, w.After, 2.5, true)
	}
	p.Says = fmt.Sprintf("In %d days, renewals of %s are %s of the gateway by cert-manager alone, and %s by certherd in batches, with its relay.", r.Days,
		counted(r.Certificates, "certificate", "certificates"), counted(r.Total.Now, "reload", "reloads"), thousands(r.Total.After))
	return p
}

// Width is that of the picture.
func (p *reloadsPicture) Width() int { return 10 * len(p.Weeks) }

type memoryBar struct {
	Label string
	Value float64
	Pct   string
	After bool
	Over  bool
}

func newPage(r *Report, o Options) page {
	p := page{Report: r, Version: o.Version, CSS: template.CSS(pageCSS), JS: template.JS(pageJS), Policy: policy,
		Lead: lead(r), Nothing: nothingFound(r), GapSentence: gapSentence,
		Unused: r.Summary.unused(), Unknown: r.Summary.unknown()}
	if m := r.Summary.GatewayMemoryMiB; m != nil {
		p.Memory = &memoryTile{*m, m.Limit > 0 && m.ChurnNow > m.Limit, m.Limit > 0 && m.ChurnAfter > m.Limit}
	}
	if r.Loaded != nil {
		p.Loaded = r.Loaded.inShort()
	}
	if r.Reloads != nil && r.Reloads.Total.Now > 0 {
		p.Reloads = newReloadsPicture(*r.Reloads)
	}
	for _, n := range r.Namespaces {
		if n.GatewayCertificates != (NowAfter{}) {
			p.Namespaces.Shown = append(p.Namespaces.Shown, pair{Name: in(n.Cluster, n.Name), Now: n.GatewayCertificates.Now, After: n.GatewayCertificates.After})
		}
	}
	p.Namespaces.arrange()
	for _, g := range r.Gateways {
		p.Gateways.Shown = append(p.Gateways.Shown, pair{Name: in(g.Cluster, g.Object.Namespace+"/"+g.Object.Name),
			Note: g.configuredBy(), Now: g.Certificates.Now, After: g.Certificates.After})
		p.Memories = append(p.Memories, newMemoryPicture(g))
	}
	p.Gateways.arrange()

	row, most := 0, 0
	all := nonEmpty(groups(r, o.Rules))
	for _, g := range all {
		most = max(most, len(g.Findings))
	}
	seen := map[string]bool{}
	for i, g := range all {
		p.Groups = append(p.Groups, htmlGroup{group: g, First: row, Width: percent(float64(len(g.Findings)), float64(most)),
			Anchor: fmt.Sprintf("reason-%d", i+1)})
		row += len(g.Findings)
		for _, f := range g.Findings {
			if !seen["v"+f.Verdict] {
				seen["v"+f.Verdict] = true
				p.Verdicts = append(p.Verdicts, f.Verdict)
			}
			if place := f.Place(); !seen["n"+place] {
				seen["n"+place] = true
				p.Places = append(p.Places, place)
			}
		}
	}
	slices.Sort(p.Verdicts)
	slices.Sort(p.Places)
	return p
}

// arrange sorts the pairs by what they save, then by size and name, works out
// the bars and keeps the long tail apart.
func (p *pairs) arrange() {
	slices.SortStableFunc(p.Shown, func(a, b pair) int {
		return cmp.Or(cmp.Compare(b.Now, a.Now), cmp.Compare(b.After, a.After), cmp.Compare(a.Name, b.Name))
	})
	most := 0
	for _, x := range p.Shown {
		most = max(most, x.Now, x.After)
	}
	for i := range p.Shown {
		x := &p.Shown[i]
		x.NowPct, x.AftPct = percent(float64(x.Now), float64(most)), percent(float64(x.After), float64(most))
	}
	if len(p.Shown) > rowsInPicture+1 {
		p.Shown, p.Rest = p.Shown[:rowsInPicture], p.Shown[rowsInPicture:]
		for _, x := range p.Rest {
			p.RestNow += x.Now
			p.RestAfter += x.After
		}
	}
}

func newMemoryPicture(g Gateway) memoryPicture {
	m := g.MemoryMiB
	scale := max(m.Now, m.After, m.ChurnNow, m.ChurnAfter, m.Limit) * 1.04
	bar := func(label string, value float64, after bool) memoryBar {
		return memoryBar{label, value, percent(value, scale), after, m.Limit > 0 && value > m.Limit}
	}
	p := memoryPicture{Gateway: g, Bars: []memoryBar{
		bar("At rest, now", m.Now, false), bar("At rest, after", m.After, true),
		bar("In churn, now", m.ChurnNow, false), bar("In churn, after", m.ChurnAfter, true),
	}}
	if m.Limit > 0 {
		p.LimitPct = percent(m.Limit, scale)
		p.Anchor = "middle"
		if m.Limit/scale > 0.8 {
			p.Anchor = "end"
		} else if m.Limit/scale < 0.2 {
			p.Anchor = "start"
		}
	}
	switch {
	case m.Limit <= 0:
		p.Verb = "It has no memory limit: the node is what stops it."
	case m.ChurnNow > m.Limit && m.ChurnAfter <= m.Limit:
		p.Verb = fmt.Sprintf("In churn it needs %s more than its limit; after the changes it stays %s below it.",
			mib(m.ChurnNow-m.Limit), mib(m.Limit-m.ChurnAfter))
	case m.ChurnNow > m.Limit:
		p.Verb = fmt.Sprintf("In churn it needs %s more than its limit, and the changes alone do not mend that: raise the limit too.",
			mib(m.ChurnNow-m.Limit))
	case m.ChurnAfter > m.Limit:
		p.Verb = fmt.Sprintf("After the changes it would need %s more than its limit: raise the limit first.", mib(m.ChurnAfter-m.Limit))
	default:
		p.Verb = fmt.Sprintf("Even in churn it stays %s below its limit.", mib(m.Limit-m.ChurnNow))
	}
	return p
}

// percent gives x as a share of whole in a form that SVG takes; whatever is
// not nothing stays wide enough to be seen.
func percent(x, whole float64) string {
	if x <= 0 || whole <= 0 {
		return "0%"
	}
	return fmt.Sprintf("%.2f%%", max(0.4, 100*x/whole))
}

// lead is the report in two sentences.
func lead(r *Report) string {
	s := r.Summary
	text := fmt.Sprintf("%s and %s were looked at. ", counted(s.Certificates, "Certificate", "Certificates"), counted(s.Secrets, "Secret", "Secrets"))
	switch u, k := s.unused(), s.unknown(); {
	case u == 0 && k == 0:
		text += "None of them is unused."
	case k == 0:
		text += counted(u, "is", "are") + " unused."
	case u == 0:
		text += "None is known to be unused; " + counted(k, "has", "have") + " to be looked at by a person."
	default:
		text += counted(u, "is", "are") + " unused, and " + counted(k, "has", "have") + " to be looked at by a person."
	}
	if g := s.GatewayCertificates; g.After < g.Now {
		text += fmt.Sprintf(" The proposed changes take the gateways from %s to %s", counted(g.Now, "certificate", "certificates"), thousands(g.After))
		if m := s.GatewayMemoryMiB; m != nil && m.ChurnAfter < m.ChurnNow {
			text += fmt.Sprintf(", and their memory in churn from %s to %s", mib(m.ChurnNow), mib(m.ChurnAfter))
		}
		text += "."
	}
	return text
}

package report

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/mattn/go-runewidth"
)

// narrowWidth is the width under which the reason stands above its rows
// instead of beside each, to leave room for the message.
const narrowWidth = 110

// rowsPerReason is how many findings of one reason the table shows.
const rowsPerReason = 10

// writeTable writes what a person wants to see first, cut to the terminal.
func writeTable(w io.Writer, r *Report, o Options) error {
	return (&terminal{w: w, o: o, limit: rowsPerReason}).report(r)
}

// writeWide writes everything, uncut: each finding with its evidence, each
// change with its steps.
func writeWide(w io.Writer, r *Report, o Options) error {
	o.Width = 0
	return (&terminal{w: w, o: o, wide: true}).report(r)
}

type terminal struct {
	w     io.Writer
	o     Options
	wide  bool
	limit int // rows of one kind, 0 for all
	err   error
}

// style is an ANSI "select graphic rendition" code (ECMA-48, section 8.3.117).
type style string

const (
	plain  style = ""
	bold   style = "1"
	dim    style = "2"
	red    style = "31"
	green  style = "32"
	yellow style = "33"
	cyan   style = "36"
)

// verdictStyles colours the verdicts; the word itself always stands there too.
var verdictStyles = map[string]style{"unused": yellow, "unknown": cyan, "used": green}

type cell struct {
	text  string
	style style
}

func (t *terminal) paint(c cell) string {
	if !t.o.Color || c.style == plain || c.text == "" {
		return c.text
	}
	return "\x1b[" + string(c.style) + "m" + c.text + "\x1b[0m"
}

// line writes cells side by side and keeps the first error.
func (t *terminal) line(cells ...cell) {
	if t.err != nil {
		return
	}
	var b strings.Builder
	for _, c := range cells {
		b.WriteString(t.paint(c))
	}
	_, t.err = fmt.Fprintln(t.w, b.String())
}

// prose writes text that may be cut but must not be lost, over several lines.
func (t *terminal) prose(s style, indent, text string) {
	width := t.o.Width
	if width == 0 {
		t.line(cell{indent + text, s})
		return
	}
	room := max(20, width-runewidth.StringWidth(indent))
	row := ""
	for _, word := range strings.Fields(text) {
		if row != "" && runewidth.StringWidth(row)+1+runewidth.StringWidth(word) > room {
			t.line(cell{indent + row, s})
			row = ""
		}
		if row != "" {
			row += " "
		}
		row += word
	}
	t.line(cell{indent + row, s})
}

const columnGap = 2

// columns writes rows under a header, with each column as wide as its widest
// cell. When the terminal is too narrow, the cells of the column `shrink` lose
// their middle and the last column its end.
func (t *terminal) columns(header []string, rows [][]cell, shrink int, before, after func(row int)) {
	last := len(header) - 1
	width := make([]int, len(header))
	for i, h := range header {
		width[i] = runewidth.StringWidth(h)
	}
	for _, row := range rows {
		for i, c := range row {
			width[i] = max(width[i], runewidth.StringWidth(c.text))
		}
	}
	if t.o.Width > 0 {
		room := t.o.Width
		for i := range last {
			room -= columnGap
			if i != shrink {
				room -= width[i]
			}
		}
		width[shrink] = max(12, min(width[shrink], max(room-width[last], room*55/100)))
		width[last] = max(12, min(width[last], room-width[shrink]))
	}
	write := func(row []cell) {
		for i := range row {
			if i == shrink {
				row[i].text = cutMiddle(row[i].text, width[i])
			} else if i == last {
				row[i].text = cutEnd(row[i].text, width[i])
			}
		}
		var cells []cell
		for i, c := range row {
			cells = append(cells, c)
			if i < last && strings.TrimSpace(joined(row[i+1:])) != "" {
				cells = append(cells, cell{text: strings.Repeat(" ", width[i]-runewidth.StringWidth(c.text)+columnGap)})
			}
		}
		t.line(cells...)
	}
	head := make([]cell, len(header))
	for i, h := range header {
		head[i] = cell{h, bold}
	}
	write(head)
	for i, row := range rows {
		if before != nil {
			before(i)
		}
		write(row)
		if after != nil {
			after(i)
		}
	}
}

func joined(cells []cell) string {
	var b strings.Builder
	for _, c := range cells {
		b.WriteString(c.text)
	}
	return b.String()
}

// more says how many rows were left out.
func (t *terminal) more(n int, indent string) {
	if n > 0 {
		t.line(cell{fmt.Sprintf("%s… and %s more (use -o wide or json)", indent, thousands(n)), dim})
	}
}

func (t *terminal) report(r *Report) error {
	t.totals(r)
	if t.wide {
		t.counts(r)
		t.loads(r)
	}
	t.findings(r)
	t.changes(r)
	t.held(r)
	t.gaps(r)
	return t.err
}

func (t *terminal) totals(r *Report) {
	s := r.Summary
	t.line(cell{"Certificate audit", bold}, cell{"  " + stamp(r.TakenAt), dim})
	t.line()
	label := func(name string, value ...cell) {
		t.line(append([]cell{{text: name + strings.Repeat(" ", 24-len(name))}}, value...)...)
	}
	label("Certificates", cell{text: thousands(s.Certificates)})
	label("Secrets", cell{text: thousands(s.Secrets)})
	label("Unused, unknown", cell{thousands(s.unused()), styleIf(s.unused() > 0, yellow)}, cell{text: ", "},
		cell{thousands(s.unknown()), styleIf(s.unknown() > 0, cyan)})
	gateway := counted(s.GatewayCertificates.Now, "certificate", "certificates")
	if s.GatewayCertificates.After != s.GatewayCertificates.Now {
		gateway += " → " + thousands(s.GatewayCertificates.After) + " after the changes below"
	}
	label("At the gateway", cell{text: gateway})
	if r.Loaded != nil {
		t.prose(plain, "", "Loaded by gateways: "+r.Loaded.inShort())
	}
	m := s.GatewayMemoryMiB
	if m == nil {
		label("Gateway memory", cell{text: "no gateway was recognised", style: dim})
		t.line()
		return
	}
	memory := func(name string, now, after float64) {
		cells := []cell{{mib(now), styleIf(m.Limit > 0 && now > m.Limit, red)}, {text: " → "},
			{mib(after), styleIf(m.Limit > 0 && after > m.Limit, red)}}
		switch {
		case m.Limit <= 0:
			cells = append(cells, cell{text: ", no limit"})
		case now > m.Limit && after > m.Limit:
			cells = append(cells, cell{text: ", limit " + mib(m.Limit) + ": "}, cell{"exceeded, before and after", red})
		case now > m.Limit:
			cells = append(cells, cell{text: ", limit " + mib(m.Limit) + ": "}, cell{"exceeded now", red})
		case after > m.Limit:
			cells = append(cells, cell{text: ", limit " + mib(m.Limit) + ": "}, cell{"exceeded after", red})
		default:
			cells = append(cells, cell{text: ", limit " + mib(m.Limit)})
		}
		label(name, cells...)
	}
	memory("Gateway memory at rest", m.Now, m.After)
	memory("             in churn", m.ChurnNow, m.ChurnAfter)
	for _, g := range r.Gateways {
		name := "Gateway"
		if len(r.Gateways) > 1 {
			name = in(g.Cluster, g.Object.Name)
		}
		t.prose(plain, "", visible(name+": "+capacity(g)))
	}
	t.line()
}

func styleIf(yes bool, s style) style {
	if yes {
		return s
	}
	return plain
}

// counts shows the namespaces and gateways.
func (t *terminal) counts(r *Report) {
	var rows [][]cell
	for _, n := range r.Namespaces {
		rows = append(rows, []cell{{text: visible(in(n.Cluster, n.Name))}, {text: thousands(n.Certificates)}, {text: thousands(n.Secrets)},
			{text: thousands(n.Unused)}, {text: thousands(n.Unknown)}, {text: nowAfter(n.GatewayCertificates)}})
	}
	if len(rows) > 0 {
		t.columns([]string{"NAMESPACE", "CERTIFICATES", "SECRETS", "UNUSED", "UNKNOWN", "AT THE GATEWAY"}, rows, 0, nil, nil)
		t.line()
	}
	rows = nil
	for _, g := range r.Gateways {
		m := g.MemoryMiB
		limit := "none"
		if m.Limit > 0 {
			limit = mib(m.Limit)
		}
		rows = append(rows, []cell{{text: visible(in(g.Cluster, g.Object.String()))}, {text: visible(g.configuredBy())}, {text: thousands(g.Hosts)},
			{text: nowAfter(g.Certificates)}, {text: mib(m.Now) + " → " + mib(m.After)},
			{text: mib(m.ChurnNow) + " → " + mib(m.ChurnAfter)}, {text: limit}, {text: fmt.Sprintf("%d s", g.DrainSeconds)}})
	}
	if len(rows) > 0 {
		t.columns([]string{"GATEWAY", "CONTROLLER", "HOSTS", "CERTIFICATES", "AT REST", "IN CHURN", "LIMIT", "DRAIN"}, rows, 0, nil, nil)
		t.line()
	}
}

// loads shows what gateways have loaded, Secret by Secret.
func (t *terminal) loads(r *Report) {
	if r.Loaded == nil {
		return
	}
	var rows [][]cell
	for _, l := range r.Loaded.Secrets {
		rows = append(rows, []cell{{text: visible(l.Object.String())}, {text: thousands(l.Copies)}, {text: l.Match}, {text: l.Serial}})
	}
	for _, x := range r.Loaded.Strays {
		rows = append(rows, []cell{{text: "no Secret"}, {text: thousands(x.Copies)}, {text: ""}, {text: visible(x.Serial + " " + strings.Join(x.Names, " "))}})
	}
	if len(rows) > 0 {
		t.columns([]string{"SECRET", "LOADED", "MATCH", "SERIAL NUMBER"}, rows, 0, nil, nil)
		t.line()
	}
}

func nowAfter(n NowAfter) string { return thousands(n.Now) + " → " + thousands(n.After) }

func (t *terminal) findings(r *Report) {
	all := nonEmpty(groups(r, t.o.Rules))
	if len(all) == 0 {
		t.prose(green, "", nothingFound(r))
		return
	}
	narrow := t.o.Width > 0 && t.o.Width < narrowWidth
	var header []string
	if !narrow {
		header = []string{"REASON"}
	}
	header = append(header, "VERDICT", "OBJECT", "MESSAGE")
	var rows [][]cell
	var shown []Finding
	first := map[int]group{} // the group that begins with a row
	left := map[int]int{}    // findings left out, by the row after which they would stand
	for _, g := range all {
		n := len(g.Findings)
		if t.limit > 0 {
			n = min(n, t.limit)
		}
		first[len(rows)] = g
		for _, f := range g.Findings[:n] {
			row := []cell{{visible(f.Verdict), verdictStyles[f.Verdict]}, {text: visible(f.where())}, {text: visible(f.Message)}}
			if !narrow {
				row = slices.Insert(row, 0, cell{text: visible(f.Reason)})
			}
			rows = append(rows, row)
			shown = append(shown, f)
		}
		left[len(rows)-1] = len(g.Findings) - n
	}
	t.columns(header, rows, len(header)-2, func(i int) {
		if g, ok := first[i]; ok && narrow {
			t.line(cell{cutEnd(visible(g.Rule.Reason), t.o.Width), bold})
		}
	}, func(i int) {
		if t.wide {
			if text := loadedText(shown[i].Loaded); text != "" {
				t.line(cell{fmt.Sprintf("    %-8s %s", "gateway", text), dim})
			}
			for _, e := range shown[i].Evidence {
				t.line(cell{strings.TrimRight(fmt.Sprintf("    %-8s %s %s", visible(e.How), visible(e.From.String()), visible(e.Field)), " "), dim})
			}
			for _, o := range shown[i].Related {
				t.line(cell{fmt.Sprintf("    %-8s %s", "related", visible(o.String())), dim})
			}
		}
		t.more(left[i], "")
	})
}

func (t *terminal) changes(r *Report) {
	if len(r.Changes) == 0 {
		return
	}
	t.line()
	t.line(cell{"Proposed changes", bold})
	// What holds all of them is said once.
	held := r.Changes[0].Held
	for _, c := range r.Changes {
		if c.Held != held {
			held = ""
		}
	}
	if held != "" {
		t.line(cell{"  all held: " + visible(held), dim})
	}
	n := len(r.Changes)
	if t.limit > 0 {
		n = min(n, t.limit)
	}
	for _, c := range r.Changes[:n] {
		text := in(c.Cluster, c.ID) + "  " + c.Reason + "  "
		switch {
		case c.Wildcard != "":
			text += c.Wildcard
		case len(c.Steps) > 0:
			text += c.Steps[0].Object.String()
		}
		text += "  " + stepCounts(c.Steps)
		if c.Held != held {
			text += "  held: " + c.Held
		}
		if t.wide && c.Message != "" {
			text += "  " + c.Message
		}
		text = "  " + visible(text)
		if t.o.Width > 0 {
			text = cutEnd(text, max(20, t.o.Width))
		}
		t.line(cell{text: text})
		if t.wide {
			for i, s := range c.Steps {
				step := fmt.Sprintf("    %2d. %-6s %s", i+1, visible(s.Action), visible(s.Object.String()))
				if s.To != nil {
					step += " → " + visible(s.To.String())
				}
				t.line(cell{step, dim})
			}
		}
	}
	t.more(len(r.Changes)-n, "  ")
}

// held says what waits for gateways.
func (t *terminal) held(r *Report) {
	if len(r.Held) == 0 {
		return
	}
	t.line()
	t.line(cell{"Waiting for the gateways' reload budget", bold})
	t.prose(dim, "  ", heldInShort(r.Held))
	n := len(r.Held)
	if t.limit > 0 {
		n = min(n, t.limit)
	}
	for _, h := range r.Held[:n] {
		text := "  " + visible(fmt.Sprintf("%s  %s  %s", stamp(h.Until), h.what(), h.Why))
		if t.o.Width > 0 {
			text = cutEnd(text, max(20, t.o.Width))
		}
		t.line(cell{text: text})
	}
	t.more(len(r.Held)-n, "  ")
}

// what is a held write in words.
func (h Held) what() string {
	text := h.Action + " " + h.Object.String()
	if h.Count > 1 {
		text += fmt.Sprintf(" and %s more", thousands(h.Count-1))
	}
	return text
}

// heldInShort says how much waits, which is in the order in which it goes.
func heldInShort(held []Held) string {
	first, last := stamp(held[0].Until), stamp(held[len(held)-1].Until)
	if first == last {
		return counted(len(held), "write", "writes") + " until " + first
	}
	return fmt.Sprintf("%s, the first until %s, the last until %s", counted(len(held), "write", "writes"), first, last)
}

func (t *terminal) gaps(r *Report) {
	if len(r.Gaps) == 0 {
		return
	}
	t.line()
	t.prose(red, "", "Not read in full, "+gapSentence+":")
	for _, g := range r.Gaps {
		t.prose(red, "  ", visible(in(g.Cluster, g.Kind))+": "+visible(g.Reason))
	}
}

// visible makes text safe for one line of a terminal: line breaks and tabs
// become spaces, and what could move the cursor, change colours or turn the
// direction of the text is shown by its code.
func visible(s string) string {
	var b strings.Builder
	for i, c := range s {
		switch {
		case c == '\n' || c == '\r' || c == '\t' || c == '\u2028' || c == '\u2029':
			b.WriteByte(' ')
		case c == utf8.RuneError && !utf8.ValidString(s[i:min(i+1, len(s))]) && !strings.HasPrefix(s[i:], "\uFFFD"):
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case unicode.IsControl(c), unicode.Is(unicode.Bidi_Control, c):
			fmt.Fprintf(&b, `\u%04x`, c)
		default:
			b.WriteRune(c)
		}
	}
	return b.String()
}

// cutEnd cuts s to n columns; what was cut off shows as an ellipsis.
func cutEnd(s string, n int) string {
	if runewidth.StringWidth(s) <= n {
		return s
	}
	return runewidth.Truncate(s, n, "…")
}

// cutMiddle cuts s to n columns out of its middle, because the kind at the
// start and the name at the end tell objects apart.
func cutMiddle(s string, n int) string {
	if runewidth.StringWidth(s) <= n {
		return s
	}
	head := runewidth.Truncate(s, n*2/5, "")
	tail := s
	for runewidth.StringWidth(tail) > n-1-runewidth.StringWidth(head) {
		_, size := utf8.DecodeRuneInString(tail)
		tail = tail[size:]
	}
	return head + "…" + tail
}

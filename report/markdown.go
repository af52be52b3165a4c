package report

import (
	"fmt"
	"html"
	"io"
	"strings"
)

// writeMarkdown writes GitHub Flavored Markdown for a pull request or a wiki:
// the totals, then a table for each reason that opens on demand.
func writeMarkdown(w io.Writer, r *Report, o Options) error {
	var b strings.Builder
	s := r.Summary
	fmt.Fprintf(&b, "## Certificate audit\n\nTaken at %s.\n\n", stamp(r.TakenAt))
	if len(r.Gaps) > 0 {
		b.WriteString("> [!WARNING]\n")
		for _, g := range r.Gaps {
			fmt.Fprintf(&b, "> - Not read in full: **%s** (%s), %s.\n", mdText(in(g.Cluster, g.Kind)), mdText(g.Reason), gapSentence)
		}
		b.WriteString("\n")
	}
	b.WriteString("| | Now | After the changes |\n|---|--:|--:|\n")
	fmt.Fprintf(&b, "| Certificates | %s | |\n", thousands(s.Certificates))
	fmt.Fprintf(&b, "| Secrets | %s | |\n", thousands(s.Secrets))
	fmt.Fprintf(&b, "| Unused | %s | |\n", thousands(s.unused()))
	fmt.Fprintf(&b, "| Unknown | %s | |\n", thousands(s.unknown()))
	fmt.Fprintf(&b, "| Certificates at the gateway | %s | %s |\n", thousands(s.GatewayCertificates.Now), thousands(s.GatewayCertificates.After))
	if m := s.GatewayMemoryMiB; m != nil {
		limit := "no limit"
		if m.Limit > 0 {
			limit = "limit " + mib(m.Limit)
		}
		mark := func(x float64) string {
			if m.Limit > 0 && x > m.Limit {
				return "**" + mib(x) + "**, over the limit"
			}
			return mib(x)
		}
		fmt.Fprintf(&b, "| Gateway memory at rest (%s) | %s | %s |\n", limit, mark(m.Now), mark(m.After))
		fmt.Fprintf(&b, "| Gateway memory in churn (%s) | %s | %s |\n", limit, mark(m.ChurnNow), mark(m.ChurnAfter))
	}
	if r.Loaded != nil {
		fmt.Fprintf(&b, "| Loaded by gateways | %s | |\n", mdText(r.Loaded.inShort()))
	}
	for i, g := range r.Gateways {
		if i == 0 {
			b.WriteString("\n")
		}
		fmt.Fprintf(&b, "- %s: %s\n", mdCode(in(g.Cluster, g.Object.String())), mdText(capacity(g)))
	}
	if l := r.Loaded; l != nil && len(l.Secrets)+len(l.Strays) > 0 {
		b.WriteString("\n<details>\n<summary>What gateways have loaded</summary>\n\n")
		for _, x := range l.Secrets {
			fmt.Fprintf(&b, "- %s: %s", mdCode(x.Object.String()), loadedText(&x.Copies))
			if x.Match != "" {
				fmt.Fprintf(&b, ", by %s", mdText(x.Match))
			}
			if x.Serial != "" {
				fmt.Fprintf(&b, ", serial number %s", mdCode(x.Serial))
			}
			b.WriteString("\n")
		}
		for _, x := range l.Strays {
			fmt.Fprintf(&b, "- no Secret: %s: %s, serial number %s\n", mdText(strings.Join(x.Names, ", ")), loadedText(&x.Copies), mdCode(x.Serial))
		}
		b.WriteString("\n</details>\n")
	}
	all := nonEmpty(groups(r, o.Rules))
	if len(all) == 0 {
		fmt.Fprintf(&b, "\n%s\n", nothingFound(r))
	}
	for _, g := range all {
		fmt.Fprintf(&b, "\n<details>\n<summary>%s: %s</summary>\n\n", html.EscapeString(visible(g.Rule.Reason)),
			counted(len(g.Findings), "finding", "findings"))
		if g.Rule.Short != "" {
			fmt.Fprintf(&b, "%s\n\n", mdText(g.Rule.Short))
		}
		b.WriteString("| Verdict | Object | What was found | Evidence |\n|---|---|---|---|\n")
		for _, f := range g.Findings {
			var evidence []string
			if text := loadedText(f.Loaded); text != "" {
				evidence = append(evidence, "gateway: "+text)
			}
			for _, e := range f.Evidence {
				evidence = append(evidence, mdText(e.How)+": "+mdCode(e.From.String())+" "+mdText(e.Field))
			}
			for _, o := range f.Related {
				evidence = append(evidence, "related: "+mdCode(o.String()))
			}
			fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", mdText(f.Verdict), mdCode(f.where()), mdText(f.Message),
				strings.Join(evidence, "<br>"))
		}
		b.WriteString("\n</details>\n")
	}
	if len(r.Changes) > 0 {
		fmt.Fprintf(&b, "\n<details>\n<summary>Proposed changes: %s</summary>\n\n", thousands(len(r.Changes)))
		b.WriteString("| Change | Reason | Wildcard | Steps | State | What it does |\n|---|---|---|---|---|---|\n")
		for _, c := range r.Changes {
			state := "proposed"
			if c.Held != "" {
				state = "held: " + mdText(c.Held)
			}
			fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s |\n", mdCode(in(c.Cluster, c.ID)), mdText(c.Reason), mdCode(c.Wildcard),
				mdText(stepCounts(c.Steps)), state, mdText(c.Message))
		}
		b.WriteString("\n</details>\n")
	}
	if len(r.Held) > 0 {
		fmt.Fprintf(&b, "\n<details>\n<summary>Waiting for the gateways' reload budget: %s</summary>\n\n", heldInShort(r.Held))
		b.WriteString("| Until | What | Why |\n|---|---|---|\n")
		for _, h := range r.Held {
			fmt.Fprintf(&b, "| %s | %s | %s |\n", stamp(h.Until), mdText(h.what()), mdText(h.Why))
		}
		b.WriteString("\n</details>\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// mdSpecial escapes every character that means something to Markdown, to its
// tables, or to HTML. CommonMark (section 2.4) takes a backslash before any
// ASCII punctuation as "this character". An empty comment behind @ and # keeps
// a code host from mentioning people and linking issues: the comment shows
// nothing and ends the word.
var mdSpecial = strings.NewReplacer(
	`\`, `\\`, "`", "\\`", `*`, `\*`, `_`, `\_`, `[`, `\[`, `]`, `\]`, `|`, `\|`, `~`, `\~`, `!`, `\!`, `$`, `\$`,
	`&`, `&amp;`, `<`, `&lt;`, `>`, `&gt;`, `@`, `@<!-- -->`, `#`, `#<!-- -->`,
)

// mdText makes s the plain text of one table cell.
func mdText(s string) string { return mdSpecial.Replace(strings.TrimSpace(visible(s))) }

// mdCode shows s as code. It is an HTML element, because a code span of
// Markdown's own cannot hold every string.
func mdCode(s string) string {
	if s == "" {
		return ""
	}
	return "<code>" + mdText(s) + "</code>"
}

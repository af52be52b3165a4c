package simulate

import (
	"bytes"
	"encoding/json"
	"fmt"
	"html/template"
	"io"
	"strings"
	"text/tabwriter"
	"time"
)

// WriteJSON writes a Result as JSON.
func WriteJSON(w io.Writer, r Result) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(r)
}

// row is one line of the comparison.
type row struct{ Name, Without, With string }

func (r Result) rows() []row {
	number := func(f func(Run) int) (string, string) { return fmt.Sprint(f(r.Without)), fmt.Sprint(f(r.With)) }
	var out []row
	add := func(name string, f func(Run) int) {
		a, b := number(f)
		out = append(out, row{name, a, b})
	}
	add("gateway reloads", func(x Run) int { return x.Reloads })
	add("updates of listeners that Envoy takes in", func(x Run) int { return x.Listeners })
	add("peak batch (certificates in one reload)", func(x Run) int { return x.PeakBatch })
	add("peak reloads within one drain time", func(x Run) int { return x.PeakDrain })
	add("orders", func(x Run) int { return x.Renewals })
	add("of them in batches", func(x Run) int { return x.Together })
	left := func(x Run) string {
		if x.Renewals == 0 {
			return "-"
		}
		return fmt.Sprintf("%s (%.0f %%)", span(time.Duration(x.SmallestRemaining*float64(time.Second))), 100*x.SmallestShare)
	}
	out = append(out, row{"smallest remaining lifetime", left(r.Without), left(r.With)})
	for i, a := range r.Without.Accounts {
		of := ""
		if a.Quota > 0 {
			of = fmt.Sprintf(" of %d", a.Quota)
		}
		with := "0"
		if i < len(r.With.Accounts) {
			with = fmt.Sprint(r.With.Accounts[i].Peak)
		}
		out = append(out, row{"most orders in 3 h, " + a.Name, fmt.Sprintf("%d%s", a.Peak, of), with + of})
	}
	return out
}

func span(d time.Duration) string {
	if d >= 48*time.Hour {
		return fmt.Sprintf("%.1f days", d.Hours()/24)
	}
	return d.Round(time.Second).String()
}

func (r Result) title() string {
	if r.Seconds > 0 {
		return fmt.Sprintf("%d certificates, %d of which the gateway loads, for %s from %s on", r.Certificates, r.Served, time.Duration(r.Seconds*float64(time.Second)), r.From.Format(time.RFC3339))
	}
	return fmt.Sprintf("%d certificates, %d of which the gateway loads, for %d days from %s on", r.Certificates, r.Served, r.Days, r.From.Format("2006-01-02"))
}

// WriteTable writes a Result for people.
func WriteTable(w io.Writer, r Result) error {
	if _, err := fmt.Fprintf(w, "%s:\n\n", r.title()); err != nil {
		return err
	}
	rows, widest := r.rows(), 0
	for _, x := range rows {
		widest = max(widest, len(x.Name))
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(t, "%-*s\twithout certherd\twith certherd\t\n", widest, "")
	for _, x := range rows {
		fmt.Fprintf(t, "%-*s\t%s\t%s\t\n", widest, x.Name, x.Without, x.With)
	}
	return t.Flush()
}

// The size of the plot, in the units of its viewBox.
const (
	plotWidth, plotHeight = 720, 200
	plotLeft, plotBottom  = 44, 22
)

// Plot is the reloads of each day as an inline SVG, the higher one without
// certherd.
func Plot(r Result) template.HTML {
	top := 1
	for _, run := range []Run{r.Without, r.With} {
		for _, n := range run.Daily {
			top = max(top, n)
		}
	}
	width, height := float64(plotWidth-plotLeft), float64(plotHeight-plotBottom-8)
	steps := func(daily []int) string {
		var b strings.Builder
		for i, n := range daily {
			y := 8 + height*(1-float64(n)/float64(top))
			x0, x1 := plotLeft+width*float64(i)/float64(len(daily)), plotLeft+width*float64(i+1)/float64(len(daily))
			command := "L"
			if i == 0 {
				command = "M"
			}
			fmt.Fprintf(&b, "%s%.1f %.1fL%.1f %.1f", command, x0, y, x1, y)
		}
		return b.String()
	}
	base := float64(plotHeight - plotBottom)
	var b strings.Builder
	fmt.Fprintf(&b, `<svg viewBox="0 0 %d %d" role="img" aria-label="Gateway reloads a day: at most %d, in all %d without certherd and %d with it">`, plotWidth, plotHeight, top, r.Without.Reloads, r.With.Reloads)
	fmt.Fprintf(&b, `<path d="M%d 8V%.0fH%d" fill="none" stroke="#888"/>`, plotLeft, base, plotWidth)
	fmt.Fprintf(&b, `<text x="%d" y="14" text-anchor="end" font-size="11" fill="currentColor">%d</text><text x="%d" y="%.0f" text-anchor="end" font-size="11" fill="currentColor">0</text>`, plotLeft-4, top, plotLeft-4, base)
	fmt.Fprintf(&b, `<text x="%d" y="%d" font-size="11" fill="currentColor">day 1</text><text x="%d" y="%d" text-anchor="end" font-size="11" fill="currentColor">day %d</text>`, plotLeft, plotHeight-6, plotWidth, plotHeight-6, r.Days)
	fmt.Fprintf(&b, `<path d="%s" fill="none" stroke="#c2410c" stroke-width="1.2"/><path d="%s" fill="none" stroke="#0e7490" stroke-width="1.8"/></svg>`, steps(r.Without.Daily), steps(r.With.Daily))
	return template.HTML(b.String()) //nolint:gosec // numbers only
}

var page = template.Must(template.New("page").Parse(`<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>certherd simulate</title>
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<style>:root{color-scheme:light dark}body{font:15px/1.5 system-ui,sans-serif;max-width:52rem;margin:2rem auto;padding:0 1rem}table{border-collapse:collapse;margin:1.5rem 0}
td,th{padding:.25rem .8rem;text-align:right;border-bottom:1px solid #8884}td:first-child,th:first-child{text-align:left}.a{color:#c2410c}.b{color:#0e7490}svg{width:100%;height:auto}</style></head>
<body><h1>Renewals, simulated</h1><p>{{.Title}}. Seed {{.Result.Seed}}.</p>
<table><tr><th></th><th>without certherd</th><th>with certherd</th></tr>
{{range .Rows}}<tr><td>{{.Name}}</td><td>{{.Without}}</td><td>{{.With}}</td></tr>
{{end}}</table><h2>Gateway reloads a day</h2><p><span class="a">▬ without certherd</span> <span class="b">▬ with certherd</span></p>
{{.Plot}}</body></html>
`))

// WriteHTML writes a Result as one page that needs nothing else.
func WriteHTML(w io.Writer, r Result) error {
	var b bytes.Buffer
	err := page.Execute(&b, struct {
		Title  string
		Result Result
		Rows   []row
		Plot   template.HTML
	}{r.title(), r, r.rows(), Plot(r)})
	if err != nil {
		return err
	}
	_, err = w.Write(b.Bytes())
	return err
}

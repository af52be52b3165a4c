// Package plot draws what was measured over time as SVG that needs nothing else.
package plot

import (
	"fmt"
	"html"
	"math"
	"strings"
	"time"
)

// A Point is a value at a time after the beginning.
type Point struct {
	At    time.Duration
	Value float64
}

// A Line is one row of measurements.
type Line struct {
	Name   string
	Points []Point
}

// Lines are drawn over one scale. A Limit above 0 is drawn across.
type Lines struct {
	Title string // with the unit
	Limit float64
	// Limited is what is written at the limit.
	Limited string
	Lines   []Line
}

const (
	width, left, right = 720, 48, 12
	style              = `<style>.t{font:12px system-ui,sans-serif;fill:#59636e}.h{font-weight:600;fill:#1f2328}.g{stroke:#d1d9e0;fill:none}.l0{stroke:#cf222e;color:#cf222e}.l1{stroke:#0969da;color:#0969da}.l2{stroke:#1a7f37;color:#1a7f37}.l3{stroke:#9a6700;color:#9a6700}.f{fill:currentColor;stroke:none}.w{fill:none;stroke-width:2;stroke-linejoin:round}.x{stroke:#cf222e;stroke-dasharray:5 4;fill:none}@media(prefers-color-scheme:dark){.t{fill:#9198a1}.h{fill:#f0f6fc}.g{stroke:#3d444d}.l0{stroke:#ff7b72;color:#ff7b72}.l1{stroke:#58a6ff;color:#58a6ff}.l2{stroke:#3fb950;color:#3fb950}.l3{stroke:#d29922;color:#d29922}.x{stroke:#ff7b72}}</style>`
)

func open(b *strings.Builder, height int, title string) {
	fmt.Fprintf(b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" role="img" aria-label="%s">%s<text class="t h" x="4" y="16">%s</text>`, width, height, html.EscapeString(title), style, html.EscapeString(title))
}

// nice is the smallest of 1, 2 and 5 times a power of ten that is not less.
func nice(v float64) float64 {
	if v <= 0 {
		return 1
	}
	p := math.Pow(10, math.Floor(math.Log10(v)))
	for _, f := range []float64{1, 2, 5} {
		if v <= f*p {
			return f * p
		}
	}
	return 10 * p
}

func axis(b *strings.Builder, longest time.Duration, y int) func(time.Duration) float64 {
	x := func(at time.Duration) float64 {
		return left + (width-left-right)*at.Seconds()/max(longest.Seconds(), 1)
	}
	step := time.Duration(nice(longest.Seconds()/8)) * time.Second
	for at := time.Duration(0); at <= longest; at += max(step, time.Second) {
		fmt.Fprintf(b, `<text class="t" text-anchor="middle" x="%.1f" y="%d">%.0f s</text>`, x(at), y, at.Seconds())
	}
	return x
}

// SVG is the drawing.
func (c Lines) SVG() string {
	const top, bottom = 44, 244
	var b strings.Builder
	open(&b, bottom+26, c.Title)
	highest, longest := c.Limit, time.Duration(0)
	for _, l := range c.Lines {
		for _, p := range l.Points {
			highest, longest = max(highest, p.Value), max(longest, p.At)
		}
	}
	step := nice(highest / 5)
	highest = step * math.Ceil(highest*1.02/step)
	y := func(v float64) float64 { return bottom - (bottom-top)*v/highest }
	for v := 0.0; v <= highest+step/2; v += step {
		fmt.Fprintf(&b, `<path class="g" d="M%d %.1fH%d"/><text class="t" text-anchor="end" x="%d" y="%.1f">%.0f</text>`, left, y(v), width-right, left-6, y(v)+4, v)
	}
	x := axis(&b, longest, bottom+18)
	if c.Limit > 0 {
		fmt.Fprintf(&b, `<path class="x" d="M%d %.1fH%d"/><text class="t" text-anchor="end" x="%d" y="%.1f">%s</text>`, left, y(c.Limit), width-right, width-right-4, y(c.Limit)-5, html.EscapeString(c.Limited))
	}
	at := 4.0
	for i, l := range c.Lines {
		fmt.Fprintf(&b, `<g class="l%d"><path class="w" d="`, i%4)
		command := "M"
		for _, p := range l.Points {
			fmt.Fprintf(&b, "%s%.1f %.1f", command, x(p.At), y(p.Value))
			command = "L"
		}
		fmt.Fprintf(&b, `"/><path class="w" d="M%.0f 30h16"/></g><text class="t" x="%.0f" y="34">%s</text>`, at, at+21, html.EscapeString(l.Name))
		at += 36 + 6.4*float64(len(l.Name))
	}
	b.WriteString("</svg>\n")
	return b.String()
}

// A Lane is what happened of one kind: how many at which times.
type Lane struct {
	Name   string
	Points []Point
}

// Lanes draws one lane below the other, with a disk for what happened within one of 90
// parts of the time.
func Lanes(title string, lanes []Lane) string {
	const row, top, parts = 34, 30, 90
	bottom := top + row*len(lanes)
	var b strings.Builder
	open(&b, bottom+24, title)
	longest := time.Second
	for _, l := range lanes {
		for _, p := range l.Points {
			longest = max(longest, p.At)
		}
	}
	x := axis(&b, longest, bottom+18)
	for i, l := range lanes {
		y := top + row*i + row*2/3
		total, of := 0.0, map[int]float64{}
		for _, p := range l.Points {
			of[int(float64(parts)*p.At.Seconds()/longest.Seconds())] += p.Value
			total += p.Value
		}
		fmt.Fprintf(&b, `<path class="g" d="M%d %dH%d"/><text class="t" x="4" y="%d">%s: %.0f</text><g class="l%d">`, left, y, width-right, y-10, html.EscapeString(l.Name), total, i%4)
		for part := range parts + 1 {
			if n := of[part]; n > 0 {
				at := time.Duration((float64(part) + 0.5) / parts * float64(longest))
				fmt.Fprintf(&b, `<circle class="f" fill-opacity=".8" cx="%.1f" cy="%d" r="%.1f"><title>%.0f</title></circle>`, min(x(at), width-right), y, min(2.5+1.2*math.Sqrt(n), 11), n)
			}
		}
		b.WriteString("</g>")
	}
	b.WriteString("</svg>\n")
	return b.String()
}

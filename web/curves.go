package web

import (
	"fmt"
	"strings"
	"sync"
	"time"
)

// Sample is how gateways were at one look.
type Sample struct {
	Time time.Time
	// Certificates are the Secrets that gateways load, MiB the memory of all gateways
	// (1024² bytes), Updates what certherd has given them since it was started.
	Certificates, MiB, Updates float64
}

// samplesKept is the most that Samples keeps: two days of a look every ten minutes.
const samplesKept = 300

// Samples are the newest ones, oldest first. The zero Samples has none.
type Samples struct {
	mu  sync.Mutex
	all []Sample
}

// Add adds one, and forgets the oldest of too many.
func (s *Samples) Add(x Sample) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all = append(s.all, x); len(s.all) > samplesKept {
		s.all = append([]Sample(nil), s.all[len(s.all)-samplesKept:]...)
	}
}

// All returns them.
func (s *Samples) All() []Sample {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Sample(nil), s.all...)
}

// curve is a picture of one number over time.
type curve struct {
	Title, Now string
	// Path is that of the line, and Area of what is below, in a box of curveWidth times
	// curveHeight.
	Path, Area string
	Low, High  string // what the lower and the upper edge are
	From, To   time.Time
	Words      string // what the picture says
}

const (
	curveWidth  = 320
	curveHeight = 72
)

// newCurve draws values as steps: each holds until the next look.
func newCurve(title string, samples []Sample, value func(Sample) float64, show func(float64) string) curve {
	first, last := samples[0], samples[len(samples)-1]
	c := curve{Title: title, Now: show(value(last)), From: first.Time, To: last.Time}
	high := 0.0
	for _, s := range samples {
		high = max(high, value(s))
	}
	c.Low, c.High = show(0), show(high)
	if high == 0 {
		high = 1
	}
	span := last.Time.Sub(first.Time).Seconds()
	var path strings.Builder
	for i, s := range samples {
		x := float64(curveWidth)
		if span > 0 {
			x = s.Time.Sub(first.Time).Seconds() / span * curveWidth
		}
		y := curveHeight - value(s)/high*(curveHeight-4)
		if i == 0 {
			fmt.Fprintf(&path, "M0 %.1fH%.1f", y, x)
		} else {
			fmt.Fprintf(&path, "H%.1fV%.1f", x, y)
		}
	}
	c.Path = path.String()
	c.Area = fmt.Sprintf("%sV%dH0Z", c.Path, curveHeight)
	c.Words = fmt.Sprintf("%s: %s at first, %s now, at most %s", title, show(value(first)), c.Now, c.High)
	return c
}

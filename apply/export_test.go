package apply

import "time"

// Points are all fault points, in order.
func Points() []string { return points }

// OnFault has f called at each fault point.
func (a *Applier) OnFault(f func(point string)) { a.faults = f }

// SetLimits makes a journal that is full sooner.
func (j *Journal) SetLimits(bytes, parts int) { j.bytes, j.parts = bytes, parts }

// Size is how many parts the journal has, and the bytes of the largest.
func (j *Journal) Size() (parts, largest int) {
	for _, p := range j.loaded {
		largest = max(largest, len(p.object.BinaryData[journalKey]))
	}
	return len(j.loaded), largest
}

// Pack and Unpack are the form of a part.
var (
	Pack   = pack
	Unpack = unpack
)

// NewRoundID names a round.
func NewRoundID(t time.Time) string { return roundID(t) }

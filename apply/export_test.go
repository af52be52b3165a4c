package apply

// Points are all fault points, in order.
func Points() []string { return points }

// OnFault has f called at each fault point.
func (a *Applier) OnFault(f func(point string)) { a.faults = f }

// Pack and Unpack are the form of a part.
var (
	Pack   = pack
	Unpack = unpack
)

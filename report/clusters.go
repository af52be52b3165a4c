package report

import (
	"maps"
	"slices"
)

// EveryKind is the Kind of the Gap of a cluster that could not be read at all.
const EveryKind = "*"

// Merge makes one report of those of several clusters, by name. All that is in it says in
// which cluster it is. failed says why a cluster could not be read: it becomes a Gap, so
// that it is never taken for one in which nothing was found. TakenAt is the earliest time.
// What gateways have loaded (Loaded) is left out.
func Merge(read map[string]Report, failed map[string]error) Report {
	out := Report{Summary: Summary{Verdicts: map[string]int{}, Findings: map[string]int{}}}
	for name, err := range failed {
		out.Clusters = append(out.Clusters, name)
		out.Gaps = append(out.Gaps, Gap{Cluster: name, Kind: EveryKind, Reason: err.Error()})
	}
	for _, name := range slices.Sorted(maps.Keys(read)) {
		r := read[name]
		out.Clusters = append(out.Clusters, name)
		if out.TakenAt.IsZero() || r.TakenAt.Before(out.TakenAt) {
			out.TakenAt = r.TakenAt
		}
		s := &out.Summary
		s.Certificates += r.Summary.Certificates
		s.Secrets += r.Summary.Secrets
		s.GatewayCertificates.Now += r.Summary.GatewayCertificates.Now
		s.GatewayCertificates.After += r.Summary.GatewayCertificates.After
		if m := r.Summary.GatewayMemoryMiB; m != nil {
			if all := s.GatewayMemoryMiB; all == nil {
				first := *m
				s.GatewayMemoryMiB = &first
			} else {
				all.Now, all.After = all.Now+m.Now, all.After+m.After
				all.ChurnNow, all.ChurnAfter = all.ChurnNow+m.ChurnNow, all.ChurnAfter+m.ChurnAfter
				if all.Limit == 0 || m.Limit == 0 {
					all.Limit = 0 // with one that has none, a sum would be no limit of anything
				} else {
					all.Limit += m.Limit
				}
			}
		}
		for v, n := range r.Summary.Verdicts {
			s.Verdicts[v] += n
		}
		for reason, n := range r.Summary.Findings {
			s.Findings[reason] += n
		}
		for _, x := range r.Namespaces {
			x.Cluster = name
			out.Namespaces = append(out.Namespaces, x)
		}
		for _, x := range r.Gateways {
			x.Cluster = name
			out.Gateways = append(out.Gateways, x)
		}
		for _, x := range r.Findings {
			x.Cluster = name
			out.Findings = append(out.Findings, x)
		}
		for _, x := range r.Changes {
			x.Cluster = name
			out.Changes = append(out.Changes, x)
		}
		for _, x := range r.Gaps {
			x.Cluster = name
			out.Gaps = append(out.Gaps, x)
		}
	}
	slices.Sort(out.Clusters)
	return out
}

// in is a text about something in a cluster; the name is empty in a report on one.
func in(cluster, text string) string {
	if cluster == "" {
		return text
	}
	return cluster + ": " + text
}

// where is the object of a finding.
func (f Finding) where() string { return in(f.Cluster, f.Object.String()) }

// Place is the namespace of a finding, with its cluster in a report on several.
func (f Finding) Place() string {
	if f.Cluster == "" {
		return f.Object.Namespace
	}
	return f.Cluster + "/" + f.Object.Namespace
}

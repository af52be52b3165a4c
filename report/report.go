// Package report shows one round: what was found, why, and what would be done
// about it, in the formats that people and their tools read.
package report

import (
	"strings"
	"time"

	"github.com/certherd/certherd/inventory"
)

// APIVersion and Kind name the schema of the JSON and YAML formats. The
// schema itself is docs/report.schema.json.
const (
	APIVersion = "certherd.dev/v1alpha1"
	Kind       = "Report"
)

// Report is everything that one round has to say. It holds no time but
// TakenAt and no key material, and the same snapshot and options give the same
// Report.
type Report struct {
	APIVersion string    `json:"apiVersion"`
	Kind       string    `json:"kind"`
	TakenAt    time.Time `json:"takenAt"`
	// Clusters are those of a report on several (see Merge), sorted; nil otherwise.
	Clusters   []string    `json:"clusters,omitempty"`
	Summary    Summary     `json:"summary"`
	Namespaces []Namespace `json:"namespaces"`
	Gateways   []Gateway   `json:"gateways"`
	// Loaded is what gateways have loaded, nil where they were not asked.
	Loaded *Loaded `json:"loaded,omitempty"`
	// Reloads are those that renewals cause, nil where nobody has simulated them.
	Reloads *Reloads `json:"reloads,omitempty"`
	// Held is what waits for gateways' budgets: deletions, switches and renewals, in
	// the order in which they go.
	Held     []Held    `json:"held,omitempty"`
	Findings []Finding `json:"findings"`
	Changes  []Change  `json:"changes"`
	Gaps     []Gap     `json:"gaps"`
}

// Summary counts the whole report.
type Summary struct {
	// Certificates counts cert-manager Certificates, Secrets the Secrets that
	// hold or held a certificate.
	Certificates int `json:"certificates"`
	Secrets      int `json:"secrets"`
	// GatewayCertificates counts the distinct Secrets that ingress gateways
	// load.
	GatewayCertificates NowAfter `json:"gatewayCertificates"`
	// GatewayMemoryMiB adds up Gateways; nil when no gateway was recognised.
	GatewayMemoryMiB *Memory `json:"gatewayMemoryMiB"`
	// Verdicts counts the Secrets and Certificates by verdict.
	Verdicts map[string]int `json:"verdicts"`
	// Findings counts Report.Findings by reason.
	Findings map[string]int `json:"findings"`
}

// NowAfter compares a number with the same number after all proposed changes.
type NowAfter struct {
	Now   int `json:"now"`
	After int `json:"after"`
}

// Memory is a gateway's predicted memory in MiB (1024² bytes): at rest, and at
// the peak of the churn that the model assumes. Limit is the container's memory
// limit, 0 when it has none.
type Memory struct {
	Now        float64 `json:"now"`
	After      float64 `json:"after"`
	ChurnNow   float64 `json:"churnNow"`
	ChurnAfter float64 `json:"churnAfter"`
	Limit      float64 `json:"limit"`
}

// Namespace counts one namespace's certificates.
type Namespace struct {
	Cluster             string   `json:"cluster,omitempty"` // in a report on several
	Name                string   `json:"name"`
	Certificates        int      `json:"certificates"`
	Secrets             int      `json:"secrets"`
	Unused              int      `json:"unused"`
	Unknown             int      `json:"unknown"`
	GatewayCertificates NowAfter `json:"gatewayCertificates"`
}

// Gateway is one Envoy deployment that loads certificates.
type Gateway struct {
	Cluster      string   `json:"cluster,omitempty"` // in a report on several
	Object       Ref      `json:"object"`
	Controller   string   `json:"controller"` // for example "kourier"
	Hosts        int      `json:"hosts"`
	Certificates NowAfter `json:"certificates"`
	MemoryMiB    Memory   `json:"memoryMiB"`
	DrainSeconds int      `json:"drainSeconds"`
	// Relay runs certherd-relay, where the gateway gets its configuration through
	// that: certificates are loaded once, and churn replaces no listener.
	Relay *Ref `json:"relay,omitempty"`
	// Basis says what MemoryMiB is predicted by: BasisModel or BasisMeasured. BasisNote
	// says it in words.
	Basis     string `json:"basis"`
	BasisNote string `json:"basisNote"`
	// Measured is what its Envoys say, nil if none could be asked.
	Measured *Measured `json:"measured,omitempty"`
	// Holds is how many services with a certificate each its limit holds, nil without a
	// limit. NeedsLimitMiB is the limit that it needs as it is.
	Holds         *Holds `json:"holds,omitempty"`
	NeedsLimitMiB int    `json:"needsLimitMiB"`
}

// configuredBy is who configures the gateway.
func (g Gateway) configuredBy() string {
	if g.Relay != nil {
		return g.Controller + ", relayed"
	}
	return g.Controller
}

// The values of Gateway.Basis.
const (
	BasisModel    = "model"    // by constants that are the same for all gateways
	BasisMeasured = "measured" // by constants that this gateway's memory was used for
)

// Measured is what the Envoys of one gateway say: the one that has, or holds, most.
type Measured struct {
	Envoys int `json:"envoys"` // how many were read
	// AtRest: AllocatedMiB is of one whose listeners neither warmed up nor drained.
	AtRest       bool    `json:"atRest"`
	AllocatedMiB float64 `json:"allocatedMiB"`
	// ResidentMiB is what it holds of the machine, with what it does not use any more.
	ResidentMiB float64 `json:"residentMiB"`
	// Certificates that it has loaded, 0 where it was not asked.
	Certificates int `json:"certificates"`
}

// Holds is how many certificates fit.
type Holds struct {
	AtRest  int `json:"atRest"`
	InChurn int `json:"inChurn"`
}

// Loaded is what gateways have loaded, by their own word.
type Loaded struct {
	Certificates int `json:"certificates"` // different ones
	Copies       int `json:"copies"`
	// Secrets are all that hold a certificate, loaded or not.
	Secrets []LoadedSecret `json:"secrets"`
	// Strays are loaded, and of no Secret that is known.
	Strays []Stray `json:"strays"`
}

// LoadedSecret says how often the certificate of a Secret is loaded.
type LoadedSecret struct {
	Object Ref `json:"object"`
	Copies int `json:"copies"`
	// Match is "serial" where it is the Secret's newest certificate without doubt,
	// "names" where it is one for the same names, empty where there is none.
	Match string `json:"match"`
	// Serial is the number of the Secret's newest certificate, empty where nothing
	// tells it.
	Serial string `json:"serial"`
}

// Stray is a loaded certificate of which nobody knows where it comes from.
type Stray struct {
	Serial   string    `json:"serial"`
	Names    []string  `json:"names"`
	NotAfter time.Time `json:"notAfter"`
	Copies   int       `json:"copies"`
}

// Ref names an API object. Group is empty for the core group, Namespace for
// cluster-scoped objects.
type Ref struct {
	Group     string `json:"group"`
	Kind      string `json:"kind"`
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
}

// String is Kind/namespace/name, or Kind/name for a cluster-scoped object: the
// form that `certherd explain` takes. Knative's own Ingress and Certificate are
// KIngress and KCertificate (see inventory.Ref).
func (r Ref) String() string { return inventory.Ref(r).String() }

// KindName is the kind as String has it.
func (r Ref) KindName() string {
	name, _, _ := strings.Cut(r.String(), "/")
	return name
}

// Finding is one thing that a check found.
type Finding struct {
	Reason string `json:"reason"`
	// Cluster is where all objects of the finding are, in a report on several.
	Cluster string `json:"cluster,omitempty"`
	Object  Ref    `json:"object"`
	// Verdict is used, unused or unknown for objects that have one, and empty
	// for the others, such as a gateway.
	Verdict  string     `json:"verdict"`
	Message  string     `json:"message"`
	Evidence []Evidence `json:"evidence"`
	Related  []Ref      `json:"related"`
	// Loaded is how often gateways have the object's certificate loaded, nil where
	// they were not asked, or it has none.
	Loaded *int `json:"loaded,omitempty"`
}

// Evidence is one reason for a verdict: From names the object in Field.
type Evidence struct {
	From  Ref    `json:"from"`
	Field string `json:"field"`
	How   string `json:"how"` // field, mention, label or owner
}

// Reloads is how often renewals give a gateway something new in the time that comes, as
// package simulate predicts it.
type Reloads struct {
	Days         int `json:"days"`
	Certificates int `json:"certificates"` // that gateways load
	// Together is how many changes that come together one reload takes in, with a relay.
	Together int `json:"together"`
	// Weeks are the reloads of each week, Total all of them: now is as cert-manager
	// renews by itself, after with certherd's batches and relay.
	Total NowAfter   `json:"total"`
	Weeks []NowAfter `json:"weeks"`
}

// Held is a write that waits for a gateway's budget.
type Held struct {
	Action string `json:"action"` // for example "delete" or "renew"
	Object Ref    `json:"object"`
	// Count is how many changes of a gateway's configuration it is: a batch of
	// renewals, of which Object is the first, and a switch are many.
	Count int `json:"count"`
	// Until is when it goes if nothing else comes up, and Why what holds it.
	Until time.Time `json:"until"`
	Why   string    `json:"why"`
}

// Change is an ordered list of steps that would mend one or more findings.
type Change struct {
	ID       string `json:"id"`
	Cluster  string `json:"cluster,omitempty"` // in a report on several
	Reason   string `json:"reason"`
	Wildcard string `json:"wildcard"` // the wildcard DNS name, for a consolidation
	Message  string `json:"message"`  // what it saves and what it puts at risk
	Steps    []Step `json:"steps"`
	Held     string `json:"held"` // why it is not carried out; empty when it is
	// HeldUntil is when a gateway's budget lets it go, if that is what holds it.
	HeldUntil *time.Time `json:"heldUntil,omitempty"`
	// WaitsFor says for whom the change waits, and Digest what an approval of it in
	// this state has to name (see gate.Held). WaitsFor is "approval", or "share" when
	// a person has to look at the whole plan; both are empty unless it waits.
	WaitsFor string `json:"waitsFor,omitempty"`
	Digest   string `json:"digest,omitempty"`
}

// Step is one write.
type Step struct {
	Action string `json:"action"` // issue, await, switch, retire or delete
	Object Ref    `json:"object"`
	To     *Ref   `json:"to,omitempty"`
}

// Gap is a kind of object that could not be read in full, so that nothing it
// could refer to can be called unused.
type Gap struct {
	Cluster string `json:"cluster,omitempty"` // in a report on several
	Kind    string `json:"kind"`              // * for all, where the cluster could not be read
	Reason  string `json:"reason"`
}

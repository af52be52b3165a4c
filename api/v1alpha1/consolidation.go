// Package v1alpha1 is certherd's API: the custom resource Consolidation of
// certherd.dev/v1alpha1. Its types are plain JSON; use them with the dynamic
// client through FromUnstructured and ToUnstructured.
package v1alpha1

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// What the API server calls it.
const (
	Group    = "certherd.dev"
	Version  = "v1alpha1"
	Kind     = "Consolidation"
	Resource = "consolidations"
)

// GroupVersionResource is what a dynamic client is asked for.
var GroupVersionResource = schema.GroupVersionResource{Group: Group, Version: Version, Resource: Resource}

// The field managers of server-side apply. Each applies the whole of what is its
// own, and nothing else.
const (
	// ProposalManager owns the Proposal in spec, and in status everything but
	// Execution while Phase.Executing is false.
	ProposalManager = "certherd-proposal"
	// ExecutionManager owns status.execution, and the phase and the conditions
	// while Phase.Executing is true.
	ExecutionManager = "certherd-execution"
	// DecisionManager is that of `certherd approve`, `reject` and `undo`: it owns
	// spec.approvedDigest, spec.rejected and spec.undo. A person's own tool may
	// set these, too.
	DecisionManager = "certherd-decision"
)

// Consolidation proposes that one wildcard certificate replace several
// certificates of one namespace, and holds the state of carrying that out. It is
// namespaced: it lives in the namespace of the certificates, and its name is
// that of the wildcard's certificate object and Secret where those are made for
// it. It owns nothing: deleting it deletes no certificate.
type Consolidation struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   ConsolidationSpec   `json:"spec"`
	Status ConsolidationStatus `json:"status,omitempty"`
}

// ConsolidationSpec is the proposal, which certherd writes, and what a person
// decides about it.
type ConsolidationSpec struct {
	Proposal `json:",inline"`

	// ApprovedDigest is a person's consent: the status.digest of what was looked
	// at. It holds for a Proposal with that Digest and for no other one.
	ApprovedDigest string `json:"approvedDigest,omitempty"`
	// Rejected keeps it from being carried out, and from being proposed again,
	// whatever changes, until it is taken back.
	Rejected bool `json:"rejected,omitempty"`
	// Undo asks for the state before, from whatever state it is in.
	Undo bool `json:"undo,omitempty"`
}

// Proposal is what would be done. Lists are sorted; equal Proposals have equal
// Digests.
type Proposal struct {
	// Revision counts attempts: what was carried out, or rolled back, is
	// proposed anew under the next one only, so that one approval is good for one
	// attempt. It begins with 1.
	Revision int64 `json:"revision"`
	// Wildcards are the DNS names of the certificate, such as *.ns.example.com; where
	// it takes the place of duplicates, just theirs.
	Wildcards []string `json:"wildcards"`
	// IssuerRef is the issuer, as cert-manager resolves it: no field is empty.
	IssuerRef IssuerRef `json:"issuerRef"`
	// Source is the object that makes the certificate.
	Source Source `json:"source"`
	// SecretName is the Secret that the certificate is or will be in.
	SecretName string `json:"secretName"`
	// Hosts are all hosts that will be served with it.
	Hosts []string `json:"hosts"`
	// Members are the certificates that it replaces.
	Members []Member `json:"members"`
	// Manual says why a person has to make the switch (a GitOps tool would undo
	// ours): certherd then waits until every consumer names SecretName, and goes
	// on by itself. Empty where certherd makes it.
	Manual string `json:"manual,omitempty"`
}

// IssuerRef is cert-manager's issuerRef with its defaults.
type IssuerRef struct {
	Group string `json:"group"`
	Kind  string `json:"kind"`
	Name  string `json:"name"`
}

// Source is the object that makes a wildcard.
type Source struct {
	// Kind is Certificate (of cert-manager.io) or KCertificate (Certificate of
	// networking.internal.knative.dev).
	Kind SourceKind `json:"kind"`
	// Name of the object, in the namespace of the Consolidation.
	Name string `json:"name"`
	// UID is that of an object that is there already and is reused; empty for one
	// that is to be made.
	UID string `json:"uid,omitempty"`
	// Template is the Certificate whose spec the new one takes all but names,
	// secretName and what belongs to one Secret alone from: key, usages, duration,
	// issuer. It is a member's. Empty for a KCertificate and where UID is set.
	Template string `json:"template,omitempty"`
	// WildcardDomain is the value of the label
	// networking.knative.dev/wildcardDomain by which Routes find a KCertificate;
	// it is not to be set before the certificate is Ready and verified. Empty for
	// a Certificate.
	WildcardDomain string `json:"wildcardDomain,omitempty"`
}

// SourceKind is the kind of a Source or a Member.
type SourceKind string

// The kinds.
const (
	SourceCertificate  SourceKind = "Certificate"
	SourceKCertificate SourceKind = "KCertificate"
)

// Member is a certificate that the wildcard replaces.
type Member struct {
	// Kind and Name of what is deleted at the end, and its UID: another object of
	// that name is another certificate. For an ingress-shim's Certificate it is
	// the shim that lets go of it.
	Kind SourceKind `json:"kind"`
	Name string     `json:"name"`
	UID  string     `json:"uid"`
	// SecretName is its Secret, which is retired, and kept for the grace period;
	// SecretUID is empty where the Secret is not cert-manager's, which is left
	// alone.
	SecretName string `json:"secretName"`
	SecretUID  string `json:"secretUID,omitempty"`
	// Hosts are its names.
	Hosts []string `json:"hosts"`
	// Consumers are the objects that name its Secret and are to name the
	// wildcard's.
	Consumers []Consumer `json:"consumers"`
	// ManagedBy is the tool that would undo its deletion: it and its Secret are
	// then left to a person. Empty if none.
	ManagedBy string `json:"managedBy,omitempty"`
}

// Consumer is an object that makes a gateway serve a Secret.
type Consumer struct {
	// Kind is KIngress (Ingress of networking.internal.knative.dev), Ingress,
	// Gateway, ListenerSet or DomainMapping.
	Kind ConsumerKind `json:"kind"`
	Name string       `json:"name"`
	UID  string       `json:"uid"`
	// Hosts are those that it serves with the member's Secret.
	Hosts []string `json:"hosts,omitempty"`
	// ManagedBy is the tool that would undo a change of it, for example Argo CD;
	// empty if none.
	ManagedBy string `json:"managedBy,omitempty"`
}

// ConsumerKind is the kind of a Consumer.
type ConsumerKind string

// The kinds of consumers.
const (
	ConsumerKIngress      ConsumerKind = "KIngress"
	ConsumerIngress       ConsumerKind = "Ingress"
	ConsumerGateway       ConsumerKind = "Gateway"
	ConsumerListenerSet   ConsumerKind = "ListenerSet"
	ConsumerDomainMapping ConsumerKind = "DomainMapping"
)

// Digest is equal for equal Proposals, whatever objects' resourceVersions are:
// renewals and status updates do not change what would be done.
func (p Proposal) Digest() string {
	b, err := json.Marshal(p)
	if err != nil {
		panic(err) // strings and numbers always marshal
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// Approved reports whether what the spec proposes now is what a person has
// approved, and nobody has rejected it. It compares with the Proposal itself,
// so that an edit of the spec is never approved.
func (s ConsolidationSpec) Approved() bool {
	return s.ApprovedDigest != "" && s.ApprovedDigest == s.Digest() && !s.Rejected && !s.Undo
}

// Phase is where a Consolidation is.
type Phase string

// The phases. Those of a proposal are package proposal's to set, those of
// carrying out (Executing) the executor's.
const (
	// Proposed: it waits for approvedDigest.
	Proposed Phase = "Proposed"
	// Waiting: something that passes is in the way, such as a quota; see
	// waitUntil and blockers.
	Waiting Phase = "Waiting"
	// Held: something that a person has to settle is in the way; see blockers.
	Held Phase = "Held"
	// Approved: it is carried out when gate and windows allow.
	Approved Phase = "Approved"
	// Rejected: a person said no.
	Rejected Phase = "Rejected"
	// Withdrawn: it is not proposed any more.
	Withdrawn Phase = "Withdrawn"

	// Issuing: the wildcard is being issued; nothing uses it yet.
	Issuing Phase = "Issuing"
	// Verifying: it is Ready; chain, names and issuer are being looked at.
	Verifying Phase = "Verifying"
	// Switching: consumers are being moved. The old certificates are all there.
	Switching Phase = "Switching"
	// Soaking: every consumer uses it; nothing old is taken away yet.
	Soaking Phase = "Soaking"
	// Sweeping: the old certificates are being deleted, their Secrets retired.
	Sweeping Phase = "Sweeping"
	// RollingBack: the state before is being restored.
	RollingBack Phase = "RollingBack"

	// Done: the old certificates are gone.
	Done Phase = "Done"
	// RolledBack: it is as it was before. It is not tried again before a person
	// takes approvedDigest and undo back, and gets proposed as the next Revision.
	RolledBack Phase = "RolledBack"
)

// Executing reports whether the executor has begun and not ended.
func (p Phase) Executing() bool {
	switch p {
	case Issuing, Verifying, Switching, Soaking, Sweeping, RollingBack:
		return true
	}
	return false
}

// Ended reports whether an attempt is over.
func (p Phase) Ended() bool { return p == Done || p == RolledBack }

// The types of conditions. An executor sets those of carrying out; True means
// that the step is done.
const (
	ConditionApproved = "Approved" // False, reason ChangedSince: what was approved is another proposal
	ConditionClear    = "Clear"    // False: blockers says what stops it
	ConditionIssued   = "Issued"
	ConditionVerified = "Verified"
	ConditionSwitched = "Switched"
	ConditionSoaked   = "Soaked"
	ConditionSwept    = "Swept"
)

// ConsolidationStatus is what certherd says of a proposal, and how far it has
// come.
type ConsolidationStatus struct {
	// ObservedGeneration is the metadata.generation that this is about.
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// Digest is that of the Proposal in spec; an approval names it.
	Digest string `json:"digest,omitempty"`
	Phase  Phase  `json:"phase,omitempty"`
	// Message says in one sentence what happens next, or what it waits for.
	Message string `json:"message,omitempty"`
	// WaitUntil is when what it waits for will have passed.
	WaitUntil *metav1.Time `json:"waitUntil,omitempty"`
	// Blockers are all that stop it, each with what to do about it.
	Blockers []string `json:"blockers,omitempty"`
	Savings  *Savings `json:"savings,omitempty"`
	Risks    *Risks   `json:"risks,omitempty"`

	Conditions []metav1.Condition `json:"conditions,omitempty"`
	// Execution is the state of carrying out. It stays when that is over, until
	// the next attempt begins.
	Execution *Execution `json:"execution,omitempty"`
}

// Savings are what is less afterwards.
type Savings struct {
	// Certificates that gateways load, now and afterwards, among the members.
	CertificatesNow   int64 `json:"certificatesNow"`
	CertificatesAfter int64 `json:"certificatesAfter"`
	// MemoryMiB is how much less memory the gateways need, at rest and with one
	// event a second (docs/cost.md), as a number such as "12.5"; empty for
	// gateways that are not known.
	MemoryMiB      string `json:"memoryMiB,omitempty"`
	MemoryChurnMiB string `json:"memoryChurnMiB,omitempty"`
	// OrdersPerYear is how many fewer certificates are issued in a year, by the
	// lifetime in days.
	OrdersPerYear OrdersPerYear `json:"ordersPerYear"`
}

// OrdersPerYear are orders by the certificates' lifetime in days, renewed at
// two thirds of it.
type OrdersPerYear struct {
	Days90 int64 `json:"days90"`
	Days64 int64 `json:"days64"`
	Days45 int64 `json:"days45"`
}

// Risks are what is at stake.
type Risks struct {
	// HostsOnKey is the number of hosts that are lost with one key.
	HostsOnKey int64 `json:"hostsOnKey"`
	// ConnectionsDrained says which connections the gateway ends at the switch,
	// and after which time.
	ConnectionsDrained string `json:"connectionsDrained,omitempty"`
	// DrainHazard says what the ingress controller does to connections later on;
	// empty where nothing is known.
	DrainHazard string `json:"drainHazard,omitempty"`
	// Notes are what could not be looked at.
	Notes []string `json:"notes,omitempty"`
}

// Execution is the state of one attempt. It holds all that the next leader
// needs: killed at any instruction, it goes on from here.
type Execution struct {
	// Digest is that of the Proposal which is carried out. While Phase.Executing,
	// the CRD keeps the Proposal from being changed.
	Digest string `json:"digest"`
	// Started is when it began, PhaseSince when the present phase did.
	Started    metav1.Time  `json:"started"`
	PhaseSince *metav1.Time `json:"phaseSince,omitempty"`
	// Deadline is when the present phase is given up.
	Deadline *metav1.Time `json:"deadline,omitempty"`
	// SourceUID is that of the object that makes the wildcard; Created is true
	// when it was made for this, and so may be deleted by a roll-back.
	SourceUID string `json:"sourceUID,omitempty"`
	Created   bool   `json:"created,omitempty"`
	// NotBefore is the earliest time of the next write that gateways see.
	NotBefore *metav1.Time `json:"notBefore,omitempty"`
	// Failure says why it was rolled back, or is being.
	Failure string `json:"failure,omitempty"`
	// Members are in the order of spec.members.
	Members []MemberState `json:"members,omitempty"`
}

// MemberState is how far one member has come.
type MemberState struct {
	// Name is that of the member.
	Name  string          `json:"name"`
	State MemberStateName `json:"state"`
	// Before is what a roll-back needs of the state before and cannot see any more.
	Before string `json:"before,omitempty"`
	// Message says what stops it.
	Message string `json:"message,omitempty"`
}

// MemberStateName is a state of a member.
type MemberStateName string

// The states of a member.
const (
	MemberPending  MemberStateName = "Pending"
	MemberSwitched MemberStateName = "Switched" // its consumers name the wildcard
	MemberProbed   MemberStateName = "Probed"   // gateways serve it for every host
	MemberSwept    MemberStateName = "Swept"    // its certificate is deleted, its Secret retired
	MemberRestored MemberStateName = "Restored" // by a roll-back
)

// FromUnstructured reads what a dynamic client got.
func FromUnstructured(u *unstructured.Unstructured) (*Consolidation, error) {
	var c Consolidation
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, &c); err != nil {
		return nil, err
	}
	return &c, nil
}

// ToUnstructured is what a dynamic client takes. Its spec and status hold what is
// not empty; take out what is another field manager's before applying it.
func (c *Consolidation) ToUnstructured() (*unstructured.Unstructured, error) {
	x := *c
	x.TypeMeta = metav1.TypeMeta{APIVersion: Group + "/" + Version, Kind: Kind}
	o, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&x)
	if err != nil {
		return nil, err
	}
	unstructured.RemoveNestedField(o, "metadata", "creationTimestamp")
	return &unstructured.Unstructured{Object: o}, nil
}

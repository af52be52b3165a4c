package service

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base32"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/util/retry"

	"github.com/certherd/certherd/gate"
	"github.com/certherd/certherd/gateway"
	"github.com/certherd/certherd/web"
)

// ApprovalsName is the ConfigMap that Consent is kept in. Who may update it may
// approve.
const ApprovalsName = web.ApprovalsName

// The keys of that ConfigMap. What names objects is compressed and in base32, as
// in the journal, so that it is no mention of them.
const (
	keySerial  = "serial"
	keyState   = "state" // for people: open or stopped
	keyConsent = "consent.json.gz.base32"
)

// consentBytes is the most that the compressed Consent may have.
const consentBytes = 900 << 10

// Consent is what persons have said to what certherd would do, and what certherd
// waits for their word about.
type Consent struct {
	// Serial is raised by each word of a person.
	Serial int64 `json:"serial"`
	// Approvals are those that were given, also such that hold no more.
	Approvals []Approval `json:"approvals,omitempty"`
	// Words are what persons, and the circuit breaker, have said and the journal
	// does not have yet.
	Words []Word `json:"words,omitempty"`
	// Stopped is why nothing is carried out until a person says so, nil when it is.
	Stopped *Stop `json:"stopped,omitempty"`
	// Watched is how gateways were before what is being carried out began; nil when
	// nothing is, or it has ended well.
	Watched *gateway.Reading `json:"watched,omitempty"`

	kept bool // there is a ConfigMap
}

// Approval is an approval of one change.
type Approval struct {
	ID     string `json:"id"`
	Digest string `json:"digest"`
	Whole  bool   `json:"whole,omitempty"`
	// By is whom the API server took the person for, by their own program.
	By     string    `json:"by"`
	Reason string    `json:"reason,omitempty"`
	Given  time.Time `json:"given"`
	// Now says that it does not wait for the gateways' budget.
	Now bool `json:"now,omitempty"`
	// Until is when it ends at the latest (see config.Config.ApprovalLifetime).
	Until time.Time `json:"until"`
}

// Word is one thing that a person has said.
type Word struct {
	Serial int64     `json:"serial"`
	Time   time.Time `json:"time"`
	What   string    `json:"what"` // approve, revoke, resume, or stop
	By     string    `json:"by"`
	Reason string    `json:"reason,omitempty"`
	// Changes are the IDs, the first few of many, and Count how many there were.
	Changes []string `json:"changes,omitempty"`
	Count   int      `json:"count,omitempty"`
}

// String says it for the journal.
func (w Word) String() string {
	text := fmt.Sprintf("%s by %s", w.What, w.By)
	if w.Count > 0 {
		text += fmt.Sprintf(": %d changes (%s", w.Count, strings.Join(w.Changes, ", "))
		if w.Count > len(w.Changes) {
			text += ", ..."
		}
		text += ")"
	}
	if w.Reason != "" {
		text += "; " + w.Reason
	}
	return text
}

// What a person can say, and the circuit breaker.
const (
	SaidStop    = "stop"
	SaidApprove = "approve"
	SaidRevoke  = "revoke"
	SaidResume  = "resume"
)

// Stop is a circuit breaker that has opened.
type Stop struct {
	Since time.Time `json:"since"`
	Why   []string  `json:"why"`
}

// String says it for a report.
func (s *Stop) String() string {
	text := "everything is stopped since " + s.Since.UTC().Format("2006-01-02 15:04 MST") + ", because after a batch of changes"
	for i, w := range s.Why {
		if i > 0 {
			text += ";"
		}
		text += " " + w
	}
	return text + ": look at the gateways, then `certherd approve --resume`"
}

// Say notes a person's word, whose Serial and Count it fills in.
func (c *Consent) Say(w Word) {
	c.Serial++
	w.Serial, w.Count = c.Serial, len(w.Changes)
	w.Changes = w.Changes[:min(len(w.Changes), 20)]
	c.Words = append(c.Words, w)
}

// Holds reports whether an approval holds at a time, if none does for longer than
// lifetime. Clocks of two machines may be some minutes apart.
func (a Approval) Holds(now time.Time, lifetime time.Duration) bool {
	const skew = 5 * time.Minute
	return now.Before(a.Until) && now.Before(a.Given.Add(lifetime)) && a.Given.Before(now.Add(skew))
}

// holding are the approvals that hold, for the gate.
func (c *Consent) holding(now time.Time, lifetime time.Duration) []gate.Approval {
	var out []gate.Approval
	for _, a := range c.Approvals {
		if a.Holds(now, lifetime) {
			out = append(out, gate.Approval{ID: a.ID, Digest: a.Digest, Whole: a.Whole})
		}
	}
	return out
}

// urgent are the changes by ID that do not wait for the gateways' budget.
func (c *Consent) urgent(now time.Time, lifetime time.Duration) map[string]bool {
	out := map[string]bool{}
	for _, a := range c.Approvals {
		if a.Now && a.Holds(now, lifetime) {
			out[a.ID] = true
		}
	}
	return out
}

// Approvals keeps Consent in a cluster.
type Approvals struct {
	api       typedcorev1.ConfigMapInterface
	namespace string
}

// OpenApprovals returns those of the certherd that runs in a namespace.
func OpenApprovals(client typedcorev1.ConfigMapsGetter, namespace string) *Approvals {
	return &Approvals{client.ConfigMaps(namespace), namespace}
}

// Read returns what is kept; an empty Consent when nothing was ever said.
func (a *Approvals) Read(ctx context.Context) (*Consent, error) {
	_, c, err := a.read(ctx)
	return c, err
}

func (a *Approvals) read(ctx context.Context) (*corev1.ConfigMap, *Consent, error) {
	cm, err := a.api.Get(ctx, ApprovalsName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, &Consent{}, nil
	}
	if err != nil {
		return nil, nil, fmt.Errorf("cannot read what was approved: %w", err)
	}
	c, err := decodeConsent(cm.Data[keyConsent])
	if err != nil {
		return nil, nil, fmt.Errorf("cannot understand what was approved, in ConfigMap %s/%s: %w; delete the ConfigMap to begin anew, which also resumes what was stopped", a.namespace, ApprovalsName, err)
	}
	c.kept = true
	return cm, c, nil
}

// Change stores what change makes of the newest Consent, with the ConfigMap's
// resourceVersion as the precondition. change may be called several times; when
// it returns false, nothing is stored.
func (a *Approvals) Change(ctx context.Context, change func(*Consent) (bool, error)) error {
	return retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		cm, c, err := a.read(ctx)
		if err != nil {
			return err
		}
		if ok, err := change(c); err != nil || !ok {
			return err
		}
		text, err := encodeConsent(c)
		if err != nil {
			return err
		}
		state := "open"
		if c.Stopped != nil {
			state = "stopped"
		}
		data := map[string]string{keySerial: strconv.FormatInt(c.Serial, 10), keyState: state, keyConsent: text}
		if cm == nil {
			_, err = a.api.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{
				Name: ApprovalsName, Labels: map[string]string{"app.kubernetes.io/name": "certherd", "app.kubernetes.io/component": "approvals"},
			}, Data: data}, metav1.CreateOptions{FieldManager: fieldManager})
			if apierrors.IsAlreadyExists(err) {
				return apierrors.NewConflict(corev1.Resource("configmaps"), ApprovalsName, err)
			}
		} else {
			cm.Data = data
			_, err = a.api.Update(ctx, cm, metav1.UpdateOptions{FieldManager: fieldManager})
		}
		if err != nil && !apierrors.IsConflict(err) {
			return fmt.Errorf("cannot write ConfigMap %s/%s: %w", a.namespace, ApprovalsName, err)
		}
		return err
	})
}

func encodeConsent(c *Consent) (string, error) {
	var b bytes.Buffer
	text := base32.NewEncoder(base32.StdEncoding, &b)
	z := gzip.NewWriter(text)
	if err := errors.Join(json.NewEncoder(z).Encode(c), z.Close(), text.Close()); err != nil {
		return "", err
	}
	if b.Len() > consentBytes {
		return "", fmt.Errorf("%d approvals do not fit into a ConfigMap: approve some, and others when these are done", len(c.Approvals))
	}
	return b.String(), nil
}

func decodeConsent(text string) (*Consent, error) {
	c := new(Consent)
	if text == "" {
		return c, nil
	}
	z, err := gzip.NewReader(base32.NewDecoder(base32.StdEncoding, bytes.NewReader([]byte(text))))
	if err != nil {
		return nil, err
	}
	if err := json.NewDecoder(io.LimitReader(z, 64<<20)).Decode(c); err != nil {
		return nil, err
	}
	return c, nil
}

// prune forgets approvals that hold no more, and, when everything was seen, those
// of changes that nobody proposes any more. It reports whether there were any.
func (c *Consent) prune(now time.Time, lifetime time.Duration, proposed map[string]bool) bool {
	n := len(c.Approvals)
	c.Approvals = slices.DeleteFunc(c.Approvals, func(a Approval) bool {
		return !a.Holds(now, lifetime) || proposed != nil && !proposed[a.ID]
	})
	return len(c.Approvals) < n
}

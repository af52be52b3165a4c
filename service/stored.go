package service

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"time"

	"go.uber.org/zap"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	applycorev1 "k8s.io/client-go/applyconfigurations/core/v1"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/certherd/certherd/gate"
	"github.com/certherd/certherd/report"
)

// The keys of the report's ConfigMap. The report itself is compressed, not to
// save room alone: a name in plain text would be a mention of the object, and
// whatever a report says is unused would be unknown from then on. For the same
// reason the summary has numbers and no names.
const (
	keySummary = "summary.yaml"
	keyRounds  = "rounds.yaml"
	keyReport  = "report.json.gz"
	keyHeard   = "heard"
)

// storedBytes is the most that the compressed report may have. A ConfigMap
// takes 1 MiB in all, and etcd 1.5 MiB with its encoding.
const storedBytes = 512 << 10

// storedLimit is the most JSON that is read from a ConfigMap, which somebody else may
// have written.
const storedLimit = 64 << 20

// fieldManager owns what is applied.
const fieldManager = "certherd"

// summary is what the ConfigMap shows in plain text.
type summary struct {
	TakenAt time.Time `json:"takenAt"`
	report.Summary
	Gaps int `json:"gaps"`
	// Cut says what the compressed report lacks; it is empty when that is whole.
	Cut string `json:"cut,omitempty"`
}

// begin takes over what the last leader has noted. It tries until it can, or
// until ctx ends: what cannot be read is not what is not there.
func (k *keeper) begin(ctx context.Context) {
	for ctx.Err() == nil {
		err := k.load(ctx)
		if err == nil {
			return
		}
		k.log.Error("last report not read", zap.Error(err))
		select {
		case <-ctx.Done():
		case <-time.After(k.o.Pause):
		}
	}
}

func (k *keeper) load(ctx context.Context) error {
	k.last, k.known, k.heard = map[gate.Rule]time.Time{}, map[finding]bool{}, 0
	cm, err := k.client.CoreV1().ConfigMaps(k.o.Namespace).Get(ctx, k.o.Report, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	// What is not readable was written by somebody else. Without a last round
	// one is due now, which is right for a report, and for the rest the gate asks
	// for a window.
	if err := yaml.Unmarshal([]byte(cm.Data[keyRounds]), &k.last); err != nil || k.last == nil {
		k.log.Warn("last rounds not understood", zap.Error(err))
		k.last = map[gate.Rule]time.Time{}
	}
	// One that is not understood only means that approvals are acted on again, for
	// which they have to hold.
	k.heard, _ = strconv.ParseInt(cm.Data[keyHeard], 10, 64)
	var r report.Report
	if err := unpack(cm.BinaryData[keyReport], storedLimit, &r); err != nil {
		k.log.Warn("last report not understood", zap.Error(err))
	}
	k.known = k.seriousOf(&r)
	return nil
}

// store keeps the newest report, when each rule's last round was, and what was
// heard from persons, in the ConfigMap. whole is the report as pack packs it.
func (k *keeper) store(ctx context.Context, r *report.Report, whole []byte, last map[gate.Rule]time.Time, heard int64) error {
	packed, what, err := fit(r, whole, storedBytes)
	if err != nil {
		return err
	}
	shown, err := yaml.Marshal(summary{TakenAt: r.TakenAt, Summary: r.Summary, Gaps: len(r.Gaps), Cut: what})
	if err != nil {
		return err
	}
	for rule, at := range last {
		last[rule] = at.UTC()
	}
	rounds, err := yaml.Marshal(last)
	if err != nil {
		return err
	}
	cm := applycorev1.ConfigMap(k.o.Report, k.o.Namespace).
		WithLabels(map[string]string{"app.kubernetes.io/name": "certherd", "app.kubernetes.io/component": "report"}).
		WithData(map[string]string{keySummary: string(shown), keyRounds: string(rounds), keyHeard: strconv.FormatInt(heard, 10)}).
		WithBinaryData(map[string][]byte{keyReport: packed})
	_, err = k.guarded.CoreV1().ConfigMaps(k.o.Namespace).Apply(ctx, cm, metav1.ApplyOptions{FieldManager: fieldManager, Force: true})
	return err
}

// StoredReport returns the newest report that the leader of a namespace has kept,
// and what it lacks, if anything. name is that of the ConfigMap.
func StoredReport(ctx context.Context, client typedcorev1.ConfigMapsGetter, namespace, name string) (r report.Report, cut string, err error) {
	cm, err := client.ConfigMaps(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return r, "", err
	}
	var s summary
	if err := yaml.Unmarshal([]byte(cm.Data[keySummary]), &s); err != nil {
		return r, "", fmt.Errorf("cannot understand ConfigMap %s/%s: %w", namespace, name, err)
	}
	if err := unpack(cm.BinaryData[keyReport], storedLimit, &r); err != nil {
		return r, "", fmt.Errorf("cannot understand ConfigMap %s/%s: %w", namespace, name, err)
	}
	return r, s.Cut, nil
}

// fit packs a report into at most limit bytes; whole is all of it, packed. What does
// not fit is left out from the end: changes with their steps first, then findings; cut
// says so.
func fit(r *report.Report, whole []byte, limit int) (packed []byte, cut string, err error) {
	if len(whole) <= limit {
		return whole, "", nil
	}
	x, packed := *r, whole
	x.Normalize()
	findings, changes, spaces := len(x.Findings), len(x.Changes), len(x.Namespaces)
	for err == nil && len(packed) > limit {
		share := 0.9 * float64(limit) / float64(len(packed))
		switch {
		case len(x.Changes) > 0:
			x.Changes = x.Changes[:int(share*float64(len(x.Changes)))]
			// Changes and findings tell of the same objects, so both shrink alike.
			x.Findings = x.Findings[:int(share*float64(len(x.Findings)))]
		case len(x.Findings) > 0:
			x.Findings = x.Findings[:int(share*float64(len(x.Findings)))]
		case len(x.Namespaces) > 0:
			x.Namespaces = x.Namespaces[:int(share*float64(len(x.Namespaces)))]
		default:
			return nil, "", fmt.Errorf("the report has %d bytes with all lists cut away, which is more than %d", len(packed), limit)
		}
		packed, err = pack(&x)
	}
	if len(x.Findings) < findings || len(x.Changes) < changes || len(x.Namespaces) < spaces {
		cut = fmt.Sprintf("there are %d of %d findings, %d of %d changes and %d of %d namespaces; /report.json has them all",
			len(x.Findings), findings, len(x.Changes), changes, len(x.Namespaces), spaces)
	}
	return packed, cut, err
}

// pack is the report in JSON, compressed. It may reorder findings and changes, of
// which it makes no copy: they may take tens of MiB.
func pack(r *report.Report) ([]byte, error) {
	outline := *r
	outline.Findings, outline.Changes = nil, nil
	return compress(func(w io.Writer) error {
		return report.WriteJSON(w, &outline, slices.Values([][]report.Finding{r.Findings}), slices.Values([][]report.Change{r.Changes}))
	})
}

// unpack reads what pack wrote, and no more than limit bytes of JSON.
func unpack(packed []byte, limit int64, r *report.Report) error {
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return err
	}
	return json.NewDecoder(io.LimitReader(z, limit)).Decode(r)
}

func compress(write func(io.Writer) error) ([]byte, error) {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if err := write(z); err != nil {
		return nil, err
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	return bytes.Clone(b.Bytes()), nil
}

// expand undoes compress. What it takes must be of compress: how long it becomes is in
// the last bytes (RFC 1952, ISIZE).
func expand(packed []byte) ([]byte, error) {
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, err
	}
	size := binary.LittleEndian.Uint32(packed[len(packed)-4:])
	b := bytes.NewBuffer(make([]byte, 0, int(size)+bytes.MinRead))
	_, err = b.ReadFrom(z)
	return b.Bytes(), err
}

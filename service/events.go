package service

import (
	"context"
	"fmt"
	"time"

	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/record"

	"github.com/certherd/certherd/inventory"
	"github.com/certherd/certherd/notify"
	"github.com/certherd/certherd/plan"
	"github.com/certherd/certherd/report"
)

// eventsPerRound is the most Events of one round. The rest is counted in one
// more, on the ConfigMap.
const eventsPerRound = 20

// events sends Events during a term, and tells people of them. client-go's recorder
// joins equal ones and limits their rate per object.
type events struct {
	recorder    record.EventRecorder
	broadcaster record.EventBroadcaster
	people      *notify.Sender
	stop        func()
}

func (s *Service) newEvents(term context.Context) *events {
	b := record.NewBroadcaster()
	b.StartRecordingToSink(sink{s.guarded.CoreV1(), term})
	e := &events{recorder: b.NewRecorder(runtime.NewScheme(), corev1.EventSource{Component: "certherd"}), broadcaster: b}
	e.people = notify.New(func() notify.Settings { return s.config.Load().NotifySettings() }, s.notified)
	sending, end := context.WithCancel(term)
	done := make(chan struct{})
	go func() { defer close(done); e.people.Run(sending, notifyAtTheEnd) }()
	e.stop = func() {
		e.broadcaster.Shutdown()
		end()
		<-done
	}
	return e
}

// notifyAtTheEnd is how long a term's last message may take. The lease is still
// held meanwhile.
const notifyAtTheEnd = 3 * time.Second

func (e *events) Event(o *corev1.ObjectReference, kind, reason, message string) {
	e.recorder.Event(o, kind, reason, message)
	e.people.Tell(notify.Note{Time: time.Now().UTC(), Warning: kind == corev1.EventTypeWarning, Reason: reason, Object: report.Ref{Kind: o.Kind, Namespace: o.Namespace, Name: o.Name}.String(), Message: message})
}

// notified counts messages and says which could not be sent.
func (s *Service) notified(w notify.Webhook, err error) {
	result := "success"
	if err != nil {
		result = "failed"
		s.log.Warn("message not sent", zap.String("format", string(w.Format)), zap.String("urlFile", w.URLFile), zap.Error(err))
	}
	s.metrics.messages.WithLabelValues(string(w.Format), result).Inc()
}

// sink writes Events with the context of a term, so that the guard lets them
// pass, and stops them afterwards.
type sink struct {
	client typedcorev1.EventsGetter
	term   context.Context
}

func (s sink) Create(e *corev1.Event) (*corev1.Event, error) {
	return s.client.Events(e.Namespace).Create(s.term, e, metav1.CreateOptions{})
}

func (s sink) Update(e *corev1.Event) (*corev1.Event, error) {
	return s.client.Events(e.Namespace).Update(s.term, e, metav1.UpdateOptions{})
}

func (s sink) Patch(e *corev1.Event, data []byte) (*corev1.Event, error) {
	return s.client.Events(e.Namespace).Patch(s.term, e.Name, types.StrategicMergePatchType, data, metav1.PatchOptions{})
}

// ownConfigMap is the object for what concerns certherd itself.
func (k *keeper) ownConfigMap(c *configuration) *corev1.ObjectReference {
	ref := &corev1.ObjectReference{APIVersion: "v1", Kind: "ConfigMap", Namespace: k.o.Namespace, Name: k.o.ConfigMap}
	if c != nil && c.object != nil {
		ref.UID, ref.ResourceVersion = c.object.UID, c.object.ResourceVersion
	}
	return ref
}

// tellProblem says once what is wrong with a ConfigMap.
func (k *keeper) tellProblem(c *configuration) {
	if !k.leads || c == k.told {
		return
	}
	wrong := k.told != nil && k.told.problem != nil
	k.told = c
	switch {
	case c.problem != nil:
		k.events.Event(k.ownConfigMap(c), corev1.EventTypeWarning, "ConfigurationRefused", sayProblem(c.problem))
	case wrong && c.object != nil:
		k.events.Event(k.ownConfigMap(c), corev1.EventTypeNormal, "ConfigurationTakenOver", "The configuration is good again, and in force.")
	}
}

// finding tells one finding from others.
type finding struct {
	reason string
	object report.Ref
}

func (s *Service) seriousOf(r *report.Report) map[finding]bool {
	out := map[finding]bool{}
	for _, f := range r.Findings {
		if s.serious[f.Reason] {
			out[finding{f.Reason, f.Object}] = true
		}
	}
	return out
}

// tellFindings sends an Event for each serious finding that the round before
// did not have.
func (k *keeper) tellFindings(r *report.Report, s *inventory.Snapshot) {
	told, more := 0, 0
	for _, f := range r.Findings {
		if !k.serious[f.Reason] || k.known[finding{f.Reason, f.Object}] {
			continue
		}
		if told == eventsPerRound {
			more++
			continue
		}
		told++
		o, message := concerned(s, f)
		k.events.Event(o, corev1.EventTypeWarning, f.Reason, cut(message, 1000))
	}
	if more > 0 {
		k.events.Event(k.ownConfigMap(k.config.Load()), corev1.EventTypeWarning, "MoreFindings", fmt.Sprintf("The newest round has %d more new findings of serious reasons: see /report.", more))
	}
	k.known = k.seriousOf(r)
}

// tellWaiting sends an Event when more changes wait for a person than before.
func (k *keeper) tellWaiting(n int) {
	if n > k.waited {
		k.events.Event(k.ownConfigMap(k.config.Load()), corev1.EventTypeNormal, "ApprovalWanted", fmt.Sprintf("%d changes wait for approval: see `certherd approve --list`.", n))
	}
	k.waited = n
}

// stepEvents are the reasons of Events on what was done. Waiting is none.
var stepEvents = map[plan.Action]string{
	plan.Delete: "Deleted", plan.Retire: "Retired", plan.Unretire: "Unretired", plan.Issue: "Issued", plan.Switch: "Switched",
}

// tellStep sends an Event on the object of a step that was carried out, or could
// not be.
func (k *keeper) tellStep(x Outcome) {
	reason, kind := stepEvents[x.Action], corev1.EventTypeNormal
	message := fmt.Sprintf("%s: %s Change %s in round %s; see `certherd history`.", x.Reason, x.Message, x.Change, x.Round)
	if x.Why != "" {
		reason, kind = "NotCarriedOut", corev1.EventTypeWarning
		message = fmt.Sprintf("To %s this was not done: %s. Change %s in round %s.", x.Action, x.Why, x.Change, x.Round)
	}
	if reason == "" {
		return
	}
	if k.outcomes.told == eventsPerRound {
		k.outcomes.quiet++
		return
	}
	k.outcomes.told++
	k.events.Event(reference(k.outcomes.snapshot, report.Ref(x.Object)), kind, reason, cut(message, 1000))
}

// concerned is the object that a finding is told of, and the message: nobody looks
// at one that does not exist, so that such a finding is told of the first that
// has to do with it.
func concerned(s *inventory.Snapshot, f report.Finding) (*corev1.ObjectReference, string) {
	o := reference(s, f.Object)
	if o.UID != "" {
		return o, f.Message
	}
	for _, x := range f.Related {
		if r := reference(s, x); r.UID != "" {
			return r, f.Object.String() + ": " + f.Message
		}
	}
	return o, f.Message
}

// reference is an object for an Event, with its UID where there is a record of
// it, so that kubectl describe shows the Event.
func reference(s *inventory.Snapshot, x report.Ref) *corev1.ObjectReference {
	ref := inventory.Ref(x)
	o := &corev1.ObjectReference{APIVersion: x.Group + "/v1", Kind: x.Kind, Namespace: x.Namespace, Name: x.Name}
	if x.Group == "" {
		o.APIVersion = "v1"
	}
	if m := s.Secret(ref); m != nil {
		o.UID = types.UID(m.Version.UID)
	} else if m := s.Certificate(ref); m != nil {
		o.UID = types.UID(m.Version.UID)
	} else if m := s.KnativeCertificate(ref); m != nil {
		o.UID, o.APIVersion = types.UID(m.Version.UID), x.Group+"/v1alpha1"
	} else if m := s.Consumer(ref); m != nil {
		o.UID = types.UID(m.Version.UID)
	}
	return o
}

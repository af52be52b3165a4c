package main

import (
	"bufio"
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
)

// writes are those of the Secrets of all certificates, as net-kourier sees them.
type writes struct {
	bed   *bed
	watch watch.Interface

	mu   sync.Mutex
	all  []written
	last map[string]time.Time // notBefore, by Secret
}

// written is one Secret that has a new certificate.
type written struct {
	at   time.Time
	late time.Duration // after it was due, negative for one that was renewed before
}

func (b *bed) watch(ctx context.Context) (*writes, error) {
	client := b.cluster.Typed.CoreV1().Secrets(namespace)
	list, err := client.List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	w := &writes{bed: b, last: map[string]time.Time{}}
	for i := range list.Items {
		w.see(&list.Items[i])
	}
	w.all = nil
	if w.watch, err = client.Watch(ctx, metav1.ListOptions{ResourceVersion: list.ResourceVersion}); err != nil {
		return nil, err
	}
	go func() {
		for e := range w.watch.ResultChan() {
			if s, ok := e.Object.(*corev1.Secret); ok && e.Type != watch.Deleted {
				w.see(s)
			}
		}
	}()
	return w, nil
}

func (w *writes) stop() { w.watch.Stop() }

func (w *writes) see(s *corev1.Secret) {
	block, _ := pem.Decode(s.Data[corev1.TLSCertKey])
	if block == nil {
		return // a private key to come
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	before := w.last[s.Name]
	if c.NotBefore.Equal(before) {
		return
	}
	w.last[s.Name] = c.NotBefore
	w.all = append(w.all, written{at: time.Now(), late: time.Since(before.Add(w.bed.Every))})
}

// between are those from one time to another.
func (w *writes) between(from, to time.Time) (out []time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, x := range w.all {
		if !x.at.Before(from) && x.at.Before(to) {
			out = append(out, x.at)
		}
	}
	return out
}

// pace is how cert-manager has issued so far: how long after it was due a certificate
// was written, in the middle, and how long after another one if it was waited for
// already, on average.
func (w *writes) pace() (latency, apart time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var late, gaps []time.Duration
	for i, x := range w.all {
		if x.late > 0 {
			late = append(late, x.late)
		}
		if i > 0 {
			// What was renewed ahead of its time was triggered with others.
			gap := x.at.Sub(w.all[i-1].at)
			if x.late > gap || x.late < 0 && gap < 2*time.Second {
				gaps = append(gaps, gap)
			}
		}
	}
	return middle(late), mean(gaps)
}

func middle(list []time.Duration) time.Duration {
	if len(list) == 0 {
		return 0
	}
	slices.Sort(list)
	return list[len(list)/2]
}

func mean(list []time.Duration) (sum time.Duration) {
	for _, x := range list {
		sum += x
	}
	return sum / time.Duration(max(1, len(list)))
}

// triggers reads the API server's audit log: how often certherd has had a certificate
// issued, and how often before what it had asked for was begun.
func (b *bed) triggers() (all, twice int, err error) {
	f, err := os.Open(b.stack.AuditLog)
	if err != nil {
		return 0, 0, err
	}
	defer f.Close()
	type event struct {
		at      time.Time
		trigger bool
	}
	events := map[string][]event{} // by Certificate
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 4<<20)
	for lines.Scan() {
		var e struct {
			Stage, Verb              string
			User, ImpersonatedUser   struct{ Username string }
			ObjectRef                struct{ Namespace, Name, Resource, Subresource string }
			ResponseStatus           struct{ Code int }
			RequestReceivedTimestamp time.Time
		}
		if json.Unmarshal(lines.Bytes(), &e) != nil || e.Stage != "ResponseComplete" || e.ResponseStatus.Code >= 300 || e.ObjectRef.Namespace != namespace {
			continue
		}
		switch {
		case e.ObjectRef.Resource == "certificates" && e.ImpersonatedUser.Username == user && (e.Verb == "patch" || e.Verb == "update"):
			events[e.ObjectRef.Name] = append(events[e.ObjectRef.Name], event{e.RequestReceivedTimestamp, true})
			all++
		case e.ObjectRef.Resource == "certificaterequests" && e.Verb == "create":
			// cert-manager names it by the Certificate and its revision.
			if i := strings.LastIndexByte(e.ObjectRef.Name, '-'); i > 0 {
				events[e.ObjectRef.Name[:i]] = append(events[e.ObjectRef.Name[:i]], event{e.RequestReceivedTimestamp, false})
			}
		}
	}
	for _, list := range events {
		slices.SortStableFunc(list, func(a, b event) int { return a.at.Compare(b.at) })
		for i, e := range list {
			if !e.trigger || i == 0 {
				continue
			}
			// What was triggered and is not begun, or was begun a moment ago.
			if before := list[i-1]; before.trigger || e.at.Sub(before.at) < b.Every/20 {
				twice++
			}
		}
	}
	return all, twice, lines.Err()
}

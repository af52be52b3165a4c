package apply_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/utils/clock"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/certherd/certherd/apply"
	"github.com/certherd/certherd/batch"
	"github.com/certherd/certherd/gate"
	"github.com/certherd/certherd/inventory"
	"github.com/certherd/certherd/plan"
)

func TestACertificateGoesFirstAndItsSecretIsMarked(t *testing.T) {
	w := newWorld(t)
	w.certificate("web-7f3")
	w.superseded("svc-7f3")
	before := time.Now().Add(-2 * time.Second)
	w.expect(w.run(),
		"delete Certificate/web-7f3: done", "retire Secret/web-7f3: done", "delete Secret/web-7f3: later: a later round",
		"delete KCertificate/svc-7f3: done", "retire Secret/svc-7f3-tls: done", "delete Secret/svc-7f3-tls: later")
	w.is("gone", w.crtRef("web-7f3"), w.kcrtRef("svc-7f3"), w.crtRef("svc-7f3"))
	w.is("marked", w.secretRef("web-7f3"), w.secretRef("svc-7f3-tls"))
	w.is("unmarked", w.secretRef("wild"))
	mark, _ := plan.MarkOf(meta(w.get(w.secretRef("web-7f3"))))
	if mark.Reason != plan.OrphanedCertificate || mark.RetiredAt.Before(before) || mark.DeleteAfter.Sub(mark.RetiredAt) != 168*time.Hour {
		t.Errorf("mark %+v", mark)
	}
	// It is not due, and nothing is left to do.
	if changes := w.plan().Changes(); len(changes) > 0 {
		t.Errorf("the next round would do %+v", changes)
	}
	for _, e := range w.entries() {
		if e.State != apply.Carried || e.Ended == nil || e.Message == "" || e.Reason == "" || e.UID == "" {
			t.Errorf("entry %+v", e)
		}
		if (len(e.Manifest) > 0) != (e.Action == plan.Delete) {
			t.Errorf("%s %s: manifest %s", e.Action, e.Object.Ref(), e.Manifest)
		}
	}
}

// shifted is the real clock, some time from now.
type shifted struct {
	clock.RealClock
	by time.Duration
}

func (s shifted) Now() time.Time { return time.Now().Add(s.by) }

func TestASecretIsDeletedAfterItsGracePeriodByALaterRound(t *testing.T) {
	w := newWorld(t)
	w.o.MaxSkew = 0
	w.secret("left-7f3", "gone", "left-7f3.example.com")
	w.expect(w.run(), "retire Secret/left-7f3: done", "delete Secret/left-7f3: later")
	w.o.Clock = shifted{by: 168*time.Hour - time.Minute}
	if changes := w.plan().Changes(); len(changes) > 0 {
		t.Errorf("a minute early: %+v", changes)
	}
	w.o.Clock = shifted{by: 168*time.Hour + time.Minute}
	// The journal names it, and that is no reference to it.
	w.expect(w.run(), "delete Secret/left-7f3: done")
	w.is("gone", w.secretRef("left-7f3"))
}

func TestAClockThatIsWrongDeletesNoSecret(t *testing.T) {
	w := newWorld(t)
	w.secret("left-7f3", "gone", "left-7f3.example.com")
	w.expect(w.run(), "retire Secret/left-7f3: done")
	w.o.Clock = shifted{by: 169 * time.Hour}
	w.expect(w.run(), "delete Secret/left-7f3: later: apart")
	w.is("marked", w.secretRef("left-7f3"))
	w.o.Clock = nil
	w.run() // closes the intent
	for _, e := range w.entries() {
		if e.Action == plan.Delete && e.State != apply.Left {
			t.Errorf("entry %+v", e)
		}
	}
}

func TestAnExpiredSecretHasAShorterGracePeriod(t *testing.T) {
	w := newWorld(t)
	x := w.secret("aged-7f3", "gone", "aged.example.com")
	ref := w.secretRef("aged-7f3")
	s, err := w.look(w.ctx, w.c.cfg)
	if err != nil {
		t.Fatal(err)
	}
	// The look reads no certificates, so what knows the date says it.
	p := plan.Plan{Changes: []plan.Change{{ID: "x", Why: &plan.Finding{Reason: plan.ExpiredUnused, Object: ref, Verdict: inventory.Unused},
		Steps: []plan.Step{{Action: plan.Retire, Object: ref, If: inventory.Version{UID: string(x.UID), ResourceVersion: x.ResourceVersion}}}}}}
	cleared, held := enforce.Decide(p, s, s.Taken)
	if len(held) > 0 {
		t.Fatal(held[0].Why)
	}
	w.expect(w.apply(w.applier(), cleared), "retire Secret/aged-7f3: done")
	mark, ok := plan.MarkOf(meta(w.get(ref)))
	if !ok || mark.DeleteAfter.Sub(mark.RetiredAt) != 24*time.Hour {
		t.Errorf("mark %+v", mark)
	}
}

func TestARetiredSecretThatIsUsedAgainIsUnmarked(t *testing.T) {
	w := newWorld(t)
	w.due("back-7f3")
	w.create(pod("back-7f3"))
	w.expect(w.run(), "unretire Secret/back-7f3: done")
	w.is("there", w.secretRef("back-7f3"))
	if o := w.get(w.secretRef("back-7f3")); plan.Marked(meta(o)) || o.GetAnnotations()["cert-manager.io/certificate-name"] != "back-7f3" {
		t.Errorf("annotations %v", o.GetAnnotations())
	}
}

func TestNotFoundIsDone(t *testing.T) {
	for _, point := range []string{"01 begun", "05 looked", "06 checked", "08 about to write"} {
		w := newWorld(t)
		w.certificate("web-7f3")
		w.due("left-7f3")
		cleared, a := w.plan(), w.applier()
		done := false
		a.OnFault(func(p string) {
			if p == point && !done {
				done = true
				for _, ref := range []inventory.Ref{w.crtRef("web-7f3"), w.secretRef("left-7f3")} {
					if err := w.remove(ref); err != nil {
						t.Error(err)
					}
				}
			}
		})
		w.expect(w.apply(a, cleared), "delete Certificate/web-7f3: already done", "retire Secret/web-7f3: done", "delete Secret/left-7f3: already done")
	}
}

// Whatever happens to an object after the plan was made: the step is dropped.
func TestAConflictDropsTheChange(t *testing.T) {
	for _, point := range []string{"01 begun", "05 looked", "06 checked", "07 intent stored", "08 about to write"} {
		w := newWorld(t)
		w.certificate("web-7f3")
		w.superseded("svc-7f3")
		w.due("left-7f3")
		w.secret("free-7f3", "gone", "free-7f3.example.com")
		refs := []inventory.Ref{w.crtRef("web-7f3"), w.kcrtRef("svc-7f3"), w.secretRef("left-7f3"), w.secretRef("free-7f3")}
		cleared, a := w.plan(), w.applier()
		times := 0
		a.OnFault(func(p string) {
			if p == point {
				times++
				for _, ref := range refs {
					if err := w.label(ref, fmt.Sprint(times)); err != nil {
						t.Error(err)
					}
				}
			}
		})
		w.expect(w.apply(a, cleared), "delete Certificate/web-7f3: dropped", "retire Secret/web-7f3: dropped: step 1 was not done", "delete Secret/web-7f3: dropped",
			"delete KCertificate/svc-7f3: dropped", "delete Secret/left-7f3: dropped", "retire Secret/free-7f3: dropped")
		w.is("there", refs...)
		w.is("there", w.crtRef("svc-7f3"))
		w.is("unmarked", w.secretRef("web-7f3"), w.secretRef("free-7f3"))
		for _, e := range w.entries() {
			if e.State != apply.Left {
				t.Errorf("%s: entry %+v", point, e)
			}
		}
	}
}

func TestAnotherObjectOfTheSameNameStays(t *testing.T) {
	for _, point := range []string{"01 begun", "05 looked", "06 checked", "07 intent stored", "08 about to write"} {
		w := newWorld(t)
		w.certificate("web-7f3")
		w.due("left-7f3")
		cleared, a := w.plan(), w.applier()
		done := false
		a.OnFault(func(p string) {
			if p != point || done {
				return
			}
			done = true
			for _, ref := range []inventory.Ref{w.crtRef("web-7f3"), w.secretRef("left-7f3")} {
				if err := w.remove(ref); err != nil {
					t.Error(err)
				}
			}
			if _, err := w.tryCreate(certificateYAML("web-7f3")); err != nil {
				t.Error(err)
			}
			if _, err := w.tryDue("left-7f3"); err != nil {
				t.Error(err)
			}
		})
		w.expect(w.apply(a, cleared), "delete Certificate/web-7f3: dropped", "delete Secret/left-7f3: dropped")
		w.is("there", w.crtRef("web-7f3"), w.secretRef("left-7f3"))
	}
}

func pod(secret string) string {
	return `
apiVersion: v1
kind: Pod
metadata: {name: p}
spec:
  containers: [{name: c, image: i}]
  volumes: [{name: v, secret: {secretName: ` + secret + `}}]`
}

// referrers are ways to name Secret and Certificate "target", one for each kind of the
// reference table that this API server has, and for each way of the conservative
// scan.
var referrers = map[string]string{
	"a Pod's volume": pod("target-7f3"),
	"a Pod's environment": `
apiVersion: v1
kind: Pod
metadata: {name: p}
spec: {containers: [{name: c, image: i, env: [{name: X, valueFrom: {secretKeyRef: {name: target-7f3, key: tls.crt}}}]}]}`,
	"a projected volume of a Deployment": `
apiVersion: apps/v1
kind: Deployment
metadata: {name: d}
spec:
  replicas: 0
  selector: {matchLabels: {a: b}}
  template:
    metadata: {labels: {a: b}}
    spec: {containers: [{name: c, image: i}], volumes: [{name: v, projected: {sources: [{secret: {name: target-7f3}}]}}]}`,
	"a CronJob": `
apiVersion: batch/v1
kind: CronJob
metadata: {name: j}
spec:
  schedule: "@yearly"
  jobTemplate: {spec: {template: {spec: {restartPolicy: Never, containers: [{name: c, image: i, envFrom: [{secretRef: {name: target-7f3}}]}]}}}}`,
	"an argument": `
apiVersion: v1
kind: Pod
metadata: {name: p}
spec: {containers: [{name: c, image: i, args: ["--default-ssl-certificate=NS/target-7f3"]}]}`,
	"a ServiceAccount": `
apiVersion: v1
kind: ServiceAccount
metadata: {name: s}
secrets: [{name: target-7f3}]`,
	"an Ingress": `
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: i}
spec: {tls: [{hosts: [target-7f3.example.com], secretName: target-7f3}], defaultBackend: {service: {name: s, port: {number: 80}}}}`,
	"an Ingress's annotation": `
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: i, annotations: {nginx.ingress.kubernetes.io/auth-tls-secret: NS/target-7f3}}
spec: {defaultBackend: {service: {name: s, port: {number: 80}}}}`,
	"a Gateway": `
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: g}
spec: {gatewayClassName: c, listeners: [{name: l, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: target-7f3}]}}]}`,
	"a Gateway of another namespace": `
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: g, namespace: default}
spec: {gatewayClassName: c, listeners: [{name: l, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: target-7f3, namespace: NS}]}}]}`,
	"a Knative Ingress": `
apiVersion: networking.internal.knative.dev/v1alpha1
kind: Ingress
metadata: {name: k}
spec: {rules: [{hosts: [x.example.com]}], tls: [{hosts: [x.example.com], secretName: target-7f3, secretNamespace: NS}]}`,
	"a DomainMapping": `
apiVersion: serving.knative.dev/v1beta1
kind: DomainMapping
metadata: {name: x.example.com}
spec: {ref: {kind: Service, apiVersion: serving.knative.dev/v1, name: s}, tls: {secretName: target-7f3}}`,
	"an Issuer": `
apiVersion: cert-manager.io/v1
kind: Issuer
metadata: {name: i}
spec: {ca: {secretName: target-7f3}}`,
	"the key store of another Certificate": `
apiVersion: cert-manager.io/v1
kind: Certificate
metadata: {name: other}
spec:
  secretName: other-tls
  dnsNames: [other.example.com]
  issuerRef: {name: ca}
  keystores: {jks: {create: true, passwordSecretRef: {name: target-7f3, key: p}}}`,
	"text in a ConfigMap": `
apiVersion: v1
kind: ConfigMap
metadata: {name: c}
data: {conf: "ssl_certificate from secret target-7f3 please"}`,
	"text in a ConfigMap of another namespace": `
apiVersion: v1
kind: ConfigMap
metadata: {name: c, namespace: default}
data: {conf: "tls: NS/target-7f3"}`,
	"binary data of a ConfigMap": `
apiVersion: v1
kind: ConfigMap
metadata: {name: c}
binaryData: {conf: eDogdGFyZ2V0LTdmMwo=}`,
	"an annotation of a Service": `
apiVersion: v1
kind: Service
metadata: {name: s, annotations: {example.com/certificate: target-7f3}}
spec: {ports: [{port: 80}]}`,
	"cainjector's annotation": `
apiVersion: v1
kind: Service
metadata: {name: s, annotations: {cert-manager.io/inject-ca-from-secret: NS/target-7f3, cert-manager.io/inject-ca-from: NS/target-7f3}}
spec: {ports: [{port: 80}]}`,
	"a custom resource of a kind that nobody knows": `
apiVersion: example.com/v1
kind: Thing
metadata: {name: t}
spec: {deep: [{down: {below: "secret://target-7f3"}}]}`,
	"a copy of it": `
apiVersion: v1
kind: Secret
metadata: {name: copy, annotations: {reflector.v1.k8s.emberstack.com/reflects: NS/target-7f3}}
stringData: {a: b}`,
	"an owner reference to a Certificate that is back": certificateYAML("target-7f3"),
}

const thingCRD = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: things.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {kind: Thing, plural: things, singular: thing, listKind: ThingList}
  versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}]`

func defineThings(t *testing.T, w *world) {
	t.Helper()
	objects, err := parse(thingCRD)
	if err != nil {
		t.Fatal(err)
	}
	o := objects[0]
	if _, err := w.c.createObject(w.ctx, o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		api, err := w.c.resource(o.GroupVersionKind().GroupKind(), "v1", "")
		if err == nil {
			err = api.Delete(w.ctx, o.GetName(), metav1.DeleteOptions{})
		}
		if err != nil {
			t.Error(err)
		}
		w.c.awaitThings(t, false)
	})
	w.c.awaitThings(t, true)
}

// awaitThings waits until the kind Thing is served, or no longer.
func (c *cluster) awaitThings(t *testing.T, served bool) {
	t.Helper()
	for range 300 {
		c.mapper.Reset()
		list, err := c.core.Discovery().ServerResourcesForGroupVersion("example.com/v1")
		if (err == nil && len(list.APIResources) > 0) == served {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Fatalf("is the kind Thing served? It should be %v", served)
}

// A reference that appears after the plan was made, and before the look of the
// batch: the object stays.
func TestWhatIsNamedSinceThePlanStays(t *testing.T) {
	first := newWorld(t)
	defineThings(t, first)
	for name, text := range referrers {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.due("target-7f3")
			cleared, a := w.plan(), w.applier()
			made := w.create(text)
			defer w.removeAll(made)
			w.expect(w.apply(a, cleared), "delete Secret/target-7f3: dropped")
			w.is("there", w.secretRef("target-7f3"))
			if len(w.entries()) > 0 {
				t.Errorf("it is in the journal: %+v", w.entries())
			}
			// It was planned for, so without the reference it goes.
			w.removeAll(made)
			if strings.Contains(text, "kind: Certificate\nmetadata: {name: target-7f3") {
				return
			}
			w.expect(w.run(), "delete Secret/target-7f3: done")
		})
		if text == referrers["an owner reference to a Certificate that is back"] {
			continue
		}
		t.Run("Certificate, "+name, func(t *testing.T) {
			w := newWorld(t)
			w.certificate("target-7f3")
			cleared, a := w.plan(), w.applier()
			made := w.create(text)
			defer w.removeAll(made)
			w.expect(w.apply(a, cleared), "delete Certificate/target-7f3: dropped", "retire Secret/target-7f3: dropped")
			w.is("there", w.crtRef("target-7f3"))
			w.is("unmarked", w.secretRef("target-7f3"))
		})
	}
}

// removeAll deletes objects at once, wherever they are, and waits until they and all
// that they own are gone: the ReplicaSet of a Deployment names what its template does.
func (w *world) removeAll(objects []*unstructured.Unstructured) {
	w.t.Helper()
	now, foreground := int64(0), metav1.DeletePropagationForeground
	for _, o := range objects {
		gvk := o.GroupVersionKind()
		api, err := w.c.resource(gvk.GroupKind(), gvk.Version, o.GetNamespace())
		if err == nil {
			err = api.Delete(w.ctx, o.GetName(), metav1.DeleteOptions{GracePeriodSeconds: &now, PropagationPolicy: &foreground})
		}
		for end := time.Now().Add(2 * time.Minute); err == nil; time.Sleep(50 * time.Millisecond) {
			if _, err = api.Get(w.ctx, o.GetName(), metav1.GetOptions{}); err == nil && time.Now().After(end) {
				err = fmt.Errorf("%s %s is still there after two minutes", o.GetKind(), o.GetName())
			}
		}
		if !apierrors.IsNotFound(err) {
			w.t.Error(err)
		}
	}
}

func TestALookThatFailsHoldsTheWholeBatch(t *testing.T) {
	half := func(r *http.Request, next http.RoundTripper) (*http.Response, error) {
		resp, err := next.RoundTrip(r)
		if err != nil {
			return nil, err
		}
		b, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		resp.Body = io.NopCloser(strings.NewReader(string(b[:len(b)/2])))
		resp.ContentLength = -1
		resp.Header.Del("Content-Length")
		return resp, err
	}
	for name, answer := range map[string]func(*http.Request, http.RoundTripper) (*http.Response, error){
		"500": func(r *http.Request, _ http.RoundTripper) (*http.Response, error) {
			return refusal(r, 500, metav1.StatusReasonInternalError), nil
		},
		"403": func(r *http.Request, _ http.RoundTripper) (*http.Response, error) {
			return refusal(r, 403, metav1.StatusReasonForbidden), nil
		},
		"410": func(r *http.Request, _ http.RoundTripper) (*http.Response, error) {
			return refusal(r, 410, metav1.StatusReasonExpired), nil
		},
		"half a body": half,
		"no answer": func(r *http.Request, _ http.RoundTripper) (*http.Response, error) {
			<-r.Context().Done()
			return nil, r.Context().Err()
		},
		"connection refused": func(*http.Request, http.RoundTripper) (*http.Response, error) {
			return nil, errors.New("connection refused")
		},
	} {
		for _, path := range []string{
			"/api/v1/pods", "/api/v1/secrets", "/api/v1/configmaps", "/apis/networking.k8s.io/v1/ingresses",
			"/apis/networking.internal.knative.dev/v1alpha1/ingresses", "/apis/cert-manager.io/v1/certificates", "/apis",
		} {
			t.Run(name+" "+path, func(t *testing.T) {
				w := newWorld(t)
				w.certificate("web-7f3")
				w.due("left-7f3")
				cleared := w.plan()
				w.quiet = time.Second
				cfg := w.faulty(func(r *http.Request, next http.RoundTripper) (*http.Response, error) {
					if r.URL.Path == path {
						return answer(r, next)
					}
					return next.RoundTrip(r)
				})
				w.o.Look = func(ctx context.Context) (*inventory.Snapshot, error) { return w.look(ctx, cfg) }
				w.expect(w.apply(w.applier(), cleared), "delete Certificate/web-7f3: later", "retire Secret/web-7f3: later", "delete Secret/left-7f3: later")
				w.is("there", w.crtRef("web-7f3"))
				w.is("marked", w.secretRef("left-7f3"))
				w.is("unmarked", w.secretRef("web-7f3"))
				if path != "/api/v1/pods" {
					return
				}
				w.quiet = 0
				w.o.Look = func(ctx context.Context) (*inventory.Snapshot, error) { return w.look(ctx, w.c.cfg) }
				w.expect(w.run(), "delete Certificate/web-7f3: done", "retire Secret/web-7f3: done", "delete Secret/left-7f3: done")
			})
		}
	}
}

// Faults of apply's own requests, before and after the API server has acted on them.
func TestAFailedRequestMeansLaterAndIsFinishedThen(t *testing.T) {
	for name, tc := range map[string]struct {
		method, part string
		after        bool // the answer is lost, not the request
		status       string
		gone         bool
	}{
		"read refused":            {method: "GET", part: "/certificates/", status: "later: could not be read"},
		"deletion refused":        {method: "DELETE", part: "/certificates/", status: "later: did not do it"},
		"answer to deletion lost": {method: "DELETE", part: "/certificates/", after: true, status: "later: did not do it", gone: true},
		"journal not readable":    {method: "GET", part: "-certherd/configmaps", status: "later: cannot read the journal"},
		"journal not writable":    {method: "POST", part: "-certherd/configmaps", status: "later: nothing is done that is not in the journal"},
		"answer of journal lost":  {method: "POST", part: "-certherd/configmaps", after: true, status: "later: nothing is done that is not in the journal"},
		"closing the batch fails": {method: "PUT", part: "-certherd/configmaps", status: "done", gone: true},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.certificate("web-7f3")
			cleared := w.plan()
			cfg := w.faulty(func(r *http.Request, next http.RoundTripper) (*http.Response, error) {
				if r.Method != tc.method || !strings.Contains(r.URL.Path, tc.part) {
					return next.RoundTrip(r)
				}
				if tc.after {
					resp, err := next.RoundTrip(r)
					if err != nil {
						return nil, err
					}
					resp.Body.Close()
					return nil, errors.New("connection reset by peer")
				}
				return refusal(r, 500, metav1.StatusReasonInternalError), nil
			})
			a, err := apply.New(cfg, w.o)
			if err != nil {
				t.Fatal(err)
			}
			w.expect(w.apply(a, cleared), "delete Certificate/web-7f3: "+tc.status)
			if tc.gone {
				w.is("gone", w.crtRef("web-7f3"))
			} else {
				w.is("there", w.crtRef("web-7f3"))
			}
			w.run()
			w.is("gone", w.crtRef("web-7f3"))
			w.is("marked", w.secretRef("web-7f3"))
			done := 0
			for _, e := range w.entries() {
				if e.State == apply.Intended {
					t.Errorf("still open: %+v", e)
				}
				if e.Action == plan.Delete && e.State == apply.Carried {
					done++
				}
			}
			if done != 1 {
				t.Errorf("%d deletions in the journal", done)
			}
		})
	}
}

func TestAStaleLookIsNotActedOn(t *testing.T) {
	for name, by := range map[string]time.Duration{"forward": time.Hour, "back": -time.Hour} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.certificate("web-7f3")
			fake := clocktesting.NewFakeClock(time.Now())
			w.o.Clock, w.o.MaxSkew = fake, 0
			cleared, a := w.plan(), w.applier()
			a.OnFault(func(p string) {
				if p == "07 intent stored" { // as if the process had been stopped here
					fake.SetTime(fake.Now().Add(by))
				}
			})
			w.expect(w.apply(a, cleared), "delete Certificate/web-7f3: later: old by now")
			w.is("there", w.crtRef("web-7f3"))
		})
	}
}

func TestARoundThatEndsPutsOffTheRest(t *testing.T) {
	for _, point := range []string{"01 begun", "05 looked", "06 checked", "07 intent stored"} {
		w := newWorld(t)
		w.certificate("web-7f3")
		cleared, a := w.plan(), w.applier()
		ctx, cancel := context.WithCancelCause(w.ctx)
		w.ctx = ctx
		a.OnFault(func(p string) {
			if p == point {
				cancel(errors.New("the lease is lost"))
			}
		})
		w.expect(w.apply(a, cleared), "delete Certificate/web-7f3: later")
		w.ctx = context.Background()
		w.is("there", w.crtRef("web-7f3"))
	}
}

func TestOneOfTwoThatBelieveToLeadDoesNothing(t *testing.T) {
	w := newWorld(t)
	w.certificate("first")
	w.run() // so that there is a journal
	w.certificate("web-7f3")
	cleared, old := w.plan(), w.applier()
	old.OnFault(func(p string) {
		if p == "06 checked" { // stopped here; meanwhile another one leads
			w.secret("other", "gone", "other.example.com")
			w.run()
		}
	})
	got := w.apply(old, cleared)
	if o := got["delete Certificate/"+w.ns+"/web-7f3"]; o.Status == apply.Done {
		t.Errorf("the old leader has written: %+v", o)
	}
	n := 0
	for _, e := range w.entries() {
		if e.Object.Name == "web-7f3" && e.Action == plan.Delete && e.State == apply.Carried {
			n++
		}
	}
	if n != 1 {
		t.Errorf("web-7f3 was deleted %d times", n)
	}
}

func TestStepsThatAreNotCarriedOutYetBeginNothing(t *testing.T) {
	w := newWorld(t)
	w.certificate("web-7f3")
	s, err := w.look(w.ctx, w.c.cfg)
	if err != nil {
		t.Fatal(err)
	}
	x := s.Certificate(w.crtRef("web-7f3"))
	unused := plan.Finding{Reason: plan.OrphanedCertificate, Object: x.Ref, Verdict: inventory.Unused}
	first := plan.Step{Action: plan.Delete, Object: x.Ref, If: x.Version}
	ingress := inventory.Ref{Group: inventory.GroupNetworking, Kind: "Ingress", Namespace: w.ns, Name: "i"}
	for name, last := range map[string]plan.Step{
		"switch":                           {Action: plan.Switch, Object: ingress, Move: &plan.Move{From: x.Secret, To: x.Secret}},
		"issue":                            {Action: plan.Issue, Object: w.crtRef("wild")},
		"await":                            {Action: plan.Await, Object: w.crtRef("wild")},
		"delete":                           {Action: plan.Delete, Object: ingress, If: x.Version},
		"retire":                           {Action: plan.Retire, Object: x.Ref, If: x.Version},
		"without the state that it is for": {Action: plan.Delete, Object: x.Secret},
	} {
		t.Run(name, func(t *testing.T) {
			w.t = t
			p := plan.Plan{Changes: []plan.Change{{ID: "x", Why: &unused, Steps: []plan.Step{first, last}}}}
			cleared, held := enforce.Decide(p, s, s.Taken)
			if len(held) > 0 {
				t.Fatal(held[0].Why)
			}
			for _, o := range w.apply(w.applier(), cleared) {
				if o.Status != apply.NotCarriedOut || !strings.Contains(o.Why, string(last.Action)) {
					t.Errorf("%s %s: %s %s", o.Action(), o.Object(), o.Status, o.Why)
				}
			}
			w.is("there", w.crtRef("web-7f3"))
		})
	}
}

func TestNothingClearedDoesNothing(t *testing.T) {
	w := newWorld(t)
	w.certificate("web-7f3")
	if out := w.applier().Run(w.ctx, gate.Cleared{}); len(out) > 0 {
		t.Errorf("outcomes %+v", out)
	}
	w.is("there", w.crtRef("web-7f3"))
}

func TestWhoIsAskedBeforeEachBatchCanPutItOff(t *testing.T) {
	w := newWorld(t)
	w.certificate("web-7f3")
	batches := 0
	w.o.Before = func(context.Context) error {
		if batches++; batches > 1 {
			return errors.New("the gateway rejects its listeners")
		}
		return nil
	}
	w.expect(w.run(), "delete Certificate/web-7f3: done", "retire Secret/web-7f3: later: rejects")
	w.is("unmarked", w.secretRef("web-7f3"))
}

func TestOptOutsSinceThePlanHold(t *testing.T) {
	w := newWorld(t)
	w.certificate("web-7f3")
	cleared, a := w.plan(), w.applier()
	ns, err := w.c.core.CoreV1().Namespaces().Get(w.ctx, w.ns, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	ns.Annotations = map[string]string{inventory.IgnoreAnnotation: "true"}
	if _, err := w.c.core.CoreV1().Namespaces().Update(w.ctx, ns, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	w.expect(w.apply(a, cleared), "delete Certificate/web-7f3: dropped: opted out")
	w.is("there", w.crtRef("web-7f3"))
}

// pacer is one that keeps its State in memory.
type pacer struct {
	clock   clock.PassiveClock
	budgets batch.Budgets
	state   batch.State
}

func (p *pacer) seen(items []batch.Item) []batch.Item {
	out := slices.Clone(items)
	for i := range out {
		out[i].Gateways = []inventory.Ref{{}}
	}
	return out
}

func (p *pacer) Forecast(_ context.Context, items []batch.Item) ([]batch.Held, error) {
	going, held, _ := batch.Next(p.clock.Now(), p.seen(items), p.state, p.budgets)
	var out []batch.Held
	for _, g := range going {
		out = append(out, batch.Held{Item: g, Until: p.clock.Now()})
	}
	return append(out, held...), nil
}

func (p *pacer) Ask(_ context.Context, items []batch.Item) (going []batch.Item, held []batch.Held, err error) {
	going, held, p.state = batch.Next(p.clock.Now(), p.seen(items), p.state, p.budgets)
	return going, held, nil
}

func TestWhatGatewaysSeeIsPaced(t *testing.T) {
	const secrets, gap = 12, 12 * time.Second
	w := newWorld(t)
	for i := range secrets {
		if i%2 == 0 {
			w.due(fmt.Sprintf("left-%d", i))
		} else {
			w.secret(fmt.Sprintf("left-%d", i), "gone", "x.example.com")
		}
	}
	fake := clocktesting.NewFakeClock(time.Now().Add(time.Second))
	p := &pacer{clock: fake, budgets: batch.Budgets{Else: batch.Budget{Updates: 5, Period: time.Minute, Gap: gap, Largest: 1}}}
	w.o.Clock, w.o.Pace, w.o.MaxSkew = fake, p, 0
	cleared, a := w.plan(), w.applier()
	var writes []time.Time
	looks := 0
	a.OnFault(func(p string) {
		switch p {
		case "09 written":
			writes = append(writes, fake.Now())
		case "05 looked":
			looks++
		}
	})
	ended := make(chan struct{})
	go func() {
		for {
			select {
			case <-ended:
				return
			default:
			}
			if fake.HasWaiters() {
				fake.Step(time.Second)
			}
			time.Sleep(time.Millisecond)
		}
	}()
	w.apply(a, cleared)
	close(ended)
	if len(writes) != secrets {
		t.Fatalf("%d writes", len(writes))
	}
	for i := 1; i < len(writes); i++ {
		if apart := writes[i].Sub(writes[i-1]); apart < gap {
			t.Errorf("write %d comes %s after the one before", i, apart)
		}
	}
	// Each look is for as many as can be written to while it is fresh.
	if looks > secrets/2+1 {
		t.Errorf("%d looks for %d Secrets", looks, secrets)
	}
}

// TestWhatHasToWaitForLongIsForALaterRound: a round does not wait for a gateway longer
// than its patience, and says until when the rest is held.
func TestWhatHasToWaitForLongIsForALaterRound(t *testing.T) {
	w := newWorld(t)
	w.due("left-a")
	w.due("left-b")
	p := &pacer{clock: clock.RealClock{}, budgets: batch.Budgets{Else: batch.Budget{Updates: 1, Period: 24 * time.Hour, Largest: 1}}}
	w.o.Pace = p
	w.expect(w.apply(w.applier(), w.plan()), "delete Secret/left-a: done", "delete Secret/left-b: later: held until 20")
	if len(p.state.Sent) != 1 {
		t.Errorf("%d updates were spent", len(p.state.Sent))
	}
}

func TestRequestsWithoutAnOwnerGo(t *testing.T) {
	w := newWorld(t)
	old := metav1.NewTime(time.Now().Add(-48 * time.Hour)).UTC().Format(time.RFC3339)
	w.create(`
apiVersion: cert-manager.io/v1
kind: CertificateRequest
metadata: {name: left-7f3}
spec: {request: eA==, issuerRef: {name: ca}}
status: {conditions: [{type: Ready, status: "True", reason: Issued, lastTransitionTime: "` + old + `"}]}
---
apiVersion: cert-manager.io/v1
kind: CertificateRequest
metadata: {name: named}
spec: {request: eA==, issuerRef: {name: ca}}
status: {conditions: [{type: Ready, status: "True", reason: Issued, lastTransitionTime: "` + old + `"}]}`)
	cleared := w.plan()
	if err := w.label(inventory.Ref{Group: inventory.GroupCertManager, Kind: "CertificateRequest", Namespace: w.ns, Name: "named"}, "x"); err != nil {
		t.Fatal(err)
	}
	w.expect(w.apply(w.applier(), cleared), "delete CertificateRequest/left-7f3: done", "delete CertificateRequest/named: dropped")
}

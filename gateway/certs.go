package gateway

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/certherd/certherd/cost"
	"github.com/certherd/certherd/inventory"
)

// certsPath is where Envoy tells its certificates, and statsPath where its
// statistics; Kourier's listener for statistics has both.
const (
	certsPath = "/certs"
	statsPath = "/stats/prometheus"
)

// Certificates are those that the Envoys have loaded, and what could not be read,
// sorted. Of several Envoys each that has one loaded most often counts: replicas of a
// gateway have the same.
func (r *Reader) Certificates(ctx context.Context) (loaded []cost.Loaded, unread []string) {
	var mu sync.Mutex
	var all [][]cost.Loaded
	say := func(format string, a ...any) {
		mu.Lock()
		defer mu.Unlock()
		unread = append(unread, fmt.Sprintf(format, a...))
	}
	var parts sync.WaitGroup
	for name, page := range r.find(ctx, say) {
		parts.Go(func() {
			l, err := r.certs(ctx, page)
			if err != nil {
				say("certificates of gateway %s: %v", name, err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			all = append(all, l)
		})
	}
	parts.Wait()
	slices.Sort(unread)
	return MostLoaded(all...), unread
}

func (r *Reader) certs(ctx context.Context, page string) ([]cost.Loaded, error) {
	u, err := url.Parse(page)
	if err != nil {
		return nil, err
	}
	base, ok := strings.CutSuffix(u.Path, statsPath)
	if !ok {
		return nil, fmt.Errorf("its page does not end in %s, so that nobody knows where %s is", statsPath, certsPath)
	}
	u.Path, u.RawQuery = base+certsPath, ""
	ctx, cancel := context.WithTimeout(ctx, r.o.Timeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	response, err := r.http.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s says %s", certsPath, response.Status)
	}
	return ParseCertificates(io.LimitReader(response.Body, pageLimit))
}

// ParseCertificates reads what Envoy's admin interface answers to GET /certs
// (envoy/admin/v3/certs.proto). Of each chain the first certificate counts.
func ParseCertificates(in io.Reader) ([]cost.Loaded, error) {
	type details struct {
		Serial string `json:"serial_number"`
		Names  []struct {
			DNS string `json:"dns"`
		} `json:"subject_alt_names"`
		NotAfter time.Time `json:"expiration_time"`
	}
	var page struct {
		Certificates *[]struct {
			Chain []details `json:"cert_chain"`
		} `json:"certificates"`
	}
	if err := json.NewDecoder(in).Decode(&page); err != nil {
		return nil, fmt.Errorf("this is no answer of Envoy to GET %s: %w", certsPath, err)
	}
	if page.Certificates == nil {
		return nil, fmt.Errorf("this is no answer of Envoy to GET %s: it has no certificates", certsPath)
	}
	var out []cost.Loaded
	at := map[string]int{}
	for _, c := range *page.Certificates {
		if len(c.Chain) == 0 {
			continue
		}
		d := c.Chain[0]
		serial := canonicalSerial(d.Serial)
		if i, ok := at[serial]; ok {
			out[i].Copies++
			continue
		}
		at[serial] = len(out)
		l := cost.Loaded{Serial: serial, NotAfter: d.NotAfter, Copies: 1}
		for _, n := range d.Names {
			if n.DNS != "" {
				l.DNS = append(l.DNS, inventory.CanonicalName(n.DNS))
			}
		}
		slices.Sort(l.DNS)
		l.DNS = slices.Compact(l.DNS)
		out = append(out, l)
	}
	return out, nil
}

func canonicalSerial(hex string) string {
	hex = strings.TrimLeft(strings.ToLower(strings.ReplaceAll(hex, ":", "")), "0")
	if hex == "" {
		return "0"
	}
	return hex
}

// MostLoaded joins what several Envoys have loaded, as Certificates says.
func MostLoaded(lists ...[]cost.Loaded) []cost.Loaded {
	most := map[string]cost.Loaded{}
	for _, list := range lists {
		for _, l := range list {
			if l.Copies > most[l.Serial].Copies {
				most[l.Serial] = l
			}
		}
	}
	out := make([]cost.Loaded, 0, len(most))
	for _, l := range most {
		out = append(out, l)
	}
	slices.SortFunc(out, func(a, b cost.Loaded) int { return strings.Compare(a.Serial, b.Serial) })
	return out
}

// Measured is what the Envoys of a Reading say of their memory, to be completed with
// the number of certificates that they have loaded.
func (now Reading) Measured() cost.Measured {
	out := cost.Measured{Envoys: len(now.Envoys)}
	for _, e := range now.Envoys {
		allocated := e.Memory.Allocated / (1 << 20)
		rest := e.Listeners.AtRest()
		switch {
		case rest && !out.AtRest:
			out.AtRest, out.AllocatedMiB = true, allocated
		case rest == out.AtRest:
			out.AllocatedMiB = max(out.AllocatedMiB, allocated)
		}
		out.ResidentMiB = max(out.ResidentMiB, e.Memory.Physical/(1<<20))
	}
	return out
}

// Serials collects the serial numbers of certificates from what a look reads: the
// newest CertificateRequest of each Certificate, and Secrets of dumps that have
// their certificate. The zero Serials is ready for use.
type Serials struct {
	requests map[inventory.Ref]issued // by Certificate
	secrets  map[inventory.Ref]string
}

type issued struct {
	revision int
	serial   string
}

// Object takes an object in JSON, as the callbacks of looks have it. What tells no
// serial number is passed over.
func (s *Serials) Object(group, _, kind string, doc []byte) {
	secret := group == "" && kind == "Secret"
	if !secret && (group != inventory.GroupCertManager || kind != "CertificateRequest") {
		return
	}
	var o struct {
		Metadata struct {
			Namespace, Name string
			Annotations     map[string]string
		}
		Data struct {
			Certificate []byte `json:"tls.crt"`
		}
		Status struct{ Certificate []byte }
	}
	if json.Unmarshal(doc, &o) != nil {
		return
	}
	chain := o.Status.Certificate
	if secret {
		chain = o.Data.Certificate
	}
	block, _ := pem.Decode(chain)
	if block == nil {
		return
	}
	crt, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return
	}
	serial := canonicalSerial(crt.SerialNumber.Text(16))
	if secret {
		if s.secrets == nil {
			s.secrets = map[inventory.Ref]string{}
		}
		s.secrets[inventory.SecretRef(o.Metadata.Namespace, o.Metadata.Name)] = serial
		return
	}
	if s.requests == nil {
		s.requests = map[inventory.Ref]issued{}
	}
	certificate := inventory.CertificateRef(o.Metadata.Namespace, o.Metadata.Annotations["cert-manager.io/certificate-name"])
	revision, err := strconv.Atoi(o.Metadata.Annotations["cert-manager.io/certificate-revision"])
	if err != nil || revision <= s.requests[certificate].revision {
		return
	}
	s.requests[certificate] = issued{revision, serial}
}

// Of are the serial numbers by Secret. Two Certificates with the same Secret write
// it in turn, so that nobody knows whose it has.
func (s *Serials) Of(snapshot *inventory.Snapshot) map[inventory.Ref]string {
	out := map[inventory.Ref]string{}
	several := map[inventory.Ref]bool{}
	for certificate, x := range s.requests {
		if c := snapshot.Certificate(certificate); c != nil {
			several[c.Secret] = out[c.Secret] != ""
			out[c.Secret] = x.serial
		}
	}
	for secret, yes := range several {
		if yes {
			delete(out, secret)
		}
	}
	for secret, serial := range s.secrets {
		out[secret] = serial
	}
	return out
}

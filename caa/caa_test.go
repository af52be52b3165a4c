package caa

import (
	"context"
	"net"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/certherd/certherd/consolidate"
)

// zone answers from records; what begins with "broken." fails, and long answers
// are cut off over UDP.
type zone struct {
	records []string
	asked   []string
}

func (z *zone) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	a := new(dns.Msg)
	a.SetReply(q)
	name := q.Question[0].Name
	z.asked = append(z.asked, w.LocalAddr().Network()+" "+name)
	if strings.HasPrefix(name, "broken.") {
		a.Rcode = dns.RcodeServerFailure
	}
	for _, r := range z.records {
		if rr, err := dns.NewRR(r); err != nil {
			panic(err)
		} else if rr.Header().Name == name {
			a.Answer = append(a.Answer, rr)
		}
	}
	if strings.HasPrefix(name, "long.") && w.LocalAddr().Network() == "udp" {
		a.Answer, a.Truncated = nil, true
	}
	if len(a.Answer) == 0 && a.Rcode == dns.RcodeSuccess && !a.Truncated {
		a.Rcode = dns.RcodeNameError
	}
	_ = w.WriteMsg(a)
}

func TestLookup(t *testing.T) {
	z := &zone{records: []string{
		`example.test. CAA 0 issue "letsencrypt.org; validationmethods=dns-01"`,
		`example.test. CAA 0 issuewild ";"`,
		`example.test. CAA 0 iodef "mailto:a@example.test"`,
		`own.example.test. CAA 0 ISSUE "CA.example"`,
		`long.example.test. CAA 128 tbs "x"`,
		`www.other.test. CAA 0 issue "x.example"`,
	}}
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", conn.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []*dns.Server{{PacketConn: conn, Handler: z}, {Listener: l, Handler: z}} {
		started := make(chan struct{})
		s.NotifyStartedFunc = func() { close(started) }
		go func() { _ = s.ActivateAndServe() }()
		<-started
		t.Cleanup(func() { _ = s.Shutdown() })
	}
	top := consolidate.CAA{Found: true, Issue: []string{"letsencrypt.org"}, IssueWild: []string{""}}
	want := map[string]consolidate.CAA{
		"example.test":        top,
		"a.b.example.test":    top,
		"own.example.test":    {Found: true, Issue: []string{"ca.example"}},
		"long.example.test":   {Found: true, Critical: []string{"tbs"}},
		"other.test":          {},
		"broken.example.test": {Error: conn.LocalAddr().String() + " answers SERVFAIL"},
	}
	var domains []string
	for d := range want {
		domains = append(domains, d)
	}
	if got := Lookup(t.Context(), conn.LocalAddr().String(), domains); !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
	n := 0
	for _, a := range z.asked {
		if a == "udp example.test." {
			n++
		}
	}
	if n != 1 {
		t.Errorf("asked %d times for one domain: %v", n, z.asked)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	<-ctx.Done()
	if c := Lookup(ctx, conn.LocalAddr().String(), []string{"example.test"})["example.test"]; c.Error == "" {
		t.Errorf("without an answer: %+v", c)
	}
}

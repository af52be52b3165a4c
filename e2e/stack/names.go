package stack

import (
	"fmt"
	"net"
	"os"
	"strings"
	"sync"

	"github.com/miekg/dns"
)

// serveNames runs the stack's name server. Every name has the stack's address.
// TXT records are taken by dynamic updates without a key (RFC 2136, section 2.5),
// which is how cert-manager solves DNS-01 challenges here.
func serveNames() (dns.Handler, error) {
	zone := &zone{txt: map[string][]string{}}
	for _, network := range []string{"udp", "tcp"} {
		listening := make(chan error, 1)
		server := &dns.Server{Addr: private + ":53", Net: network, Handler: zone, NotifyStartedFunc: func() { listening <- nil },
			MsgAcceptFunc: func(header dns.Header) dns.MsgAcceptAction {
				if opcode := int(header.Bits>>11) & 0xF; opcode == dns.OpcodeUpdate {
					return dns.MsgAccept
				}
				return dns.DefaultMsgAcceptFunc(header)
			}}
		go func() { listening <- server.ListenAndServe() }()
		if err := <-listening; err != nil {
			return nil, fmt.Errorf("name server (%s): %w", network, err)
		}
	}
	return zone, nil
}

type zone struct {
	mutex sync.Mutex
	txt   map[string][]string
}

// ServeDNS answers one message.
func (z *zone) ServeDNS(w dns.ResponseWriter, request *dns.Msg) {
	z.mutex.Lock()
	defer z.mutex.Unlock()
	reply := new(dns.Msg).SetReply(request)
	reply.Authoritative = true
	if request.Opcode == dns.OpcodeUpdate {
		z.update(request.Ns)
	} else if len(request.Question) == 1 {
		reply.Answer = z.answer(request.Question[0])
	}
	if err := w.WriteMsg(reply); err != nil {
		fmt.Fprintln(os.Stderr, "name server:", err)
	}
}

func (z *zone) update(records []dns.RR) {
	for _, record := range records {
		txt, ok := record.(*dns.TXT)
		if !ok {
			continue
		}
		name, value := strings.ToLower(txt.Hdr.Name), strings.Join(txt.Txt, "")
		var kept []string
		for _, old := range z.txt[name] {
			if old != value {
				kept = append(kept, old)
			}
		}
		if txt.Hdr.Class == dns.ClassINET { // class NONE deletes
			kept = append(kept, value)
		}
		z.txt[name] = kept
	}
}

func (z *zone) answer(question dns.Question) (answer []dns.RR) {
	header := dns.RR_Header{Name: question.Name, Rrtype: question.Qtype, Class: dns.ClassINET, Ttl: 1}
	switch question.Qtype {
	case dns.TypeA:
		return []dns.RR{&dns.A{Hdr: header, A: net.ParseIP(private)}}
	case dns.TypeTXT:
		for _, value := range z.txt[strings.ToLower(question.Name)] {
			answer = append(answer, &dns.TXT{Hdr: header, Txt: []string{value}})
		}
	case dns.TypeSOA:
		// Zones are two labels deep: example.test is one.
		if dns.CountLabel(question.Name) == 2 {
			answer = append(answer, &dns.SOA{Hdr: header, Ns: "ns." + question.Name, Mbox: "root." + question.Name, Serial: 1, Refresh: 60, Retry: 60, Expire: 60, Minttl: 1})
		}
	case dns.TypeNS:
		if dns.CountLabel(question.Name) == 2 {
			answer = append(answer, &dns.NS{Hdr: header, Ns: "ns." + question.Name})
		}
	}
	return answer
}

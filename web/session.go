package web

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"net"
	"net/http"
	"sync"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
)

const (
	// sessionLife is how long somebody is signed in, if the token holds so long.
	sessionLife = time.Hour
	// sessionChecked is how old the API server's word about somebody may be for
	// looking; for deciding it is asked again each time.
	sessionChecked = 30 * time.Second
	// sessionsKept is the most people who are signed in at once.
	sessionsKept = 1000
)

// session is somebody who has signed in. The token never leaves the process but to
// the API server.
type session struct {
	token string
	ends  time.Time

	mu      sync.Mutex // guards what follows
	user    authenticationv1.UserInfo
	checked time.Time
	notice  *notice // what came of the last decision, until it was shown
}

// notice is what came of a decision.
type notice struct {
	Bad  bool
	Text string
}

// sessions are kept in memory alone: a new process knows nobody.
type sessions struct {
	cookie string // its name, another one in each process

	mu  sync.Mutex
	all map[[sha256.Size]byte]*session
}

func random(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails (crypto/rand)
	return hex.EncodeToString(b)
}

func newSessions() *sessions {
	// Cookies know no ports: two replicas behind two port-forwards are told apart.
	return &sessions{cookie: "certherd-" + random(4), all: map[[sha256.Size]byte]*session{}}
}

// begin signs somebody in, and sets the cookie.
func (s *sessions) begin(w http.ResponseWriter, r *http.Request, user authenticationv1.UserInfo, token string, now time.Time) {
	x := &session{user: user, token: token, ends: now.Add(sessionLife), checked: now}
	if e := expiry(token); !e.IsZero() && e.Before(x.ends) {
		x.ends = e
	}
	id := random(32)
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, old := range s.all {
		if !now.Before(old.ends) || len(s.all) >= sessionsKept {
			delete(s.all, k)
		}
	}
	s.all[sha256.Sum256([]byte(id))] = x
	http.SetCookie(w, &http.Cookie{Name: s.cookie, Value: id, Path: "/", MaxAge: max(1, int(x.ends.Sub(now).Seconds())),
		HttpOnly: true, Secure: encrypted(r), SameSite: http.SameSiteStrictMode})
}

func (s *sessions) of(r *http.Request, now time.Time) *session {
	c, err := r.Cookie(s.cookie)
	if err != nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	x := s.all[sha256.Sum256([]byte(c.Value))]
	if x == nil || !now.Before(x.ends) {
		return nil
	}
	return x
}

// forget ends a session whose token is good no more.
func (s *sessions) forget(x *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.DeleteFunc(s.all, func(_ [sha256.Size]byte, y *session) bool { return x == y })
}

func (s *sessions) end(w http.ResponseWriter, r *http.Request) {
	if c, err := r.Cookie(s.cookie); err == nil {
		s.mu.Lock()
		delete(s.all, sha256.Sum256([]byte(c.Value)))
		s.mu.Unlock()
	}
	http.SetCookie(w, &http.Cookie{Name: s.cookie, Path: "/", MaxAge: -1, HttpOnly: true, Secure: encrypted(r), SameSite: http.SameSiteStrictMode})
}

// encrypted reports whether the browser speaks TLS, to certherd or to a proxy before
// it, which says so.
func encrypted(r *http.Request) bool {
	return r.TLS != nil || r.Header.Get("X-Forwarded-Proto") == "https"
}

// private reports whether a token may be sent on this way: encrypted, or from within
// the Pod, as kubectl port-forward does, whose own way is encrypted.
func private(r *http.Request) bool {
	ip := net.ParseIP(address(r))
	return encrypted(r) || ip != nil && ip.IsLoopback()
}

// address is where a request comes from, without the port.
func address(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}

// Somebody whom the API server did not know may try again at once so often, and once
// more each time that tryAgain has passed.
const (
	tries     = 10
	tryAgain  = 10 * time.Second
	addresses = 1000
)

// failures count sign-ins that failed, by address.
type failures struct {
	mu  sync.Mutex
	all map[string]failed
}

type failed struct {
	n    int
	last time.Time
}

func (f failed) at(now time.Time) failed {
	if gone := int(now.Sub(f.last) / tryAgain); gone > 0 {
		f.n, f.last = max(0, f.n-gone), f.last.Add(time.Duration(gone)*tryAgain)
	}
	return f
}

// begin counts a try as failed, and reports whether it may be made.
func (f *failures) begin(from string, now time.Time) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.all == nil {
		f.all = map[string]failed{}
	}
	x, known := f.all[from]
	if !known && len(f.all) >= addresses {
		for a, y := range f.all {
			if y.at(now).n == 0 {
				delete(f.all, a)
			}
		}
		if len(f.all) >= addresses {
			return false
		}
	}
	if !known || x.at(now).n == 0 {
		x = failed{last: now}
	}
	if x = x.at(now); x.n >= tries {
		return false
	}
	x.n++
	f.all[from] = x
	return true
}

// well takes back what begin has counted.
func (f *failures) well(from string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if x := f.all[from]; x.n > 0 {
		x.n--
		f.all[from] = x
	}
}

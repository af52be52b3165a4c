package service

import (
	"context"
	"math"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/certherd/certherd/carry/live"
	"github.com/certherd/certherd/config"
	"github.com/certherd/certherd/gateway"
)

// watchEvery is the least time between two readings of gateways beside the rounds.
const watchEvery = 5 * time.Second

// rejections tells since when gateways reject updates, while consolidations are
// carried out. Envoy counts what it rejects, and Kourier offers that again at once,
// so that the count rises as long as it lasts; a single rejection is forgotten. It
// is for one goroutine.
type rejections struct {
	k      *keeper
	c      config.Config
	reader *gateway.Reader

	read        time.Time       // when gateways were last read
	last        gateway.Reading // its Time is zero before the first
	compared    bool            // two Readings were
	since, rose time.Time       // the first and the last rise of those that follow each other
	what        string
}

func (k *keeper) watchRejections(c config.Config) (*rejections, error) {
	o := c.GatewayOptions()
	o.EnvoysOnly = true // carry looks at its consumers itself
	reader, err := gateway.New(k.o.Cluster, o)
	return &rejections{k: k, c: c, reader: reader}, err
}

// rejecting is for live.Options.
func (r *rejections) rejecting(ctx context.Context) (time.Time, string) {
	if time.Since(r.read) >= watchEvery {
		now := r.reader.Read(ctx)
		if ctx.Err() != nil {
			return time.Time{}, "" // what failed then says nothing
		}
		r.read = time.Now()
		r.k.unread.Store(int64(len(now.Unread)))
		if unread := strings.Join(now.Unread, "; "); unread != "" && unread != strings.Join(r.last.Unread, "; ") {
			r.k.log.Warn("gateways not read", zap.Strings("unread", now.Unread), zap.String("then", string(r.c.Breaker.Unreadable)))
		}
		r.take(now)
	}
	return r.at(time.Now())
}

// take compares a Reading with the one before.
func (r *rejections) take(now gateway.Reading) {
	before := r.last
	r.last = now
	if len(now.Unread) > 0 {
		// What cannot be read for a while is compared with what it was before.
		r.last.Envoys = now.LastOf(before)
	}
	if before.Time.IsZero() {
		return
	}
	r.compared = true
	worse := now.Worse(before, gateway.Limits{Rejected: r.c.Breaker.Rejected, Failed: 1, LeastFailed: math.MaxInt, Unready: math.MaxInt})
	if len(worse) == 0 {
		return
	}
	if since, _ := r.at(now.Time); since.IsZero() {
		r.since = now.Time
	}
	r.rose, r.what = now.Time, strings.Join(worse, "; ")
}

// at is since when gateways reject, and what; zero once they have rejected nothing
// for as long as they may, which is consolidate.patience.
func (r *rejections) at(now time.Time) (time.Time, string) {
	// Readings may be as far apart as Passes are.
	if r.since.IsZero() || now.Sub(r.rose) >= max(time.Duration(r.c.Consolidate.Patience), 3*live.Slow) {
		return time.Time{}, ""
	}
	return r.since, r.what
}

// hold says why nothing may be done to gateways, empty if nothing speaks against
// it; switching is true for what would be switched next.
func (r *rejections) hold(switching bool) string {
	switch {
	case len(r.last.Unread) > 0 && r.c.Breaker.Unreadable != config.IgnoreUnreadable:
		return errUnreadable.Error() + ", and what is done to them would not be seen: " + strings.Join(r.last.Unread, "; ")
	case switching && !r.compared:
		return "gateways are being read, to be compared with afterwards"
	}
	return ""
}

// stopsConsolidations says why none may begin, nor switch, whatever the
// configuration: everything is stopped. What cannot be read stops them, too.
func (k *keeper) stopsConsolidations(ctx context.Context) string {
	consent, err := k.approvals(k.client).Read(ctx)
	switch {
	case err != nil:
		return "whether everything is stopped could not be read: " + err.Error()
	case consent.Stopped != nil:
		return consent.Stopped.String()
	case k.stopped.Load():
		return "everything is stopped: look at the gateways, then `certherd approve --resume`"
	}
	return ""
}

package renew

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// Annotation on a Certificate asks for it to be issued anew at once, by a Word, such
// as "2026-01-31T12:00:00Z key compromised".
const Annotation = "certherd.dev/renew"

// Word is what a person says of one certificate: what was asked for before Since is
// not to be used any more. Once there is a newer request for it the Word is kept, so
// that it may stay where it is: nothing is issued twice for it.
type Word struct {
	Since time.Time
	Why   string
}

// Say is the Word that what was asked for until now is not to be used any more. Requests
// have the second that they were made in, so that it begins with the next one.
func Say(now time.Time, why string) Word {
	return Word{now.Truncate(time.Second).Add(time.Second), why}
}

// String is the value of Annotation.
func (w Word) String() string {
	return strings.TrimSpace(w.Since.UTC().Format(time.RFC3339) + " " + w.Why)
}

// ParseWord reads the value of Annotation: a time of RFC 3339, and then why.
func ParseWord(text string) (Word, error) {
	at, why, _ := strings.Cut(strings.TrimSpace(text), " ")
	t, err := time.Parse(time.RFC3339, at)
	if err != nil {
		return Word{}, fmt.Errorf("%s has to begin with the time since when a new certificate is wanted, such as %q", Annotation, Word{Since: time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC), Why: "key compromised"})
	}
	return Word{t, strings.TrimSpace(why)}, nil
}

// Standing is how a certificate stands that a Word is about.
type Standing struct {
	Ignored bool // it is opted out
	Issuing bool
	// Requests are when it was asked for.
	Requests []time.Time
}

// Why a Word is not acted upon now.
var (
	ErrKept    = errors.New("it was asked for since")
	ErrIgnored = errors.New("it is opted out")
	ErrIssuing = errors.New("it is being issued already")
	ErrFuture  = errors.New("the time that it names has not come yet")
)

// Due returns nil if a certificate is to be issued anew now, by the API server's
// clock, because of a Word.
func (w Word) Due(x Standing, now time.Time) error {
	for _, t := range x.Requests {
		if !t.Before(w.Since.Truncate(time.Second)) {
			return ErrKept
		}
	}
	switch {
	case x.Ignored:
		return ErrIgnored
	case x.Issuing:
		return ErrIssuing
	case w.Since.After(now):
		// A request that is made now would be older than the word, and so the next one, too.
		return ErrFuture
	}
	return nil
}

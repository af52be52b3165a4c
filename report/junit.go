package report

import (
	"encoding/xml"
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf8"
)

// The elements and attributes are those that the Jenkins and GitLab readers of
// JUnit XML know. There are no times: a report takes none.
type (
	junitSuites struct {
		XMLName  xml.Name     `xml:"testsuites"`
		Name     string       `xml:"name,attr"`
		Tests    int          `xml:"tests,attr"`
		Failures int          `xml:"failures,attr"`
		Skipped  int          `xml:"skipped,attr"`
		Suites   []junitSuite `xml:"testsuite"`
	}
	junitSuite struct {
		Name      string      `xml:"name,attr"`
		Tests     int         `xml:"tests,attr"`
		Failures  int         `xml:"failures,attr"`
		Errors    int         `xml:"errors,attr"`
		Skipped   int         `xml:"skipped,attr"`
		Timestamp string      `xml:"timestamp,attr"`
		Cases     []junitCase `xml:"testcase"`
	}
	junitCase struct {
		Name      string        `xml:"name,attr"`
		ClassName string        `xml:"classname,attr"`
		Failure   *junitOutcome `xml:"failure,omitempty"`
		Skipped   *junitOutcome `xml:"skipped,omitempty"`
	}
	junitOutcome struct {
		Message string `xml:"message,attr"`
		Type    string `xml:"type,attr,omitempty"`
		Text    string `xml:",chardata"`
	}
)

// writeJUnit writes one test suite a reason and one failed test case a
// finding. A rule for which nothing was found is one passed test case, so that
// a CI system shows that it was looked at. A gap is a skipped test case.
func writeJUnit(w io.Writer, r *Report, o Options) error {
	all := junitSuites{Name: "certherd audit"}
	add := func(name string, cases []junitCase) {
		s := junitSuite{Name: name, Tests: len(cases), Timestamp: r.TakenAt.Format("2006-01-02T15:04:05"), Cases: cases}
		for _, c := range cases {
			if c.Failure != nil {
				s.Failures++
			}
			if c.Skipped != nil {
				s.Skipped++
			}
		}
		all.Suites = append(all.Suites, s)
		all.Tests += s.Tests
		all.Failures += s.Failures
		all.Skipped += s.Skipped
	}
	for _, g := range groups(r, o.Rules) {
		class := "certherd." + xmlText(g.Rule.Reason)
		var cases []junitCase
		for _, f := range g.Findings {
			kind := f.Verdict
			if kind == "" {
				kind = g.Rule.Level
			}
			cases = append(cases, junitCase{
				Name: xmlText(f.where()), ClassName: class,
				Failure: &junitOutcome{Message: xmlText(f.Message), Type: xmlText(kind), Text: xmlText(plainDetails(f))},
			})
		}
		if len(cases) == 0 {
			cases = []junitCase{{Name: "no findings", ClassName: class}}
		}
		add(xmlText(g.Rule.Reason), cases)
	}
	if len(r.Gaps) > 0 {
		var cases []junitCase
		for _, g := range r.Gaps {
			cases = append(cases, junitCase{Name: xmlText(in(g.Cluster, g.Kind)), ClassName: "certherd.gaps",
				Skipped: &junitOutcome{Message: xmlText("not read in full: " + g.Reason + ", " + gapSentence)}})
		}
		add("gaps", cases)
	}
	if len(all.Suites) == 0 {
		add("audit", []junitCase{{Name: "no findings", ClassName: "certherd.audit"}})
	}
	b, err := xml.MarshalIndent(all, "", "  ")
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "%s%s\n", xml.Header, b)
	return err
}

// plainDetails says all that a finding holds, in lines of plain text.
func plainDetails(f Finding) string {
	var b strings.Builder
	fmt.Fprintln(&b, f.Message)
	if text := loadedText(f.Loaded); text != "" {
		fmt.Fprintf(&b, "gateway: %s\n", text)
	}
	for _, e := range f.Evidence {
		fmt.Fprintf(&b, "%s: %s %s\n", e.How, e.From, e.Field)
	}
	for _, o := range f.Related {
		fmt.Fprintf(&b, "related: %s\n", o)
	}
	return b.String()
}

// xmlText shows characters that XML 1.0 has no way to write (section 2.2 of
// its specification) by their code, where encoding/xml would drop them for
// U+FFFD.
func xmlText(s string) string {
	if !strings.ContainsFunc(s, notXML) {
		return s
	}
	var b strings.Builder
	for _, c := range s {
		if notXML(c) {
			fmt.Fprintf(&b, `\u%04x`, c)
		} else {
			b.WriteRune(c)
		}
	}
	return b.String()
}

func notXML(c rune) bool {
	return c == utf8.RuneError || c == 0xFFFE || c == 0xFFFF || unicode.IsControl(c) && c != '\t' && c != '\n' && c != '\r'
}

package report

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"strings"
	"time"
)

// The parts of SARIF 2.1.0 (OASIS, errata 01) that a report needs.
type (
	sarifLog struct {
		Schema  string     `json:"$schema"`
		Version string     `json:"version"`
		Runs    []sarifRun `json:"runs"`
	}
	sarifRun struct {
		Tool        sarifTool         `json:"tool"`
		Automation  sarifAutomation   `json:"automationDetails"`
		Invocations []sarifInvocation `json:"invocations"`
		Results     []sarifResult     `json:"results"`
		ColumnKind  string            `json:"columnKind"`
	}
	sarifTool struct {
		Driver sarifDriver `json:"driver"`
	}
	sarifDriver struct {
		Name           string      `json:"name"`
		Version        string      `json:"version,omitempty"`
		InformationURI string      `json:"informationUri"`
		Rules          []sarifRule `json:"rules"`
	}
	sarifAutomation struct {
		ID string `json:"id"`
	}
	sarifRule struct {
		ID        string       `json:"id"`
		Name      string       `json:"name"`
		Short     sarifText    `json:"shortDescription"`
		Help      *sarifText   `json:"help,omitempty"`
		HelpURI   string       `json:"helpUri,omitempty"`
		Configure sarifDefault `json:"defaultConfiguration"`
	}
	sarifText struct {
		Text string `json:"text"`
	}
	sarifDefault struct {
		Level string `json:"level"`
	}
	sarifInvocation struct {
		EndTime       string              `json:"endTimeUtc"`
		Successful    bool                `json:"executionSuccessful"`
		Notifications []sarifNotification `json:"toolExecutionNotifications"`
	}
	sarifNotification struct {
		Level   string    `json:"level"`
		Message sarifText `json:"message"`
	}
	sarifResult struct {
		RuleID       string            `json:"ruleId"`
		RuleIndex    int               `json:"ruleIndex"`
		Level        string            `json:"level"`
		Message      sarifText         `json:"message"`
		Locations    []sarifLocation   `json:"locations"`
		Related      []sarifLocation   `json:"relatedLocations,omitempty"`
		Fingerprints map[string]string `json:"partialFingerprints"`
		Properties   sarifProperties   `json:"properties"`
	}
	sarifLocation struct {
		ID       *int           `json:"id,omitempty"`
		Physical sarifPhysical  `json:"physicalLocation"`
		Logical  []sarifLogical `json:"logicalLocations"`
		Message  *sarifText     `json:"message,omitempty"`
	}
	sarifPhysical struct {
		Artifact sarifArtifact `json:"artifactLocation"`
		Region   sarifRegion   `json:"region"`
	}
	sarifArtifact struct {
		URI string `json:"uri"`
	}
	sarifRegion struct {
		StartLine int `json:"startLine"`
	}
	sarifLogical struct {
		Name string `json:"name"`
		Full string `json:"fullyQualifiedName"`
		Kind string `json:"kind"`
	}
	sarifProperties struct {
		Verdict string `json:"verdict,omitempty"`
		Group   string `json:"group,omitempty"`
		Loaded  *int   `json:"loaded,omitempty"`
	}
)

// writeSARIF writes a SARIF 2.1.0 log with one run. The true location of a
// result is its logical one, the object. A cluster has no files, but code
// scanning services take only results that have one, so each object also gets
// a made-up path, the same in every run: kubernetes/namespace/kind/name.yaml.
// What was not read in full is a notification of the run.
func writeSARIF(w io.Writer, r *Report, o Options) error {
	run := sarifRun{
		Tool: sarifTool{sarifDriver{Name: "certherd", Version: o.Version,
			InformationURI: "https://github.com/certherd/certherd", Rules: []sarifRule{}}},
		Automation: sarifAutomation{"certherd/audit"},
		Invocations: []sarifInvocation{{EndTime: r.TakenAt.Format(time.RFC3339), Successful: true,
			Notifications: []sarifNotification{}}},
		Results:    []sarifResult{},
		ColumnKind: "unicodeCodePoints",
	}
	for _, g := range r.Gaps {
		run.Invocations[0].Notifications = append(run.Invocations[0].Notifications, sarifNotification{
			Level: LevelWarning, Message: sarifText{fmt.Sprintf("Not read in full: %s: %s, %s.", in(g.Cluster, g.Kind), g.Reason, gapSentence)}})
	}
	same := map[string]int{}
	for i, g := range groups(r, o.Rules) {
		rule := sarifRule{ID: g.Rule.Reason, Name: g.Rule.Reason, Short: sarifText{g.Rule.Short},
			HelpURI: g.Rule.HelpURI, Configure: sarifDefault{g.Rule.Level}}
		if rule.Short.Text == "" {
			rule.Short.Text = g.Rule.Reason
		}
		if g.Rule.Help != "" {
			rule.Help = &sarifText{g.Rule.Help}
		}
		run.Tool.Driver.Rules = append(run.Tool.Driver.Rules, rule)
		for _, f := range g.Findings {
			identity := []string{f.Reason, f.Object.Group, f.Object.Kind, f.Object.Namespace, f.Object.Name}
			if f.Cluster != "" {
				identity = append(identity, f.Cluster)
			}
			sum := sha256.Sum256(fmt.Appendf(nil, "%q", identity))
			print := hex.EncodeToString(sum[:8])
			same[print]++
			print = fmt.Sprintf("%s:%d", print, same[print])
			result := sarifResult{
				RuleID: f.Reason, RuleIndex: i, Level: g.Rule.Level,
				Message:   sarifText{sarifEscape(f.Message)},
				Locations: []sarifLocation{sarifPlace(f.Cluster, f.Object)},
				// The first name is the one that GitHub code scanning compares.
				Fingerprints: map[string]string{"primaryLocationLineHash": print, "certherdObject/v1": print},
				Properties:   sarifProperties{Verdict: f.Verdict, Group: f.Object.Group, Loaded: f.Loaded},
			}
			if result.Message.Text == "" {
				result.Message.Text = f.Reason
			}
			add := func(to Ref, text string) {
				id := len(result.Related)
				place := sarifPlace(f.Cluster, to)
				place.ID, place.Message = &id, &sarifText{sarifEscape(text)}
				result.Related = append(result.Related, place)
			}
			for _, e := range f.Evidence {
				add(e.From, e.How+": "+e.From.String()+" "+e.Field)
			}
			for _, to := range f.Related {
				add(to, "related: "+to.String())
			}
			run.Results = append(run.Results, result)
		}
	}
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(sarifLog{
		Schema:  "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json",
		Version: "2.1.0", Runs: []sarifRun{run},
	})
}

// sarifEscape keeps text from being read as a placeholder, which SARIF writes
// in braces (section 3.11.5), or as an embedded link, [text](target) (3.11.6).
func sarifEscape(s string) string {
	s = strings.NewReplacer("{", "{{", "}", "}}").Replace(s)
	if strings.Contains(s, "](") {
		s = strings.NewReplacer("[", `\[`, "]", `\]`).Replace(s)
	}
	return s
}

func sarifPlace(cluster string, o Ref) sarifLocation {
	namespace := o.Namespace
	if namespace == "" {
		// No namespace can have this name: it is not a DNS label.
		namespace = "_cluster"
	}
	root := "kubernetes/"
	if cluster != "" {
		root = "kubernetes/" + uriSegment(cluster) + "/"
	}
	uri := root + uriSegment(namespace) + "/" + uriSegment(strings.ToLower(o.Kind)) + "/" + uriSegment(o.Name) + ".yaml"
	return sarifLocation{
		Physical: sarifPhysical{Artifact: sarifArtifact{uri}, Region: sarifRegion{1}},
		Logical:  []sarifLogical{{Name: o.Name, Full: in(cluster, o.String()), Kind: "resource"}},
	}
}

// uriSegment makes s one segment of a path: never empty, never a step up.
func uriSegment(s string) string {
	if strings.Trim(s, ".") == "" {
		return strings.Repeat("_", max(1, len(s)))
	}
	return url.PathEscape(s)
}

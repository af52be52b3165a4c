package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/certherd/certherd/apply"
	"github.com/certherd/certherd/inventory"
	"github.com/certherd/certherd/plan"
)

func journal() []apply.Entry {
	at := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	later := at.Add(time.Minute)
	return []apply.Entry{
		{ID: "r1/1", Round: "r1", Time: at, Action: plan.Retire, Object: apply.Object(inventory.Ref{Kind: "Secret", Namespace: "shop", Name: "web-tls"}), UID: "u1", State: apply.Carried, Ended: &later},
		{ID: "r1/2", Round: "r1", Time: at, Action: plan.Delete, Object: apply.Object(inventory.CertificateRef("shop", "web")), UID: "u2", State: apply.Intended},
		{ID: "r2/1", Round: "r2", Time: later, Action: plan.Delete, Object: apply.Object(inventory.Ref{Kind: "Secret", Namespace: "shop", Name: "web-tls"}), UID: "u1", State: apply.Intended},
	}
}

// TestHistoryOutputs: what scripts take of the journal.
func TestHistoryOutputs(t *testing.T) {
	write := func(format string, entries []apply.Entry) string {
		t.Helper()
		var b bytes.Buffer
		if err := writeHistory(&b, &output{format: format}, entries, true); err != nil {
			t.Fatalf("-o %s: %v", format, err)
		}
		return b.String()
	}
	var list []apply.Entry
	if err := json.Unmarshal([]byte(write("json", journal())), &list); err != nil || len(list) != 3 || list[2].ID != "r2/1" {
		t.Errorf("%+v, %v", list, err)
	}
	if got := write("json", nil); strings.TrimSpace(got) != "[]" {
		t.Errorf("nothing is %q", got)
	}
	if got, want := write("name", journal()), "secret/web-tls\ncertificate.cert-manager.io/web\n"; got != want {
		t.Errorf("names are %q, want %q", got, want)
	}
	if got, want := write(`jsonpath={range [?(@.action=="delete")]}{.round}/{.object.name} {end}`, journal()), "r1/web r2/web-tls "; strings.TrimSpace(got) != strings.TrimSpace(want) {
		t.Errorf("jsonpath gives %q, want %q", got, want)
	}
	table, wide := write("table", journal()), write("wide", journal())
	if strings.Contains(table, "u1") || strings.Count(table, "\n") != 4 || strings.Count(wide, "u1") != 2 || strings.Count(wide, "\n") != 4 {
		t.Errorf("table:\n%s\nwide:\n%s", table, wide)
	}
}

// TestUntold: --watch tells of an entry when it is new, and when it has changed.
func TestUntold(t *testing.T) {
	told := map[string][]byte{}
	entries := journal()
	for _, want := range []int{3, 0} {
		if got, err := untold(told, entries); err != nil || len(got) != want {
			t.Errorf("%d are told, %v; want %d", len(got), err, want)
		}
	}
	entries[2].State = apply.Carried
	if got, err := untold(told, entries); err != nil || len(got) != 1 || got[0].ID != "r2/1" {
		t.Errorf("%+v is told, %v", got, err)
	}
}

// TestWhatDoesNotGoTogether is said before a cluster is looked for.
func TestWhatDoesNotGoTogether(t *testing.T) {
	for _, x := range []struct {
		want string
		args []string
	}{
		{"-o goes with --list", []string{"approve", "x@y", "-o", "json"}},
		{"--watch goes with --list", []string{"approve", "x@y", "--watch"}},
		{`no format "xml"`, []string{"approve", "--list", "-o", "xml"}},
		{"--every must be", []string{"approve", "--list", "-w", "--every", "1ms"}},
		{`no format "xml"`, []string{"history", "-o", "xml"}},
		{"needs a template", []string{"history", "-o", "jsonpath="}},
		{"--every must be", []string{"history", "-w", "--every", "1ms"}},
		{"does not go with -f", []string{"plan", "-w", "-f", "../../examples"}},
	} {
		out, _, err := executed(t, append(x.args, "--server", "http://127.0.0.1:1")...)
		if err == nil || out != "" || !strings.Contains(err.Error(), x.want) {
			t.Errorf("%v: error %v, output %q, want %q", x.args, err, out, x.want)
		}
	}
}

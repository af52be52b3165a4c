package main

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
)

// TestVersion: what it was built from is there, with the modules.
func TestVersion(t *testing.T) {
	text, _, err := executed(t, "version")
	if err != nil || !strings.HasPrefix(text, "certherd "+version()+" go") || strings.Count(text, "\n") != 1 {
		t.Errorf("%q, %v", text, err)
	}
	text, _, err = executed(t, "version", "-o", "json")
	var b build
	if err != nil || json.Unmarshal([]byte(text), &b) != nil || b.Go == "" || b.Platform == "" {
		t.Fatalf("%s, %v", text, err)
	}
	if !slices.ContainsFunc(b.Modules, func(m module) bool { return m.Path == "k8s.io/client-go" && m.Version != "" }) {
		t.Errorf("client-go is not among %v", b.Modules)
	}
	if _, _, err := executed(t, "version", "-o", "xml"); err == nil || !strings.Contains(err.Error(), `no format "xml"`) {
		t.Errorf("-o xml: %v", err)
	}
}

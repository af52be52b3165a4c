package main

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestFlagsThatCannotWork(t *testing.T) {
	for args, want := range map[string]string{
		"--log-level loud":                  "cannot use --log-level",
		"--listener-updates 0":              "updates must be at least 1",
		"--listen-cert x":                   "--listen-cert and --listen-key are needed",
		"--upstream-cert x":                 "--upstream-ca is needed",
		"--on-demand --sds=false":           "need --sds and --merge",
		"--listen 127.0.0.1:nothing":        "cannot use --listen",
		"dump --address http://127.0.0.1:1": "no relay answers",
	} {
		c := rootCommand()
		c.SetArgs(strings.Fields(args))
		if err := c.Execute(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", args, err, want)
		}
	}
}

func TestDumpPrintsWhatTheRelaySays(t *testing.T) {
	relay := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/dump" {
			http.NotFound(w, r)
			return
		}
		_, _ = w.Write([]byte(`{"ready":true}`))
	}))
	defer relay.Close()
	var out bytes.Buffer
	c := rootCommand()
	c.SetOut(&out)
	c.SetArgs([]string{"dump", "--address", relay.URL})
	if err := c.Execute(); err != nil || out.String() != `{"ready":true}` {
		t.Errorf("%q, %v", out.String(), err)
	}
}

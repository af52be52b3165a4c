package main

import (
	"bytes"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/certherd/certherd/config"
	"github.com/certherd/certherd/controller"
)

// execute runs certherd as a shell would, and returns what it wrote.
func execute(t *testing.T, stdin string, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	var out, errs bytes.Buffer
	root := rootCommand("certherd")
	root.SetArgs(args)
	root.SetIn(strings.NewReader(stdin))
	root.SetOut(&out)
	root.SetErr(&errs)
	err = root.Execute()
	return out.String(), errs.String(), err
}

func write(t *testing.T, name, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestConfigCheck(t *testing.T) {
	good := write(t, "config.yaml", "gc: {mode: enforce}\n")
	if out, errs, err := execute(t, "", "config", "check", "-f", good); err != nil || errs != "" || out != good+" is right: gc enforce, consolidate audit, batch audit\n" {
		t.Errorf("got %q, %q, %v", out, errs, err)
	}

	bad := write(t, "configmap.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: certherd\ndata:\n  config.yaml: |\n    gc:\n      shedule: '@daily'\n      minAge: 7d\n")
	out, errs, err := execute(t, "", "config", "check", "-f", bad)
	want := bad + ":8: gc.shedule: there is no such key; did you mean schedule?\n" +
		bad + ":9: gc.minAge: \"7d\" is no duration, because days are not always equally long: write 168h\n"
	if out != "" || errs != want || err == nil || err.Error() != "there are 2 errors in "+bad {
		t.Errorf("got %q, %v and\n%s\nwant\n%s", out, err, errs, want)
	}

	if _, errs, err := execute(t, "mode: enforce\n", "config", "check", "-f", "-"); errs != "standard input:1: mode: there is no such key here; it belongs to gc, consolidate, batch\n" || err == nil {
		t.Errorf("got %q, %v", errs, err)
	}
	if _, _, err := execute(t, "", "config", "check", "-f", filepath.Join(t.TempDir(), "none")); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("got %v", err)
	}
	if _, _, err := execute(t, "", "config", "check"); err == nil || !strings.Contains(err.Error(), "filename") {
		t.Errorf("got %v", err)
	}
}

func TestConfigExplain(t *testing.T) {
	file := write(t, "config.yaml", "gc: {mode: enforce, schedule: '@daily', windows: [{schedule: '0 22 * * *', duration: 6h}]}\n")
	out, _, err := execute(t, "", "config", "explain", "-f", file, "--at", "2026-11-23T12:00:00Z", "--rounds", "1")
	if want := "  Tue 2026-11-24 00:00 UTC  in 12h  may act, until Tue 2026-11-24 04:00 UTC\n"; err != nil || !strings.Contains(out, want) {
		t.Errorf("got %v and\n%s\nwant\n%s", err, out, want)
	}
	if out, _, err := execute(t, "", "config", "explain"); err != nil || strings.Count(out, "reports\n") != 15 {
		t.Errorf("without a file: %v\n%s", err, out)
	}
	for _, args := range [][]string{{"--at", "tomorrow"}, {"--rounds", "0"}, {"--rounds", "1001"}} {
		if _, _, err := execute(t, "", append([]string{"config", "explain"}, args...)...); err == nil {
			t.Errorf("%v was taken", args)
		}
	}
}

// What `config default` prints is a file that `config check` takes.
func TestConfigDefault(t *testing.T) {
	out, _, err := execute(t, "", "config", "default")
	if err != nil {
		t.Fatal(err)
	}
	if _, errs, err := execute(t, out, "config", "check", "-f", "-"); err != nil {
		t.Errorf("%v\n%s", err, errs)
	}
}

// An audit from the command line and one by the service find the same.
func TestDefaultsAgree(t *testing.T) {
	c, d := config.Default(), controller.Defaults()
	if !reflect.DeepEqual(c.GCOptions(), d.GC) || !reflect.DeepEqual(c.ConsolidateOptions(), d.Consolidate) {
		t.Errorf("the service has %+v and %+v, the audit %+v and %+v", c.GCOptions(), c.ConsolidateOptions(), d.GC, d.Consolidate)
	}
}

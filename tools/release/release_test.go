package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// TestKrewInstallsIt: krew itself takes the manifest, installs the plugin from the
// archive, and refuses an archive of which a byte has changed.
func TestKrewInstallsIt(t *testing.T) {
	const version = "v0.0.1-test"
	out := t.TempDir()
	var log bytes.Buffer
	o := options{Version: version, Platforms: []string{runtime.GOOS + "/" + runtime.GOARCH}, Out: out, Source: "../..", Log: &log}
	if err := release(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(out, fmt.Sprintf("certherd_%s_%s_%s", version, runtime.GOOS, runtime.GOARCH))
	if !strings.Contains(log.String(), "1 of 1") {
		t.Errorf("it says %q", &log)
	}
	check := exec.Command("sha256sum", "-c", "SHA256SUMS")
	check.Dir = out
	if b, err := check.CombinedOutput(); err != nil || bytes.Count(b, []byte("OK\n")) != 3 {
		t.Errorf("sha256sum: %v\n%s", err, b)
	}

	krew := filepath.Join(t.TempDir(), "krew")
	if b, err := exec.Command("go", "build", "-o", krew, "sigs.k8s.io/krew/cmd/krew").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, b)
	}
	install := func(archive string) (root string, err error) {
		root = t.TempDir()
		c := exec.Command(krew, "install", "--manifest="+filepath.Join(out, "certherd.yaml"), "--archive="+archive)
		c.Env = append(os.Environ(), "KREW_ROOT="+root, "HOME="+root, "KREW_NO_UPGRADE_CHECK=1")
		if b, err := c.CombinedOutput(); err != nil {
			return root, fmt.Errorf("%w\n%s", err, b)
		}
		return root, nil
	}
	archive := name + ".tar.gz"
	root, err := install(archive)
	if err != nil {
		t.Fatal(err)
	}
	plugin := filepath.Join(root, "bin", "kubectl-certherd")
	text, err := exec.Command(plugin, "version").Output()
	if err != nil || !strings.HasPrefix(string(text), "certherd "+version+" ") {
		t.Errorf("kubectl-certherd version: %q, %v", text, err)
	}
	if help, err := exec.Command(plugin, "audit", "--help").Output(); err != nil || !bytes.Contains(help, []byte("kubectl certherd audit")) {
		t.Errorf("its help does not name it as kubectl does: %v\n%s", err, help)
	}
	b, err := os.ReadFile(archive)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/2] ^= 1
	changed := filepath.Join(t.TempDir(), "changed.tar.gz")
	if err := os.WriteFile(changed, b, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := install(changed); err == nil || !strings.Contains(err.Error(), "checksum") {
		t.Errorf("an archive that was changed: %v", err)
	}

	// The SBOM lists what the program itself says that it was built with.
	var sbom struct {
		BOMFormat string `json:"bomFormat"`
		Metadata  struct {
			Component struct{ Name, Version string }
		}
		Components []struct{ Name, Version string }
	}
	b, err = os.ReadFile(name + ".cdx.json")
	if err == nil {
		err = json.Unmarshal(b, &sbom)
	}
	if err != nil || sbom.BOMFormat != "CycloneDX" || sbom.Metadata.Component.Version != version {
		t.Fatalf("the SBOM is %+v, %v", sbom.Metadata, err)
	}
	var listed, built []string
	for _, c := range sbom.Components {
		if c.Name != "std" {
			listed = append(listed, c.Name+" "+c.Version)
		}
	}
	text, err = exec.Command(plugin, "version", "-o", `jsonpath={range .modules[*]}{.path}{" "}{.version}{"\n"}{end}`).Output()
	if err != nil {
		t.Fatal(err)
	}
	for l := range strings.Lines(string(text)) {
		built = append(built, strings.TrimSpace(l))
	}
	slices.Sort(listed)
	slices.Sort(built)
	if len(built) < 50 || !slices.Equal(listed, built) || len(listed) == len(sbom.Components) {
		t.Errorf("the SBOM lists %v, and the program was built with %v, and the standard library", listed, built)
	}
}

func TestSameFilesSameArchive(t *testing.T) {
	files := []file{{"certherd", 0o755, []byte("program")}, {"LICENSE", 0o644, []byte("text")}}
	for _, kind := range []string{".tar.gz", ".zip"} {
		one, err := pack(kind, files)
		if err != nil {
			t.Fatal(err)
		}
		two, err := pack(kind, files)
		if err != nil || !bytes.Equal(one, two) {
			t.Errorf("%s: two archives differ, %v", kind, err)
		}
	}
}

func TestWhatItRefuses(t *testing.T) {
	out := t.TempDir()
	kept := filepath.Join(out, "kept")
	if err := os.WriteFile(kept, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, version := range []string{"", "0.1.0", "v1", "v1.2", "v01.2.3", "latest", "v1.2.3 "} {
		if err := release(t.Context(), options{Version: version, Out: out}); err == nil || !strings.Contains(err.Error(), "no version") {
			t.Errorf("%q: %v", version, err)
		}
	}
	if _, err := os.Stat(kept); err != nil {
		t.Errorf("a version that is refused costs the folder: %v", err)
	}
}

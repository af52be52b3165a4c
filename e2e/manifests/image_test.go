package manifests_test

import (
	"bytes"
	"debug/elf"
	"encoding/json"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/certherd/certherd/report"
)

// TestImage builds the image without a daemon, and starts what is in it as the
// kubelet would: from its own root file system, as its user.
func TestImage(t *testing.T) {
	if testing.Short() {
		t.Skip("builds an image")
	}
	need := ""
	if _, err := exec.LookPath("buildah"); err != nil {
		need = "buildah, to build the image (Debian: apt-get install buildah)"
	} else if os.Getuid() != 0 {
		need = "root, to start a program from the image's root file system"
	}
	if need != "" && os.Getenv("CI") != "" {
		t.Fatal("CI must have ", need)
	} else if need != "" {
		t.Skip("this test needs ", need)
	}
	dir, root := t.TempDir(), filepath.Join(t.TempDir(), "root")
	buildah := []string{"buildah", "--root", filepath.Join(dir, "storage"), "--runroot", filepath.Join(dir, "run"), "--storage-driver", "vfs"}
	image := exec.Command("make", "-C", "../..", "image", "IMAGE=localhost/certherd:test", "IMAGE_DIR="+filepath.Join(dir, "programs"),
		"BUILDAH="+strings.Join(buildah, " "), "BUILDAHFLAGS=--isolation chroot --output type=local,dest="+root)
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, "MAKE") { // of a make that runs this test
			image.Env = append(image.Env, e)
		}
	}
	if out, err := image.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(image.Args, " "), err, out)
	}
	out, err := exec.Command(buildah[0], append(buildah[1:], "inspect", "--type", "image", "localhost/certherd:test")...).Output()
	if err != nil {
		t.Fatal(err)
	}
	var inspected struct {
		OCIv1 struct {
			Architecture, OS string
			Config           struct {
				User            string
				Entrypoint, Cmd []string
			}
		}
	}
	if err := json.Unmarshal(out, &inspected); err != nil {
		t.Fatal(err)
	}
	x := inspected.OCIv1
	if x.Config.User != "65532:65532" || !slices.Equal(x.Config.Entrypoint, []string{"/certherd"}) || !slices.Equal(x.Config.Cmd, []string{"run"}) ||
		x.OS != "linux" || x.Architecture != runtime.GOARCH {
		t.Errorf("the image is %+v", x)
	}

	// It has the programs, with a list of what is in each, and nothing else: no shell, no
	// library.
	programs, err := filepath.Glob("../../cmd/*")
	if err != nil || len(programs) == 0 {
		t.Fatal("there are no programs: ", err)
	}
	var want, got []string
	for _, p := range programs {
		want = append(want, filepath.Base(p))
	}
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == root {
			return err
		}
		name, err := filepath.Rel(root, path)
		got = append(got, name)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	with := append(slices.Clone(want), "sbom")
	for _, name := range want {
		with = append(with, "sbom/"+name+".cdx.json")
	}
	slices.Sort(with)
	slices.Sort(got)
	if !slices.Equal(got, with) {
		t.Fatalf("the image has %v, and not %v", got, with)
	}
	for _, name := range want {
		var sbom struct {
			BOMFormat  string `json:"bomFormat"`
			Components []struct{ Name string }
		}
		b, err := os.ReadFile(filepath.Join(root, "sbom", name+".cdx.json"))
		if err == nil {
			err = json.Unmarshal(b, &sbom)
		}
		if err != nil || sbom.BOMFormat != "CycloneDX" || len(sbom.Components) < 10 {
			t.Errorf("the SBOM of %s has %d modules, %v", name, len(sbom.Components), err)
		}
		if info, err := os.Stat(filepath.Join(root, name)); err != nil || info.Mode().Perm() != 0o755 {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
		f, err := elf.Open(filepath.Join(root, name))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if libraries, _ := f.ImportedLibraries(); len(libraries) > 0 || slices.ContainsFunc(f.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP }) {
			t.Errorf("%s is not linked statically: it needs %v", name, libraries)
		}
		f.Close()
	}
	b, err := os.ReadFile(filepath.Join(root, "certherd"))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(b, []byte("ISRG Root X1")) {
		t.Error("certherd has no public roots in it")
	}

	// The folder is buildah's; in a container it is the runtime's, and open to all.
	if err := os.Chmod(root, 0o755); err != nil {
		t.Fatal(err)
	}
	run := func(stdin []byte, args ...string) []byte {
		t.Helper()
		c := exec.Command("/certherd", args...)
		c.SysProcAttr = &syscall.SysProcAttr{Chroot: root, Credential: &syscall.Credential{Uid: 65532, Gid: 65532, Groups: []uint32{}}}
		c.Dir, c.Env, c.Stdin = "/", []string{}, bytes.NewReader(stdin)
		var out, log bytes.Buffer
		c.Stdout, c.Stderr = &out, &log
		if err := c.Run(); err != nil {
			t.Fatalf("certherd %s: %v\n%s", strings.Join(args, " "), err, &log)
		}
		return out.Bytes()
	}
	if out := run(nil, "version"); !bytes.HasPrefix(out, []byte("certherd ")) {
		t.Errorf("version says %s", out)
	}
	// Time zones are in the program, too.
	run([]byte("timeZone: Europe/Berlin\ngc: {schedule: 'CRON_TZ=America/New_York 7 * * * *'}\n"), "config", "check", "-f", "-")
	var dump []byte
	err = filepath.WalkDir("../../examples/knative-mess", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		dump = append(append(dump, "\n---\n"...), b...)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	var r report.Report
	if err := json.Unmarshal(run(dump, "audit", "-f", "-", "-o", "json"), &r); err != nil {
		t.Fatal(err)
	}
	if len(r.Findings) == 0 {
		t.Error("it finds nothing in the example")
	}
}

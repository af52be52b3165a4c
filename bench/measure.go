package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	certclient "github.com/cert-manager/cert-manager/pkg/client/clientset/versioned"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/certherd/certherd/e2e/stack"
	"github.com/certherd/certherd/inventory/live"
)

// run is one measured process.
type run struct {
	Seconds    float64 // wall clock, from start of the process to its end
	CPUSeconds float64 // of the process, not of the API server
	PeakMiB    float64 // VmHWM of proc(5)
	Requests   float64
	WireMB     float64 // received, with TLS
	AllocMB    float64 // allocated on the heap in all
}

// allWays are the ways of reading: typed and metadata are the yardsticks.
var allWays = []string{"typed", "metadata", "look", "look-proof"}

// measure runs one way in a process of its own.
func measure(ctx context.Context, s *stack.Stack, way, certherd string) (run, error) {
	self, err := os.Executable()
	if err != nil {
		return run{}, err
	}
	cmd := exec.CommandContext(ctx, self, "child", "-way", way, "-kubeconfig", s.Kubeconfig)
	program := strings.HasPrefix(way, "certherd")
	if program {
		cmd = exec.CommandContext(ctx, certherd, "audit", "--kubeconfig", s.Kubeconfig, "-o", "json", "--proof="+strconv.FormatBool(way == "certherd-proof"))
	}
	var out bytes.Buffer
	if !program {
		cmd.Stdout = &out
	}
	cmd.Stderr = os.Stderr
	begun := time.Now()
	if err := cmd.Start(); err != nil {
		return run{}, err
	}
	var peak atomic.Int64
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case err = <-ended:
		case <-tick.C:
			// The mark only rises: the last look before the end is the one that counts.
			if n := highWater(cmd.Process.Pid); n > 0 {
				peak.Store(n)
			}
			continue
		}
		break
	}
	m := run{Seconds: time.Since(begun).Seconds()}
	if err != nil {
		return m, err
	}
	if !program {
		if err := json.Unmarshal(out.Bytes(), &m); err != nil {
			return m, err
		}
		peak.Store(max(peak.Load(), int64(m.PeakMiB*(1<<20))))
	}
	m.CPUSeconds = (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds()
	m.PeakMiB = float64(peak.Load()) / (1 << 20)
	return m, nil
}

// highWater reads VmHWM in bytes, 0 when the process is gone.
func highWater(pid int) int64 { return status(pid, "VmHWM") }

// status reads a field of proc_pid_status(5) that is a size, in bytes; 0 when the
// process is gone.
func status(pid int, field string) int64 {
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	_, rest, ok := strings.Cut(string(content), field+":")
	if !ok {
		return 0
	}
	n, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
	if err != nil {
		return 0
	}
	return n << 10
}

// child is what the measured process does.
func child(args []string) error {
	flags := flag.NewFlagSet("child", flag.ExitOnError)
	way := flags.String("way", "", "")
	kubeconfig := flags.String("kubeconfig", "", "")
	if err := flags.Parse(args); err != nil {
		return err
	}
	cfg, err := clientcmd.BuildConfigFromFlags("", *kubeconfig)
	if err != nil {
		return err
	}
	cfg.QPS = -1
	cfg.DisableCompression = true
	var wire wireCount
	cfg.Dial = wire.dial
	ctx := context.Background()
	var requests int64
	switch *way {
	case "typed":
		requests, err = typed(ctx, cfg)
	case "metadata":
		requests, err = metadataOnly(ctx, cfg)
	case "look", "look-proof", "look-gzip":
		if os.Getenv("GOGC") == "" {
			debug.SetGCPercent(live.GCPercent)
		}
		var stats live.Stats
		_, stats, err = live.Look(ctx, cfg, live.Options{Proof: *way != "look", Compress: *way == "look-gzip"})
		requests = stats.Requests
	default:
		err = fmt.Errorf("no such way: %s", *way)
	}
	if err != nil {
		return err
	}
	var mem runtime.MemStats
	runtime.ReadMemStats(&mem)
	return json.NewEncoder(os.Stdout).Encode(map[string]float64{
		"Requests": float64(requests), "WireMB": float64(wire.Load()) / 1e6, "AllocMB": float64(mem.TotalAlloc) / 1e6,
		"PeakMiB": float64(highWater(os.Getpid())) / (1 << 20),
	})
}

// pageSize is the same for all ways.
const pageSize = 500

// typed lists the kinds page by page with typed clients, in protobuf where the
// API server has it, and keeps nothing.
func typed(ctx context.Context, cfg *rest.Config) (int64, error) {
	cert, err := certclient.NewForConfig(cfg)
	if err != nil {
		return 0, err
	}
	cfg = rest.CopyConfig(cfg)
	cfg.ContentType = "application/vnd.kubernetes.protobuf"
	cfg.AcceptContentTypes = cfg.ContentType
	core, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return 0, err
	}
	return inPages(
		func(o metav1.ListOptions) (metav1.ListInterface, error) {
			return core.CoreV1().Secrets("").List(ctx, o)
		},
		func(o metav1.ListOptions) (metav1.ListInterface, error) {
			return cert.CertmanagerV1().Certificates("").List(ctx, o)
		},
		func(o metav1.ListOptions) (metav1.ListInterface, error) {
			return core.NetworkingV1().Ingresses("").List(ctx, o)
		},
		func(o metav1.ListOptions) (metav1.ListInterface, error) {
			return core.CoreV1().ConfigMaps("").List(ctx, o)
		},
		func(o metav1.ListOptions) (metav1.ListInterface, error) { return core.CoreV1().Pods("").List(ctx, o) },
	)
}

// metadataOnly lists the metadata of the same kinds.
func metadataOnly(ctx context.Context, cfg *rest.Config) (int64, error) {
	client, err := metadata.NewForConfig(cfg)
	if err != nil {
		return 0, err
	}
	var lists []func(metav1.ListOptions) (metav1.ListInterface, error)
	for _, r := range []schema.GroupVersionResource{
		{Version: "v1", Resource: "secrets"},
		{Group: "cert-manager.io", Version: "v1", Resource: "certificates"},
		{Group: "networking.k8s.io", Version: "v1", Resource: "ingresses"},
		{Version: "v1", Resource: "configmaps"},
		{Version: "v1", Resource: "pods"},
	} {
		lists = append(lists, func(o metav1.ListOptions) (metav1.ListInterface, error) { return client.Resource(r).List(ctx, o) })
	}
	return inPages(lists...)
}

func inPages(lists ...func(metav1.ListOptions) (metav1.ListInterface, error)) (requests int64, err error) {
	for _, list := range lists {
		o := metav1.ListOptions{Limit: pageSize}
		for {
			page, err := list(o)
			if err != nil {
				return requests, err
			}
			requests++
			if o.Continue = page.GetContinue(); o.Continue == "" {
				break
			}
		}
	}
	return requests, nil
}

// wireCount counts what comes in on all connections.
type wireCount struct{ atomic.Int64 }

func (w *wireCount) dial(ctx context.Context, network, address string) (net.Conn, error) {
	c, err := (&net.Dialer{}).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return &countedConn{c, w}, nil
}

type countedConn struct {
	net.Conn
	n *wireCount
}

func (c *countedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.n.Add(int64(n))
	return n, err
}

package stack

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// startKourier starts net-kourier and the Envoy that it configures. The gateway's
// Deployment exists with its limits and arguments, but has no running pod.
func (s *supervisor) startKourier(ctx context.Context, cluster *cluster) error {
	s.progress("starting net-kourier and Envoy")
	objects, err := s.manifests(Kourier, "core")
	if err != nil {
		return err
	}
	if err := cluster.apply(ctx, objects...); err != nil {
		return err
	}
	// net-kourier probes these ports to learn whether Envoy has a configuration.
	if err := cluster.backend(ctx, "kourier-system", "kourier-internal", map[string]int32{"http2": 8081, "https": 8444}); err != nil {
		return err
	}
	if err := s.run(ctx, &service{
		name: "net-kourier", part: Kourier, program: "kourier",
		args: []string{"--kubeconfig=" + s.kubeconfig("net-kourier"), "--disable-ha"},
		env: append(knativeEnv("net-kourier", 8103), "KOURIER_GATEWAY_NAMESPACE=kourier-system",
			"ENABLE_SECRET_INFORMER_FILTERING_BY_CERT_UID=false", "CERTS_SECRET_NAMESPACE=", "CERTS_SECRET_NAME="),
	}); err != nil {
		return err
	}
	if s.Relay != "" {
		if err := s.startRelay(ctx); err != nil {
			return err
		}
	}
	return s.startEnvoy(ctx, objects)
}

// The ports that Envoy can get its configuration from: net-kourier's and the
// relay's. relayLocal is the relay's other address.
const (
	ControllerXDS = 18000
	RelayXDS      = 18001
	relayLocal    = "127.0.0.1:9105"
)

// startRelay starts certherd-relay between net-kourier and Envoy.
func (s *supervisor) startRelay(ctx context.Context) error {
	return s.run(ctx, &service{name: "certherd-relay", program: s.Relay, args: append([]string{
		"--upstream", fmt.Sprintf("%s:%d", private, ControllerXDS),
		"--listen", fmt.Sprintf("%s:%d", private, RelayXDS), "--local", relayLocal,
	}, s.RelayArgs...)})
}

// BootstrapFile is Envoy's bootstrap configuration in the stack's folder.
const BootstrapFile = "envoy.yaml"

// pointed leads a bootstrap configuration to a port.
func pointed(bootstrap []byte, port int) []byte {
	return xdsPort.ReplaceAll(bootstrap, fmt.Appendf(nil, "port_value: %d", port))
}

var xdsPort = regexp.MustCompile(`port_value: 1800[01]\b`)

// startEnvoy starts Envoy with the bootstrap configuration that Kourier's gateway
// pods mount, and the arguments of its Deployment.
func (s *supervisor) startEnvoy(ctx context.Context, objects []*unstructured.Unstructured) error {
	bootstrap := filepath.Join(s.Dir, BootstrapFile)
	for _, object := range objects {
		if object.GetKind() != "ConfigMap" || object.GetName() != "kourier-bootstrap" {
			continue
		}
		text, _, err := unstructured.NestedString(object.Object, "data", "envoy-bootstrap.yaml")
		if err != nil {
			return err
		}
		port := ControllerXDS
		if s.Relay != "" {
			port = RelayXDS
		}
		if err := os.WriteFile(bootstrap, pointed([]byte(text), port), 0o644); err != nil {
			return err
		}
		return s.run(ctx, &service{name: "envoy", part: Envoy, args: []string{
			"-c", bootstrap, "--log-level", "info",
			"--drain-time-s", "15", "--drain-strategy", "immediate",
			// There is one Envoy, and no parent process that would hand over to it.
			"--disable-hot-restart",
			// The Deployment's limit is one CPU.
			"--concurrency", "1",
		}})
	}
	return fmt.Errorf("net-kourier's manifests have no ConfigMap kourier-bootstrap")
}

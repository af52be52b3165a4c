package stack

import (
	"context"
	"crypto/x509/pkix"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
)

// Pebble's ACME endpoint and its management interface, inside.
const pebbleACME, pebbleManagement = private + ":14000", private + ":15000"

func (s *supervisor) startPebble(ctx context.Context, authority *authority) error {
	if err := authority.writePair(s.pki("pebble"), pkix.Name{CommonName: "pebble"}, []string{"localhost"},
		net.ParseIP("127.0.0.1"), net.ParseIP(private)); err != nil {
		return err
	}
	config, err := json.Marshal(map[string]any{"pebble": map[string]any{
		"listenAddress":           pebbleACME,
		"managementListenAddress": pebbleManagement,
		"certificate":             s.pki("pebble.crt"),
		"privateKey":              s.pki("pebble.key"),
		"httpPort":                80,
		"tlsPort":                 8443,
		"keyAlgorithm":            "ecdsa",
		"retryAfter":              map[string]int{"authz": 1, "order": 1}, // seconds
		"profiles":                map[string]any{"default": map[string]any{"description": "90 days", "validityPeriod": 90 * 24 * 3600}},
	}})
	if err != nil {
		return err
	}
	path := filepath.Join(s.Dir, "pebble.json")
	if err := os.WriteFile(path, config, 0o644); err != nil {
		return err
	}
	if err := s.run(ctx, &service{
		name: "pebble", part: Pebble,
		args: []string{"-config", path, "-dnsserver", private + ":53"},
		// Pebble otherwise sleeps before it validates and refuses nonces, to test clients.
		env: []string{"PEBBLE_VA_NOSLEEP=1", "PEBBLE_WFE_NONCEREJECT=0"},
	}); err != nil {
		return err
	}
	return s.await(ctx, "Pebble", "pebble", listening(pebbleACME))
}

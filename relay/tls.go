package relay

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"

	"google.golang.org/grpc/credentials"
)

// The files of certificates and keys are read again for each handshake, of which
// there are few, so that renewed ones are used without a restart.

// ClientTLS are the files of the connection to the controller, all empty for
// none. CA holds who may have signed the controller's certificate; Certificate
// and Key are the relay's own, where the controller asks for one. ServerName is
// who the controller must be, where that is not the host of its address.
type ClientTLS struct{ CA, Certificate, Key, ServerName string }

// ServerTLS are the files of the connections from gateways, all empty for none.
// With ClientCA, gateways must show a certificate signed by it.
type ServerTLS struct{ Certificate, Key, ClientCA string }

// credentials returns nil for a connection without TLS.
func (t ClientTLS) credentials() (credentials.TransportCredentials, error) {
	if t == (ClientTLS{}) {
		return nil, nil
	}
	if t.CA == "" {
		return nil, errors.New("--upstream-ca is needed for TLS to the controller")
	}
	roots, err := pool(t.CA)
	if err != nil {
		return nil, fmt.Errorf("--upstream-ca: %w", err)
	}
	config := &tls.Config{RootCAs: roots, ServerName: t.ServerName, MinVersion: tls.VersionTLS12}
	if t.Certificate != "" || t.Key != "" {
		if _, err := tls.LoadX509KeyPair(t.Certificate, t.Key); err != nil {
			return nil, fmt.Errorf("--upstream-cert and --upstream-key: %w", err)
		}
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair(t.Certificate, t.Key)
			return &pair, err
		}
	}
	return credentials.NewTLS(config), nil
}

// credentials returns nil for connections without TLS.
func (t ServerTLS) credentials() (credentials.TransportCredentials, error) {
	if t == (ServerTLS{}) {
		return nil, nil
	}
	if t.Certificate == "" || t.Key == "" {
		return nil, errors.New("--listen-cert and --listen-key are needed for TLS to the gateways")
	}
	now := func(*tls.ClientHelloInfo) (*tls.Config, error) {
		pair, err := tls.LoadX509KeyPair(t.Certificate, t.Key)
		if err != nil {
			return nil, fmt.Errorf("--listen-cert and --listen-key: %w", err)
		}
		c := &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"h2"}, Certificates: []tls.Certificate{pair}}
		if t.ClientCA != "" {
			c.ClientAuth = tls.RequireAndVerifyClientCert
			if c.ClientCAs, err = pool(t.ClientCA); err != nil {
				return nil, fmt.Errorf("--listen-client-ca: %w", err)
			}
		}
		return c, nil
	}
	if _, err := now(nil); err != nil {
		return nil, err
	}
	return credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS12, GetConfigForClient: now}), nil
}

func pool(file string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	p := x509.NewCertPool()
	if !p.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s holds no certificate", file)
	}
	return p, nil
}

package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"golang.org/x/net/websocket"
)

const backendPort = 8012

// serveBackend stands in for all services: /?ms=N answers after N milliseconds, /ws
// echoes over a WebSocket.
func serveBackend(ctx context.Context) error {
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		ms, err := strconv.Atoi(r.FormValue("ms"))
		if err != nil {
			ms = 0
		}
		select {
		case <-r.Context().Done():
			return
		case <-time.After(time.Duration(ms) * time.Millisecond):
		}
		_, _ = io.WriteString(w, "done") // the client may have gone
	})
	mux.Handle("/ws", websocket.Server{Handler: func(c *websocket.Conn) { _, _ = io.Copy(c, c) }})
	// On all of 127/8, as services get a second address when they scale.
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", fmt.Sprintf(":%d", backendPort))
	if err != nil {
		return err
	}
	go func() { _ = (&http.Server{Handler: mux, ReadHeaderTimeout: time.Minute}).Serve(listener) }()
	return nil
}

func (b *bed) tls(i int) *tls.Config {
	return &tls.Config{RootCAs: b.kourier.issuer.pool, ServerName: host(i), MinVersion: tls.VersionTLS12}
}

const gatewayTLS = "127.0.0.1:8443"

// get asks a service over a connection of its own, by HTTP/1.1 or HTTP/2.
func (b *bed) get(i int, path string, version int) error {
	transport := &http.Transport{TLSClientConfig: b.tls(i), ForceAttemptHTTP2: version == 2, DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, gatewayTLS)
	}}
	if version == 2 {
		transport.TLSClientConfig.NextProtos = []string{"h2"}
	}
	defer transport.CloseIdleConnections()
	request, err := http.NewRequestWithContext(b.ctx, http.MethodGet, "https://"+host(i)+path, nil)
	if err != nil {
		return err
	}
	answer, err := transport.RoundTrip(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	switch {
	case err != nil:
		return err
	case answer.StatusCode != http.StatusOK || string(text) != "done" && path != "/":
		return fmt.Errorf("%s %q", answer.Status, text)
	case version == 2 && answer.ProtoMajor != 2:
		return fmt.Errorf("it is %s", answer.Proto)
	}
	return nil
}

// talk holds a WebSocket for a time and sends a word a second.
func (b *bed) talk(i int, length time.Duration) error {
	config, err := websocket.NewConfig("wss://"+host(i)+"/ws", "https://"+host(i))
	if err != nil {
		return err
	}
	dialer := &tls.Dialer{Config: b.tls(i)}
	conn, err := dialer.DialContext(b.ctx, "tcp", gatewayTLS)
	if err != nil {
		return err
	}
	defer conn.Close()
	c, err := websocket.NewClient(config, conn)
	if err != nil {
		return err
	}
	for end := time.Now().Add(length); time.Now().Before(end); time.Sleep(time.Second) {
		if _, err := c.Write([]byte("word")); err != nil {
			return err
		}
		if err := c.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			return err
		}
		if _, err := io.ReadFull(c, make([]byte, 4)); err != nil {
			return err
		}
	}
	return nil
}

// tally is how requests ended.
type tally struct {
	mu      sync.Mutex
	Whole   int
	Cut     int
	Example string
}

func (t *tally) add(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err == nil {
		t.Whole++
		return
	}
	t.Cut++
	if t.Example == "" {
		t.Example = err.Error()
	}
}

// repeat runs clients that do the same thing one after the other until an end
// has come; what is under way then is waited for.
func repeat(clients int, end time.Time, t *tally, do func(client int) error) *sync.WaitGroup {
	var running sync.WaitGroup
	for c := range clients {
		running.Go(func() {
			for time.Now().Before(end) {
				err := do(c)
				t.add(err)
				if err != nil {
					time.Sleep(100 * time.Millisecond) // not to spin on a dead gateway
				}
			}
		})
	}
	return &running
}

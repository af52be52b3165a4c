package stack

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/websocket"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// standInForPods serves what pods would serve in a cluster that has any: Knative's
// activator and with it every application, the solver pods of HTTP-01 challenges,
// and the address that DomainMappings lead to.
func standInForPods(cluster *cluster) error {
	for address, handler := range map[string]http.Handler{
		":8012":         http.HandlerFunc(application),
		":8013":         http.HandlerFunc(application),
		private + ":80": port80(cluster),
	} {
		listener, err := net.Listen("tcp", address)
		if err != nil {
			return err
		}
		server := &http.Server{Handler: handler, Protocols: new(http.Protocols)}
		server.Protocols.SetHTTP1(true)
		server.Protocols.SetUnencryptedHTTP2(true)
		go func() { fmt.Fprintln(os.Stderr, "stand-in for pods:", server.Serve(listener)) }()
	}
	return nil
}

// application answers probes as Knative's activator and queue-proxy do
// (knative.dev/networking, pkg/http/probe), and all other requests with a greeting:
// after as many milliseconds as the parameter ms says. At /ws it echoes over a
// WebSocket.
func application(w http.ResponseWriter, r *http.Request) {
	switch probe := r.Header.Get("K-Network-Probe"); probe {
	case "":
		if r.URL.Path == "/ws" {
			websocket.Server{Handler: func(c *websocket.Conn) { io.Copy(c, c) }}.ServeHTTP(w, r)
			return
		}
		if ms, err := strconv.Atoi(r.FormValue("ms")); err == nil {
			select {
			case <-r.Context().Done():
				return
			case <-time.After(time.Duration(ms) * time.Millisecond):
			}
		}
		fmt.Fprintf(w, "Hello from %s\n", r.Host)
	case "probe":
		w.Header().Set("K-Network-Hash", r.Header.Get("K-Network-Hash"))
	default:
		io.WriteString(w, probe)
	}
}

// port80 solves HTTP-01 challenges and passes the rest to Envoy's listener for
// cluster-local requests, as kourier-internal.kourier-system.svc does, which
// DomainMappings name as their backend.
func port80(cluster *cluster) http.Handler {
	const challengePath = "/.well-known/acme-challenge/"
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: private + ":8081"})
	mux := http.NewServeMux()
	mux.Handle("/", proxy)
	mux.HandleFunc(challengePath, func(w http.ResponseWriter, r *http.Request) {
		token := strings.TrimPrefix(r.URL.Path, challengePath)
		challenges, err := cluster.dynamic.Resource(schema.GroupVersionResource{Group: "acme.cert-manager.io", Version: "v1", Resource: "challenges"}).
			List(r.Context(), metav1.ListOptions{})
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		for _, challenge := range challenges.Items {
			if wanted, _, _ := unstructured.NestedString(challenge.Object, "spec", "token"); wanted == token {
				key, _, _ := unstructured.NestedString(challenge.Object, "spec", "key")
				io.WriteString(w, key)
				return
			}
		}
		http.NotFound(w, r)
	})
	return mux
}

package stack

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

// EnvoyStats are those counters and gauges whose names a regular expression
// matches, of the Envoy whose admin interface is at admin, as in 127.0.0.1:9901
// (its documentation: operations/admin, GET /stats?filter=regex).
func EnvoyStats(ctx context.Context, admin, pattern string) (map[string]int, error) {
	return envoyStats(ctx, http.DefaultClient, admin, pattern)
}

// PodStats are the same of an Envoy in a pod.
func (s *Stack) PodStats(ctx context.Context, pod, pattern string) (map[string]int, error) {
	return envoyStats(ctx, s.PodClient(pod, 9901), "127.0.0.1:9901", pattern)
}

func envoyStats(ctx context.Context, client *http.Client, admin, pattern string) (map[string]int, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+admin+"/stats?filter="+url.QueryEscape(pattern), nil)
	if err != nil {
		return nil, err
	}
	answer, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		return nil, err
	}
	stats := map[string]int{}
	for line := range strings.Lines(string(text)) {
		name, value, found := strings.Cut(strings.TrimSpace(line), ": ")
		if n, err := strconv.Atoi(value); found && err == nil {
			stats[name] = n
		}
	}
	return stats, nil
}

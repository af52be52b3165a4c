package simulate

import (
	"encoding/json"
	"math"
	"os"
	"testing"
	"time"
)

// TestARecordedGateway: the model counts about as many updates as a real Envoy did behind a
// real Kourier, with the time for an update that was measured before that. The
// recordings are those of `go run ./bench/batch -record simulate/testdata`: the Secrets of
// 60 certificates in a quarter of an hour, with cert-manager alone and with certherd.
func TestARecordedGateway(t *testing.T) {
	for _, name := range []string{"alone", "together"} {
		text, err := os.ReadFile("testdata/" + name + ".json")
		if err != nil {
			t.Fatal(err)
		}
		var recorded struct {
			TakingMicroseconds, Updates int
			WrittenMilliseconds         []int
		}
		if err := json.Unmarshal(text, &recorded); err != nil {
			t.Fatal(err)
		}
		g := Kourier(60)
		g.Taking = time.Duration(recorded.TakingMicroseconds) * time.Microsecond
		var sent []time.Time
		for _, ms := range recorded.WrittenMilliseconds {
			sent = append(sent, start.Add(time.Duration(ms)*time.Millisecond))
		}
		predicted := g.Updates(sent)
		t.Logf("%s: %d Secrets, %d updates, %d predicted", name, len(sent), recorded.Updates, predicted)
		if off := math.Abs(float64(predicted)/float64(recorded.Updates) - 1); off > 0.2 {
			t.Errorf("%s: %d updates were counted, and %d are predicted", name, recorded.Updates, predicted)
		}
		if g.Relay = true; g.Updates(sent) != 0 {
			t.Errorf("%s: a renewal changes listeners behind the relay", name)
		}
	}
}

// TestWhatComesTogetherIsOneUpdate: one goes at once, and what comes while Envoy is at it
// is one more; past its requests, Envoy waits.
func TestWhatComesTogetherIsOneUpdate(t *testing.T) {
	at := func(apart time.Duration, n int) (sent []time.Time) {
		for i := range n {
			sent = append(sent, start.Add(time.Duration(i)*apart))
		}
		return sent
	}
	for _, c := range []struct {
		name string
		g    Gateway
		sent []time.Time
		want int
	}{
		{"nothing known", Gateway{}, at(0, 7), 7},
		{"at once", Gateway{Taking: time.Second}, at(0, 7), 2},
		{"within two updates", Gateway{Taking: time.Second}, at(250*time.Millisecond, 9), 4},
		{"one by one", Gateway{Taking: time.Second}, at(time.Second, 9), 9},
		// 34 updates make 102 requests; after that, each takes 300 ms, and the last is to come.
		{"more requests than Envoy makes", Gateway{Requests: 100, PerSecond: 10, Each: 3}, at(time.Millisecond, 1000), 38},
	} {
		if n := c.g.Updates(c.sent); n != c.want {
			t.Errorf("%s: %d updates, not %d", c.name, n, c.want)
		}
	}
}

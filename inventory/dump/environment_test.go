package dump

import (
	"bytes"
	"compress/gzip"
	"io"
	"testing"
)

// A gateway may take its drain time from a variable, as Kourier's does; a dump
// has the time, and no variable.
func TestNumbersFromTheEnvironment(t *testing.T) {
	before, after, archive := roundTrip(t, []thing{{"apps", "v1", "Deployment", `{"metadata":{"name":"gateway","namespace":"a"},"spec":{"template":{"spec":{"containers":[{
		"name":"envoy","image":"envoyproxy/envoy:v1.36","args":["--drain-time-s $(DRAIN)","--concurrency $(WORKERS)","--token $(TOKEN)"],
		"env":[{"name":"DRAIN","value":"15"},{"name":"WORKERS","value":"none"},{"name":"TOKEN","value":"hunter2"}]}]}}}}`}}, nil)
	same(t, after, before)
	if n := after.Workloads[0].DrainSeconds; n != 15 {
		t.Errorf("drain time of %d s", n)
	}
	unzipped, err := gzip.NewReader(bytes.NewReader(archive))
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(unzipped)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(text, []byte("--drain-time-s 15")) {
		t.Error("the dump does not have the drain time")
	}
	for _, secret := range []string{"hunter2", "TOKEN"} {
		if bytes.Contains(text, []byte(secret)) {
			t.Errorf("the dump has %s", secret)
		}
	}
}

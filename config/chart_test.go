package config

import (
	"bytes"
	"encoding/json"
	"os"
	"reflect"
	"strconv"
	"strings"
	"testing"
)

// TestChartKnowsEveryKey: values.schema.json of the Helm chart describes the
// configuration as the types do, so that Helm refuses what certherd would refuse for its
// form. With -update it writes them. What a schema cannot say, such as that a schedule
// comes at all, is left to Parse.
func TestChartKnowsEveryKey(t *testing.T) {
	const name = "../charts/certherd/values.schema.json"
	old, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Schema      string          `json:"$schema"`
		Title       string          `json:"title"`
		Type        string          `json:"type"`
		Additional  bool            `json:"additionalProperties"`
		Properties  json.RawMessage `json:"properties"`
		Definitions map[string]any  `json:"definitions"`
	}
	in := json.NewDecoder(bytes.NewReader(old))
	in.DisallowUnknownFields()
	if err := in.Decode(&file); err != nil {
		t.Fatal(err)
	}
	file.Definitions = map[string]any{"config": keys(t, reflect.TypeFor[Config]())}
	var want bytes.Buffer
	out := json.NewEncoder(&want)
	out.SetEscapeHTML(false)
	out.SetIndent("", "  ")
	if err := out.Encode(file); err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(name, want.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if !bytes.Equal(old, want.Bytes()) {
		t.Errorf("%s is out of date: run `go generate ./config`", name)
	}
}

// keys is the JSON schema of a section.
func keys(t *testing.T, typ reflect.Type) any {
	properties := map[string]any{}
	for key, f := range fieldsOf(typ) {
		properties[key] = form(t, f.Type, f)
	}
	return map[string]any{"type": "object", "additionalProperties": false, "properties": properties}
}

// The forms of texts. A number may be written without quotes where a text is read.
const (
	durationForm = `([+-]?([0-9]*\.?[0-9]+(ns|us|µs|μs|ms|s|m|h)|[0-9]+\.(ns|us|µs|μs|ms|s|m|h))+|[+-]?0)`
	scheduleForm = `^\s*((CRON_TZ|TZ)=\S+\s+)?(@(annually|yearly|monthly|weekly|daily|midnight|hourly)|@every\s+\S+|\S+(\s+\S+){4})\s*$`
)

// form is the JSON schema of a value; f says what its tags are.
func form(t *testing.T, typ reflect.Type, f reflect.StructField) any {
	text := func(pattern string) any { return map[string]any{"type": "string", "pattern": pattern} }
	switch typ {
	case reflect.TypeFor[Duration]():
		return text("^(" + durationForm + "|disabled)$")
	case reflect.TypeFor[Gap]():
		return text("^(" + durationForm + "|drain)$")
	case reflect.TypeFor[Share]():
		return text(`^(100(\.0*)?|[0-9]{1,2}(\.[0-9]*)?)\s*%$`)
	case reflect.TypeFor[Count]():
		return map[string]any{"anyOf": []any{map[string]any{"type": "integer", "minimum": 0}, map[string]any{"enum": []string{disabled}}}}
	case reflect.TypeFor[Pods]():
		return text(`^[^/]+/[^:]+:[0-9]+(/.*)?$`)
	}
	if v := f.Tag.Get("values"); v != "" {
		return map[string]any{"enum": strings.Split(v, ", ")}
	}
	switch typ.Kind() {
	case reflect.Struct:
		return keys(t, typ)
	case reflect.Slice:
		return map[string]any{"type": "array", "items": form(t, typ.Elem(), reflect.StructField{Name: f.Name})}
	case reflect.Bool:
		return map[string]any{"type": "boolean"}
	case reflect.Int:
		out := map[string]any{"type": "integer"}
		for tag, word := range map[string]string{"min": "minimum", "max": "maximum"} {
			n, err := strconv.Atoi(f.Tag.Get(tag))
			if err != nil {
				t.Fatalf("%s has the %s %q", f.Name, tag, f.Tag.Get(tag))
			}
			out[word] = n
		}
		return out
	case reflect.String:
		if f.Name == "Schedule" {
			return text(scheduleForm)
		}
		return map[string]any{"type": "string"}
	}
	t.Fatalf("no schema for %s", typ)
	return nil
}

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"k8s.io/client-go/util/jsonpath"
)

// jsonPathOutput is the format that takes a template.
const jsonPathOutput = "jsonpath="

// checkOutput says whether there is a format, before anything is read: one of those
// listed, or a template of JSONPath where that is listed.
func checkOutput(format string, formats []string) error {
	for _, f := range formats {
		if f == format && f != jsonPathOutput {
			return nil
		}
		if template, ok := strings.CutPrefix(format, jsonPathOutput); ok && f == jsonPathOutput {
			_, err := parseJSONPath(template)
			return err
		}
	}
	return fmt.Errorf("there is no format %q; use one of %s", format, strings.Join(formats, ", "))
}

// parseJSONPath reads a template as kubectl does: the braces around a single expression,
// and its leading dot, may be left out, and what is not there is printed as nothing.
func parseJSONPath(template string) (*jsonpath.JSONPath, error) {
	switch {
	case template == "":
		return nil, fmt.Errorf("%s needs a template, such as %s{.summary.secrets}", jsonPathOutput, jsonPathOutput)
	case strings.Contains(template, "{"):
	case strings.HasPrefix(template, "."), strings.HasPrefix(template, "["):
		template = "{" + template + "}"
	default:
		template = "{." + template + "}"
	}
	j := jsonpath.New("output").AllowMissingKeys(true)
	if err := j.Parse(template); err != nil {
		return nil, fmt.Errorf("cannot use the template %s: %w", template, err)
	}
	return j, nil
}

// writeJSONPath writes what a format jsonpath=... takes from the JSON form of a value.
func writeJSONPath(w io.Writer, format string, value any) error {
	j, err := parseJSONPath(strings.TrimPrefix(format, jsonPathOutput))
	if err != nil {
		return err
	}
	b, err := json.Marshal(value)
	if err != nil {
		return err
	}
	var document any
	if err := json.Unmarshal(b, &document); err != nil {
		return err
	}
	return j.Execute(w, document)
}

// objectName is an object as kubectl -o name writes it: kind.group/name, without its
// namespace.
func objectName(group, kind, name string) string {
	kind = strings.ToLower(kind)
	if group != "" {
		kind += "." + group
	}
	return kind + "/" + name
}

package report

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
)

// writeJSON writes the Report struct as it is, indented. Characters that
// matter in HTML stay as they are: the output is JSON, not part of a page.
//
// Findings and changes are encoded one by one, because encoding/json keeps a
// whole document in memory, twice when it indents: some 60 MiB for the report
// of 30,000 certificates.
func writeJSON(w io.Writer, r *Report, _ Options) error {
	out := bufio.NewWriter(w)
	rest := *r
	rest.Findings, rest.Changes = []Finding{}, []Change{}
	frame, err := encode(rest, "")
	if err != nil {
		return err
	}
	before, frame, _ := bytes.Cut(frame, []byte(`"findings": []`))
	between, after, _ := bytes.Cut(frame, []byte(`"changes": []`))
	out.Write(before)
	if err := writeList(out, "findings", r.Findings); err != nil {
		return err
	}
	out.Write(between)
	if err := writeList(out, "changes", r.Changes); err != nil {
		return err
	}
	out.Write(after)
	out.WriteByte('\n')
	return out.Flush()
}

func writeList[T any](out *bufio.Writer, name string, list []T) error {
	out.WriteString(`"` + name + `": [`)
	for i, x := range list {
		if i > 0 {
			out.WriteByte(',')
		}
		doc, err := encode(x, "    ")
		if err != nil {
			return err
		}
		out.WriteString("\n    ")
		out.Write(doc)
	}
	if len(list) > 0 {
		out.WriteString("\n  ")
	}
	return out.WriteByte(']')
}

func encode(x any, prefix string) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent(prefix, "  ")
	if err := e.Encode(x); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

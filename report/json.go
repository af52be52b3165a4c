package report

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"slices"
)

// writeJSON writes the Report struct as it is, indented. Characters that
// matter in HTML stay as they are: the output is JSON, not part of a page.
func writeJSON(w io.Writer, r *Report, _ Options) error {
	return writeParts(w, r, slices.Values([][]Finding{r.Findings}), slices.Values([][]Change{r.Changes}))
}

// WriteJSON writes what Write does in the format json, of a report that need
// not be in memory as a whole: findings and changes, which take the place of r's,
// come in parts, each with what has one Reason, in the order of the reasons. A
// part may be reordered.
func WriteJSON(w io.Writer, r *Report, findings iter.Seq[[]Finding], changes iter.Seq[[]Change]) error {
	c := r.clone()
	c.Normalize()
	err := writeParts(w, c, func(yield func([]Finding) bool) {
		for part := range findings {
			if sortFindings(&part); !yield(part) {
				return
			}
		}
	}, func(yield func([]Change) bool) {
		for part := range changes {
			if sortChanges(&part); !yield(part) {
				return
			}
		}
	})
	if err != nil {
		return fmt.Errorf("writing the report as json: %w", err)
	}
	return nil
}

// writeParts encodes findings and changes one by one, because encoding/json
// keeps a whole document in memory, twice when it indents: some 60 MiB for the
// report of 30,000 certificates.
func writeParts(w io.Writer, r *Report, findings iter.Seq[[]Finding], changes iter.Seq[[]Change]) error {
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
	if err := writeList(out, "findings", findings); err != nil {
		return err
	}
	out.Write(between)
	if err := writeList(out, "changes", changes); err != nil {
		return err
	}
	out.Write(after)
	out.WriteByte('\n')
	return out.Flush()
}

func writeList[T any](out *bufio.Writer, name string, parts iter.Seq[[]T]) error {
	out.WriteString(`"` + name + `": [`)
	empty := true
	for list := range parts {
		for i := range list {
			if !empty {
				out.WriteByte(',')
			}
			empty = false
			doc, err := encode(&list[i], "    ")
			if err != nil {
				return err
			}
			out.WriteString("\n    ")
			if _, err := out.Write(doc); err != nil {
				return err
			}
		}
	}
	if !empty {
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

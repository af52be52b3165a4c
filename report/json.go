package report

import (
	"encoding/json"
	"io"
)

// writeJSON writes the Report struct as it is, indented. Characters that
// matter in HTML stay as they are: the output is JSON, not part of a page.
func writeJSON(w io.Writer, r *Report, _ Options) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(r)
}

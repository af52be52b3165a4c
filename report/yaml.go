package report

import (
	"io"

	"sigs.k8s.io/yaml"
)

// writeYAML writes the same document as writeJSON, with the keys of each
// mapping in alphabetical order, as kubectl does.
func writeYAML(w io.Writer, r *Report, _ Options) error {
	b, err := yaml.Marshal(r)
	if err != nil {
		return err
	}
	_, err = w.Write(b)
	return err
}

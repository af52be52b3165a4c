package report

import (
	"encoding/csv"
	"io"
	"strconv"
	"strings"
)

// writeCSV writes one record a finding under a header, as RFC 4180 has it:
// records end in CRLF. Evidence and related objects are joined by "; ".
func writeCSV(w io.Writer, r *Report, _ Options) error {
	c := csv.NewWriter(w)
	c.UseCRLF = true
	// Errors stay in the writer until Flush.
	header := []string{"reason", "verdict", "group", "kind", "namespace", "name", "message", "evidence", "related", "loaded"}
	if r.Clusters != nil {
		header = append(header, "cluster")
	}
	_ = c.Write(header)
	for _, f := range r.Findings {
		var evidence, related []string
		for _, e := range f.Evidence {
			evidence = append(evidence, e.How+" "+e.From.String()+" "+e.Field)
		}
		for _, o := range f.Related {
			related = append(related, o.String())
		}
		record := []string{f.Reason, f.Verdict, f.Object.Group, f.Object.Kind, f.Object.Namespace, f.Object.Name,
			f.Message, strings.Join(evidence, "; "), strings.Join(related, "; "), ""}
		if f.Loaded != nil {
			record[len(record)-1] = strconv.Itoa(*f.Loaded)
		}
		if r.Clusters != nil {
			record = append(record, f.Cluster)
		}
		for i := range record {
			record[i] = defuse(record[i])
		}
		_ = c.Write(record)
	}
	c.Flush()
	return c.Error()
}

// defuse keeps a spreadsheet from taking a cell for a formula: one that begins
// with a character which starts a formula in Excel, LibreOffice or Google
// Sheets (their full-width forms too), or with white space that an import
// strips, gets an apostrophe in front, the spreadsheets' own mark for text.
func defuse(cell string) string {
	if cell != "" && strings.ContainsAny(string([]rune(cell)[:1]), "=+-@\t\r\n＝＋－＠") {
		return "'" + cell
	}
	if t := strings.TrimLeft(cell, " \u00a0"); t != cell && t != "" && strings.ContainsAny(t[:1], "=+-@") {
		return "'" + cell
	}
	return cell
}

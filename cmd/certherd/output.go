package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/client-go/util/jsonpath"
	"sigs.k8s.io/yaml"

	"github.com/certherd/certherd/report"
)

// completionTime is how long a shell waits for what it offers.
const completionTime = 3 * time.Second

// jsonPathOutput is the format that takes a template.
const jsonPathOutput = "jsonpath="

// output is the flag -o, which offers its formats for completion.
type output struct {
	format  string
	formats []string
}

func (o *output) flag(c *cobra.Command, format string, formats ...string) {
	o.formats = formats
	c.Flags().StringVarP(&o.format, "output", "o", format, "format: "+strings.Join(formats, ", "))
	_ = c.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(formats, cobra.ShellCompDirectiveNoFileComp))
}

// check is for before anything is read: a typing error should not cost a minute.
func (o *output) check() error { return checkOutput(o.format, o.formats) }

// document writes a value as json, yaml or jsonpath=, where the format is one of them.
func (o *output) document(w io.Writer, value any) (written bool, err error) {
	switch {
	case o.format == "json":
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return true, e.Encode(value)
	case o.format == "yaml":
		text, err := yaml.Marshal(value)
		if err == nil {
			_, err = fmt.Fprintf(w, "---\n%s", text)
		}
		return true, err
	case strings.HasPrefix(o.format, jsonPathOutput):
		return true, writeJSONPath(w, o.format, value)
	}
	return false, nil
}

// watch are the flags of a command that can look again and again.
type watch struct {
	on    bool
	every time.Duration
	last  []byte
}

func (x *watch) flags(c *cobra.Command, every time.Duration, what string) {
	c.Flags().BoolVarP(&x.on, "watch", "w", false, "look again and again, and write "+what)
	c.Flags().DurationVar(&x.every, "every", every, "with --watch: how long to wait between two looks")
}

func (x *watch) check() error {
	if x.on && x.every < time.Second {
		return errors.New("--every must be 1s or more")
	}
	return nil
}

// run looks once, or with --watch until it is interrupted. The first look must succeed; a later
// one that fails is said, and tried again.
func (x *watch) run(c *cobra.Command, look func() error) error {
	for first := true; ; first = false {
		err := look()
		switch {
		case !x.on:
			return err
		case c.Context().Err() != nil:
			return nil
		case err != nil && first:
			return err
		case err != nil:
			fmt.Fprintln(c.ErrOrStderr(), "certherd:", err)
		}
		select {
		case <-c.Context().Done():
			return nil
		case <-time.After(x.every):
		}
	}
}

// changed reports whether a value is another one than the last time.
func (x *watch) changed(value any) (bool, error) {
	now, err := json.Marshal(value)
	if err != nil {
		return false, err
	}
	same := x.last != nil && bytes.Equal(now, x.last)
	x.last = now
	return !same, nil
}

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
		return nil, fmt.Errorf("%s needs a template in kubectl's form, such as %s{.metadata.name}", jsonPathOutput, jsonPathOutput)
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

// writeNames writes objects, each once.
func writeNames(w io.Writer, refs []report.Ref) error {
	said := map[report.Ref]bool{}
	for _, o := range refs {
		if said[o] {
			continue
		}
		said[o] = true
		if _, err := fmt.Fprintln(w, objectName(o.Group, o.Kind, o.Name)); err != nil {
			return err
		}
	}
	return nil
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

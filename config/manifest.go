package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"go.yaml.in/yaml/v3"
)

// ParseFile reads a config.yaml, or the manifest of the ConfigMap that holds
// one, which may stand among other manifests. Lines of errors are those of the
// file. It fails as Parse does.
func ParseFile(file []byte) (Config, error) {
	text, isManifest, failed := extract(file)
	switch {
	case failed != nil:
		return Config{}, Errors{*failed}
	case !isManifest:
		return Parse(file)
	}
	c, errs := parse([]byte(text.Value))
	for i := range errs {
		if text.Style&yaml.LiteralStyle != 0 && errs[i].Line > 0 {
			errs[i].Line += text.Line // the text begins below its key
			continue
		}
		// Folded, quoted or JSON: the lines of the text are not those of the file.
		if errs[i].Line > 0 {
			errs[i].Message += fmt.Sprintf(" (line %d of the text)", errs[i].Line)
		}
		errs[i].Line = text.Line
	}
	if len(errs) > 0 {
		return Config{}, errs
	}
	return c, nil
}

// extract finds the text of the ConfigMap in a file of manifests. A file that
// is none, or no YAML, is left to Parse.
func extract(file []byte) (text *yaml.Node, isManifest bool, failed *Error) {
	in := yaml.NewDecoder(bytes.NewReader(file))
	var named, others []*yaml.Node
	for {
		var doc yaml.Node
		if err := in.Decode(&doc); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			if isManifest {
				return nil, true, syntaxError(err)
			}
			return nil, false, nil
		}
		root := doc.Content[0]
		if value(root, "apiVersion") == nil || value(root, "kind") == nil {
			continue
		}
		isManifest = true
		if value(root, "kind").Value != "ConfigMap" {
			continue
		}
		if x := value(value(root, "data"), ConfigMapKey); x != nil && x.Kind == yaml.ScalarNode {
			if name := value(value(root, "metadata"), "name"); name != nil && name.Value == ConfigMapName {
				named = append(named, x)
			} else {
				others = append(others, x)
			}
		}
	}
	if !isManifest {
		return nil, false, nil
	}
	if len(named) == 0 {
		named = others
	}
	switch len(named) {
	case 0:
		return nil, true, &Error{Message: fmt.Sprintf("there is no ConfigMap with %s in its data", ConfigMapKey)}
	case 1:
		return named[0], true, nil
	}
	return nil, true, &Error{Line: named[1].Line, Message: fmt.Sprintf("there are several ConfigMaps with %s in their data: leave one, named %s", ConfigMapKey, ConfigMapName)}
}

// value is that of a key of a mapping, nil if there is none.
func value(n *yaml.Node, key string) *yaml.Node {
	if n == nil || n.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return n.Content[i+1]
		}
	}
	return nil
}

package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// released is the version of a release, set when it is linked.
var released string

// version is the release, else what the go command knows of the build.
func version() string {
	if released != "" {
		return released
	}
	if b, ok := debug.ReadBuildInfo(); ok && b.Main.Version != "" && b.Main.Version != "(devel)" {
		return b.Main.Version
	}
	return "devel"
}

// build is what the program was made from, as the go command has noted it.
type build struct {
	Version   string   `json:"version"`
	Revision  string   `json:"revision,omitempty"`
	Committed string   `json:"committed,omitempty"` // RFC 3339
	Modified  bool     `json:"modified,omitempty"`
	Go        string   `json:"go"`
	Platform  string   `json:"platform"`
	Modules   []module `json:"modules"`
}

// module is one whose code is in the program.
type module struct {
	Path    string `json:"path"`
	Version string `json:"version"`
	Sum     string `json:"sum,omitempty"` // as in go.sum
}

func thisBuild() build {
	out := build{Version: version(), Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH, Modules: []module{}}
	b, ok := debug.ReadBuildInfo()
	if !ok {
		return out
	}
	for _, s := range b.Settings {
		switch s.Key {
		case "vcs.revision":
			out.Revision = s.Value
		case "vcs.time":
			out.Committed = s.Value
		case "vcs.modified":
			out.Modified = s.Value == "true"
		}
	}
	for _, m := range b.Deps {
		if m.Replace != nil {
			m = m.Replace
		}
		out.Modules = append(out.Modules, module{m.Path, m.Version, m.Sum})
	}
	return out
}

func versionCommand() *cobra.Command {
	out := output{}
	c := &cobra.Command{
		Use:   "version",
		Short: "Show the version of certherd",
		Long: `version shows the version of certherd. With -o json, yaml or jsonpath= it also says of which commit it is, and with which
version of each module it was built.`,
		Example: `  certherd version
  certherd version -o jsonpath='{range .modules[*]}{.path}{"\t"}{.version}{"\n"}{end}'`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := out.check(); err != nil {
				return err
			}
			b := thisBuild()
			if written, err := out.document(c.OutOrStdout(), b); written || err != nil {
				return err
			}
			_, err := fmt.Fprintf(c.OutOrStdout(), "certherd %s %s %s\n", b.Version, b.Go, b.Platform)
			return err
		},
	}
	out.flag(c, "text", "text", "json", "yaml", jsonPathOutput)
	return c
}

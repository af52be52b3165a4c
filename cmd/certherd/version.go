package main

import (
	"encoding/json"
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

func versionCommand() *cobra.Command {
	var format string
	c := &cobra.Command{
		Use:     "version",
		Short:   "Show the version of certherd",
		Example: "  certherd version -o json",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			info := struct {
				Version  string `json:"version"`
				Revision string `json:"revision,omitempty"`
				Modified bool   `json:"modified,omitempty"`
				Go       string `json:"go"`
				Platform string `json:"platform"`
			}{Version: version(), Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
			if b, ok := debug.ReadBuildInfo(); ok {
				for _, s := range b.Settings {
					switch s.Key {
					case "vcs.revision":
						info.Revision = s.Value
					case "vcs.modified":
						info.Modified = s.Value == "true"
					}
				}
			}
			switch format {
			case "json":
				e := json.NewEncoder(c.OutOrStdout())
				e.SetIndent("", "  ")
				return e.Encode(info)
			case "":
				_, err := fmt.Fprintf(c.OutOrStdout(), "certherd %s %s %s\n", info.Version, info.Go, info.Platform)
				return err
			}
			return fmt.Errorf("there is no format %q; use json, or none", format)
		},
	}
	c.Flags().StringVarP(&format, "output", "o", "", "format: json")
	return c
}

package cli

import (
	"fmt"

	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/spec/wire"
	"github.com/spf13/cobra"
)

func (c *cli) applyCommand() *cobra.Command {
	var file string
	var dryRun bool
	cmd := &cobra.Command{
		Use:   "apply MANIFEST",
		Short: "Deploy an app: upload its folder, apply its manifest, print what changed",
		Example: "  pheromone apply app.yaml\n" +
			"  pheromone apply app.yaml --dry-run",
		RunE: func(cmd *cobra.Command, _ []string) error { return c.apply(cmd, file, dryRun) },
	}
	manifestArgument(cmd, &file)
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "only tell what would change")
	return cmd
}

func (c *cli) diffCommand() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "diff MANIFEST",
		Short: "Show what applying a manifest would change",
		RunE:  func(cmd *cobra.Command, _ []string) error { return c.apply(cmd, file, true) },
	}
	manifestArgument(cmd, &file)
	return cmd
}

func (c *cli) apply(cmd *cobra.Command, file string, dryRun bool) error {
	m, err := c.loadManifest(file)
	if err != nil {
		return err
	}
	to, err := c.connect()
	if err != nil {
		return err
	}
	folder, err := m.pack()
	if err != nil {
		return err
	}
	c.tellSkipped(folder)
	result, err := c.deploy(cmd.Context(), to, m, folder, dryRun)
	if err != nil {
		return err
	}
	c.tellWarnings(m.path, result.Warnings)
	return c.showApplied(result)
}

func (c *cli) validateCommand() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "validate MANIFEST",
		Short: "Check a manifest, without a server",
		RunE: func(cmd *cobra.Command, _ []string) error {
			m, err := c.loadManifest(file)
			if err != nil {
				return err
			}
			warnings := append(m.missing, m.warnings...)
			c.tellWarnings(m.path, warnings)
			return c.show(view{
				value: map[string]any{"app": m.app.Name, "valid": true, "warnings": append([]spec.Fault{}, warnings...)},
				names: []string{string(m.app.Name)},
				table: func(t *table) {
					t.linef("%s is valid: app %s, %s, %s", harmless(m.path), m.app.Name,
						count(len(m.app.Functions), "function"), count(len(m.app.Buckets), "bucket"))
				},
			})
		},
	}
	manifestArgument(cmd, &file)
	return cmd
}

func (c *cli) schemaCommand() *cobra.Command {
	return family("schema", "Print JSON Schemas", &cobra.Command{
		Use:   "app",
		Short: "The JSON Schema of manifests, for editors",
		Long:  "The JSON Schema of manifests. An editor with a YAML language server checks and completes\nmanifests that begin with\n\n  # yaml-language-server: $schema=./app.schema.json\n\nafter `pheromone schema app > app.schema.json`.",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintf(c.Stdout, "%s\n", spec.Schema())
			return err
		},
	})
}

// manifestArgument lets cmd take its manifest as its argument or with -f.
func manifestArgument(cmd *cobra.Command, file *string) {
	cmd.Flags().StringVarP(file, "file", "f", "", "the manifest, instead of as an argument: a file, a folder with an app.yaml, or -")
	_ = cmd.MarkFlagFilename("file", "yaml", "yml", "json")
	cmd.ValidArgsFunction = manifestFiles
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) > 1:
			return fmt.Errorf("one manifest at a time: there are %d", len(args))
		case len(args) == 1 && *file != "":
			return fmt.Errorf("the manifest is given twice: %s, and %s with -f", args[0], *file)
		case len(args) == 1:
			*file = args[0]
		}
		return nil
	}
}

func manifestFiles(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return []string{"yaml", "yml", "json"}, cobra.ShellCompDirectiveFilterFileExt
}

func (c *cli) showApplied(r wire.ApplyResult) error {
	return c.show(view{
		value: r,
		names: []string{string(r.App)},
		table: func(t *table) {
			switch {
			case len(r.Changes) == 0:
				t.linef("%s version %d: nothing changed", harmless(string(r.App)), r.Version)
			case r.DryRun:
				t.linef("%s: %s to be made", harmless(string(r.App)), count(len(r.Changes), "change"))
			default:
				t.linef("%s version %d: %s", harmless(string(r.App)), r.Version, count(len(r.Changes), "change"))
			}
			for _, change := range r.Changes {
				t.linef("  %s", c.changeLine(change))
			}
		},
	})
}

func (c *cli) changeLine(change wire.Change) string {
	switch change.Action {
	case "add":
		line := "+ " + harmless(change.Path)
		if change.To != "" {
			line += ": " + harmless(change.To)
		}
		return c.paint(c.StdoutTerminal, green, line)
	case "remove":
		return c.paint(c.StdoutTerminal, red, "- "+harmless(change.Path))
	}
	if change.Path == "artifact" { // hashes: a part tells them apart
		change.From, change.To = change.From[:min(12, len(change.From))], change.To[:min(12, len(change.To))]
	}
	return c.paint(c.StdoutTerminal, yellow, fmt.Sprintf("~ %s: %s → %s", harmless(change.Path), orDash(harmless(change.From)), orDash(harmless(change.To))))
}

// tellWarnings is for people; in JSON the warnings are part of the result.
func (c *cli) tellWarnings(file string, warnings []spec.Fault) {
	if c.format == formatJSON || c.format == formatJSONL || c.format == formatYAML {
		return
	}
	for _, w := range warnings {
		fmt.Fprintln(c.Stderr, faultLine(file, w))
	}
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

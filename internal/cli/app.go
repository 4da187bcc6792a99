package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pheromone-run/pheromone/client"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/spec/wire"
	"github.com/spf13/cobra"
)

func (c *cli) appCommand() *cobra.Command {
	return family("app", "Deployed apps and their versions",
		c.appLsCommand(), c.appShowCommand(), c.appHistoryCommand(), c.appRollbackCommand(), c.appDeleteCommand())
}

func (c *cli) appLsCommand() *cobra.Command {
	return &cobra.Command{
		Use: "ls", Aliases: []string{"list"}, Short: "List the deployed apps", Args: cobra.NoArgs,
		RunE: c.asking(func(ctx context.Context, server *client.Client, _ []string) error {
			apps, err := server.Apps(ctx)
			if err != nil {
				return err
			}
			return c.showApps(apps, func(a wire.App) string { return string(a.Name) })
		}),
	}
}

func (c *cli) appHistoryCommand() *cobra.Command {
	return &cobra.Command{
		Use: "history APP", Short: "List an app's versions, newest first", Args: cobra.ExactArgs(1),
		ValidArgsFunction: c.complete(c.apps),
		RunE: c.asking(func(ctx context.Context, server *client.Client, args []string) error {
			versions, err := server.AppVersions(ctx, spec.AppName(args[0]))
			if err != nil {
				return err
			}
			return c.showApps(versions, func(a wire.App) string { return strconv.FormatUint(a.Version, 10) })
		}),
	}
}

func (c *cli) showApps(apps []wire.App, name func(wire.App) string) error {
	names := make([]string, 0, len(apps))
	for _, a := range apps {
		names = append(names, name(a))
	}
	return c.show(view{
		value: wire.AppList{Items: append([]wire.App{}, apps...)}, items: anys(apps), names: names,
		table: func(t *table) {
			t.header("APP", "VERSION", "APPLIED", "ARTIFACT")
			for _, a := range apps {
				t.row(string(a.Name), strconv.FormatUint(a.Version, 10), ago(c.age(a.AppliedAt)), orDash(a.Artifact[:min(12, len(a.Artifact))]))
			}
		},
	})
}

func (c *cli) appShowCommand() *cobra.Command {
	var version uint64
	var manifest bool
	cmd := &cobra.Command{
		Use: "show APP", Short: "Show an app's functions, buckets and triggers", Args: cobra.ExactArgs(1),
		ValidArgsFunction: c.complete(c.apps),
		RunE: c.asking(func(ctx context.Context, server *client.Client, args []string) error {
			app, err := server.App(ctx, spec.AppName(args[0]), version)
			if err != nil {
				return err
			}
			if manifest {
				return c.writeBytes([]byte(app.Manifest))
			}
			return c.show(view{value: app, names: []string{string(app.Name)}, table: func(t *table) { describeApp(t, c, app) }})
		}),
	}
	cmd.Flags().Uint64Var(&version, "version", 0, "an earlier version")
	cmd.Flags().BoolVar(&manifest, "manifest", false, "print the manifest as it was applied")
	return cmd
}

// appShape is what the command line reads of an app's spec.
type appShape struct {
	Functions map[string]struct {
		Runtime string   `json:"runtime"`
		Command []string `json:"command"`
	} `json:"functions"`
	Buckets map[string]struct {
		Triggers []struct {
			Name      string          `json:"name"`
			Primitive string          `json:"primitive"`
			Target    json.RawMessage `json:"target"` // a name or a list of them
		} `json:"triggers"`
	} `json:"buckets"`
}

func describeApp(t *table, c *cli, app wire.App) {
	t.linef("%s version %d, applied %s", harmless(string(app.Name)), app.Version, ago(c.age(app.AppliedAt)))
	var shape appShape
	if json.Unmarshal(app.Spec, &shape) != nil {
		return
	}
	t.linef("functions")
	for _, name := range slices.Sorted(maps.Keys(shape.Functions)) {
		f := shape.Functions[name]
		t.linef("  %s  %s", harmless(name), harmless(strings.TrimSpace(f.Runtime+" "+strings.Join(f.Command, " "))))
	}
	t.linef("buckets")
	for _, name := range slices.Sorted(maps.Keys(shape.Buckets)) {
		t.linef("  %s", harmless(name))
		for _, trigger := range shape.Buckets[name].Triggers {
			t.linef("    %s  %s → %s", harmless(trigger.Name), harmless(trigger.Primitive), harmless(targets(trigger.Target)))
		}
	}
}

func targets(raw json.RawMessage) string {
	var several []string
	if json.Unmarshal(raw, &several) == nil {
		return strings.Join(several, ", ")
	}
	return strings.Trim(string(raw), `"`)
}

func (c *cli) appRollbackCommand() *cobra.Command {
	return &cobra.Command{
		Use: "rollback APP VERSION", Short: "Apply an earlier version of an app again", Args: cobra.ExactArgs(2),
		ValidArgsFunction: c.complete(c.apps, c.versions),
		RunE: func(cmd *cobra.Command, args []string) error {
			version, err := strconv.ParseUint(args[1], 10, 64)
			if err != nil || version == 0 {
				return usage("%q is not a version: use a number that `pheromone app history %s` lists", args[1], args[0])
			}
			server, err := c.connect()
			if err != nil {
				return err
			}
			ctx, cancel := c.bounded(cmd.Context())
			defer cancel()
			result, err := server.Rollback(ctx, spec.AppName(args[0]), version)
			if err != nil {
				return err
			}
			return c.showApplied(result)
		},
	}
}

func (c *cli) appDeleteCommand() *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use: "delete APP", Short: "Delete an app with its objects and sessions", Args: cobra.ExactArgs(1),
		ValidArgsFunction: c.complete(c.apps),
		RunE: func(cmd *cobra.Command, args []string) error {
			server, err := c.connect()
			if err != nil {
				return err
			}
			if err := c.confirm(cmd.Context(), yes, fmt.Sprintf("Delete app %s with all its objects and sessions?", args[0])); err != nil {
				return err
			}
			ctx, cancel := c.bounded(cmd.Context())
			defer cancel()
			if err := server.DeleteApp(ctx, spec.AppName(args[0])); err != nil {
				return err
			}
			c.notice("deleted app %s with its objects and sessions", args[0])
			return nil
		},
	}
	yesFlag(cmd, &yes)
	return cmd
}

func yesFlag(cmd *cobra.Command, yes *bool) {
	cmd.Flags().BoolVarP(yes, "yes", "y", false, "don't ask")
}

func ago(age string) string {
	if age == "-" {
		return age
	}
	return age + " ago"
}

func clock(t time.Time) string { return t.Local().Format("15:04:05.000") }

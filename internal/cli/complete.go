package cli

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pheromone-run/pheromone/client"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/spf13/cobra"
)

const (
	completionTime = time.Second // a shell waits for it at each press of the key
	completionMax  = 200
)

// source lists the names that an argument may be, given the arguments before it.
type source func(ctx context.Context, server *client.Client, before []string, typed string) []string

// complete completes each argument from its source. Without a server there are
// just no names.
func (c *cli) complete(sources ...source) cobra.CompletionFunc {
	return func(cmd *cobra.Command, before []string, typed string) ([]string, cobra.ShellCompDirective) {
		if len(before) >= len(sources) || sources[len(before)] == nil {
			return nil, cobra.ShellCompDirectiveDefault
		}
		serverURL, err := c.serverURL()
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		server, err := client.New(serverURL, client.WithoutDiscovery(),
			client.WithRetry(client.Retry{For: completionTime, Reach: completionTime / 2}))
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		parent := cmd.Context()
		if parent == nil {
			parent = context.Background()
		}
		ctx, cancel := context.WithTimeout(parent, completionTime)
		defer cancel()
		directive := cobra.ShellCompDirectiveNoFileComp
		var names []string
		for _, name := range sources[len(before)](ctx, server, before, typed) {
			if strings.HasPrefix(name, typed) && harmless(name) == name && len(names) < completionMax {
				names = append(names, name)
			}
			if strings.HasSuffix(name, "/") {
				directive |= cobra.ShellCompDirectiveNoSpace
			}
		}
		return names, directive
	}
}

func (c *cli) apps(ctx context.Context, server *client.Client, _ []string, _ string) []string {
	apps, _ := server.Apps(ctx)
	names := make([]string, 0, len(apps))
	for _, a := range apps {
		names = append(names, string(a.Name))
	}
	return names
}

func (c *cli) versions(ctx context.Context, server *client.Client, before []string, _ string) []string {
	versions, _ := server.AppVersions(ctx, spec.AppName(before[0]))
	names := make([]string, 0, len(versions))
	for _, v := range versions {
		names = append(names, strconv.FormatUint(v.Version, 10))
	}
	return names
}

func (c *cli) functions(ctx context.Context, server *client.Client, before []string, _ string) []string {
	return slices.Sorted(maps.Keys(shapeOf(ctx, server, before[0]).Functions))
}

func (c *cli) buckets(ctx context.Context, server *client.Client, before []string, _ string) []string {
	return slices.Sorted(maps.Keys(shapeOf(ctx, server, before[0]).Buckets))
}

// objects completes BUCKET/KEY: first buckets, then the keys of one.
func (c *cli) objects(ctx context.Context, server *client.Client, before []string, typed string) []string {
	bucket, prefix, inside := strings.Cut(typed, "/")
	if !inside {
		names := c.buckets(ctx, server, before, typed)
		for i := range names {
			names[i] += "/"
		}
		return names
	}
	page, _ := server.ListPage(ctx, spec.AppName(before[0]), spec.BucketName(bucket), client.ListOptions{Prefix: prefix, PageSize: completionMax})
	names := make([]string, 0, len(page.Items))
	for _, o := range page.Items {
		names = append(names, bucket+"/"+string(o.Key))
	}
	return names
}

func (c *cli) sessions(ctx context.Context, server *client.Client, before []string, _ string) []string {
	var names []string
	for s, err := range server.Sessions(ctx, spec.AppName(before[0]), client.SessionsOptions{PageSize: 50}) {
		if err != nil || len(names) == 50 {
			break
		}
		names = append(names, string(s.Session))
	}
	return names
}

func shapeOf(ctx context.Context, server *client.Client, app string) appShape {
	var shape appShape
	if a, err := server.App(ctx, spec.AppName(app), 0); err == nil {
		_ = json.Unmarshal(a.Spec, &shape) // without it there are no names to offer
	}
	return shape
}

func fixed(values ...string) cobra.CompletionFunc {
	return cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)
}

package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/pheromone-run/pheromone/client"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/spec/wire"
	"github.com/spf13/cobra"
)

func (c *cli) getCommand() *cobra.Command {
	var session, file string
	var stale, head bool
	cmd := &cobra.Command{
		Use: "get APP BUCKET/KEY", Short: "Print an object's bytes", Args: cobra.ExactArgs(2),
		Long:              "Print an object's bytes, as they are. With -o json or yaml the answer describes the object and holds\nits bytes in base64.",
		ValidArgsFunction: c.complete(c.apps, c.objects),
		RunE: func(cmd *cobra.Command, args []string) error {
			bucket, key, err := splitObject(args[1])
			if err != nil {
				return err
			}
			server, err := c.connect()
			if err != nil {
				return err
			}
			read := reading{server: server, app: spec.AppName(args[0]), session: spec.SessionID(session), bucket: bucket, key: key, options: client.GetOptions{Stale: stale}}
			ctx, cancel := c.carrying(cmd)
			defer cancel()
			switch {
			case head:
				return c.headObject(ctx, read)
			case file != "":
				return c.saveObject(ctx, read, file)
			}
			return c.printObject(ctx, read)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&session, "session", "", "an object of this session")
	flags.StringVar(&file, "output-file", "", "write the bytes to this file")
	flags.BoolVar(&stale, "stale", false, "take what the node has, even if there is a newer revision")
	flags.BoolVar(&head, "head", false, "describe the object without its bytes")
	cmd.MarkFlagsMutuallyExclusive("head", "output-file")
	return cmd
}

// reading is an object to be read.
type reading struct {
	server  *client.Client
	app     spec.AppName
	session spec.SessionID
	bucket  spec.BucketName
	key     spec.Key
	options client.GetOptions
}

func (r reading) to(ctx context.Context, w io.Writer) (wire.Object, error) {
	return r.server.GetTo(ctx, w, r.app, r.session, r.bucket, r.key, r.options)
}

func (r reading) whole(ctx context.Context) (wire.Object, error) {
	if r.session != "" {
		return r.server.GetSessionObject(ctx, r.app, r.session, r.bucket, r.key)
	}
	return r.server.Get(ctx, r.app, r.bucket, r.key, r.options)
}

func (c *cli) headObject(ctx context.Context, r reading) error {
	o, err := r.server.Head(ctx, r.app, r.session, r.bucket, r.key, r.options)
	if err != nil {
		return err
	}
	return c.show(view{value: o, names: []string{string(o.Key)}, table: func(t *table) { c.objectRows(t, []wire.Object{o}) }})
}

func (c *cli) printObject(ctx context.Context, r reading) error {
	if c.format == formatTable && !c.StdoutTerminal {
		_, err := r.to(ctx, c.Stdout)
		return err
	}
	o, err := r.whole(ctx)
	switch {
	case err != nil:
		return err
	case c.format == formatTable:
		return c.writeBytes(o.Data)
	}
	return c.show(view{value: o, names: []string{string(o.Key)}})
}

// saveObject never leaves a part of an object under the name that was asked for.
func (c *cli) saveObject(ctx context.Context, r reading, file string) error {
	f, err := os.CreateTemp(filepath.Dir(file), ".pheromone-get-*")
	if err != nil {
		return usage("%w", err)
	}
	o, err := r.to(ctx, f)
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Chmod(f.Name(), 0o644)
	}
	if err == nil {
		err = os.Rename(f.Name(), file)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	c.notice("wrote %s to %s", size(o.Size), file)
	return nil
}

func (c *cli) lsCommand() *cobra.Command {
	var session, after string
	var limit int
	cmd := &cobra.Command{
		Use: "ls APP [BUCKET[/PREFIX]]", Short: "List a bucket's objects, or an app's buckets", Args: cobra.RangeArgs(1, 2),
		ValidArgsFunction: c.complete(c.apps, c.buckets),
		RunE: c.asking(func(ctx context.Context, server *client.Client, args []string) error {
			app := spec.AppName(args[0])
			if len(args) == 1 {
				return c.listBuckets(ctx, server, app)
			}
			bucket, prefix, err := splitPrefix(args[1])
			if err != nil {
				return err
			}
			if limit < 0 {
				return usage("--limit must not be negative")
			}
			options := client.ListOptions{Session: spec.SessionID(session), Prefix: prefix, After: after, PageSize: 1000}
			if limit > 0 {
				options.PageSize = min(limit, 1000)
			}
			return c.listObjects(ctx, server, app, bucket, options, limit)
		}),
	}
	flags := cmd.Flags()
	flags.StringVar(&session, "session", "", "objects of this session")
	flags.StringVar(&after, "after", "", "begin behind this place, as an earlier list gave it")
	flags.IntVar(&limit, "limit", 1000, "at most so many; 0: all")
	return cmd
}

func (c *cli) listBuckets(ctx context.Context, server *client.Client, app spec.AppName) error {
	if _, err := server.App(ctx, app, 0); err != nil {
		return err
	}
	names := c.buckets(ctx, server, []string{string(app)}, "")
	items := make([]map[string]string, 0, len(names))
	for _, name := range names {
		items = append(items, map[string]string{"bucket": name})
	}
	return c.show(view{value: map[string]any{"items": items}, items: anys(items), names: names, table: func(t *table) {
		t.header("BUCKET")
		for _, name := range names {
			t.row(name)
		}
	}})
}

func (c *cli) listObjects(ctx context.Context, server *client.Client, app spec.AppName, bucket spec.BucketName, options client.ListOptions, limit int) error {
	list := wire.ObjectList{Items: []wire.Object{}}
	for limit == 0 || len(list.Items) < limit {
		page, err := server.ListPage(ctx, app, bucket, options)
		if err != nil {
			return err
		}
		list.Items = append(list.Items, page.Items...)
		list.Next = page.Next
		if page.Next == "" || page.Next == options.After {
			break
		}
		options.After = page.Next
		if limit > 0 {
			options.PageSize = min(1000, limit-len(list.Items))
		}
	}
	names := make([]string, 0, len(list.Items))
	for _, o := range list.Items {
		names = append(names, string(o.Key))
	}
	err := c.show(view{value: list, items: anys(list.Items), names: names, table: func(t *table) { c.objectRows(t, list.Items) }})
	if list.Next != "" {
		c.notice("there are more: --limit 0 for all, or --after '%s'", list.Next)
	}
	return err
}

func (c *cli) objectRows(t *table, objects []wire.Object) {
	t.header("KEY", "REVISION", "SIZE", "TYPE", "AGE", "SESSION")
	for _, o := range objects {
		bytes := size(o.Size)
		if o.Deleted {
			bytes += ", deleted" // what it had when it was deleted elsewhere
		}
		t.row(string(o.Key), strconv.FormatUint(uint64(o.Revision), 10), bytes, orDash(o.ContentType), c.age(o.CreatedAt), orDash(string(o.Session)))
	}
}

func (c *cli) rmCommand() *cobra.Command {
	var ifMatch, request string
	var follow bool
	var wait durationFlag
	cmd := &cobra.Command{
		Use: "rm APP BUCKET/KEY", Short: "Delete an object, and so start what its bucket's triggers say", Args: cobra.ExactArgs(2),
		Long:              "Delete a key-value object. If the bucket has triggers with on: delete, that starts a session with a\ncopy of the object, which is printed.",
		ValidArgsFunction: c.complete(c.apps, c.objects),
		RunE: func(cmd *cobra.Command, args []string) error {
			bucket, key, err := splitObject(args[1])
			if err != nil {
				return err
			}
			options := client.DeleteOptions{IdempotencyKey: request}
			if ifMatch != "" {
				if options.IfRevision, err = parseRevision(ifMatch); err != nil {
					return err
				}
			}
			server, err := c.connect()
			if err != nil {
				return err
			}
			ctx, cancel := c.bounded(cmd.Context())
			defer cancel()
			app := spec.AppName(args[0])
			result, err := server.Delete(ctx, app, bucket, key, options)
			if err != nil {
				return err
			}
			c.notice("deleted %s/%s", bucket, key)
			if result.Session == "" && c.format == formatTable && !follow && wait == 0 {
				return nil
			}
			return c.showDriven(cmd.Context(), server, app, result, follow, time.Duration(wait))
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&ifMatch, "if-match", "", "only if this is the object's revision")
	flags.BoolVar(&follow, "follow", false, "stay and show what the deletion drives, until its session ends")
	flags.Var(&wait, "wait", "wait this long for the session's result and print its outputs")
	flags.StringVar(&request, "idempotency-key", "", "name of this deletion: the same one again is not done twice")
	cmd.MarkFlagsMutuallyExclusive("follow", "wait")
	return cmd
}

func (c *cli) watchCommand() *cobra.Command {
	var from string
	cmd := &cobra.Command{
		Use: "watch APP BUCKET[/PREFIX]", Short: "Print what happens to a bucket's objects, as it happens", Args: cobra.ExactArgs(2),
		Long:              "Print what happens to a bucket's key-value objects, without gaps, until interrupted. With -o json or\njsonl every event is one line; its position, given to --from, goes on behind it.",
		ValidArgsFunction: c.complete(c.apps, c.buckets),
		RunE: func(cmd *cobra.Command, args []string) error {
			bucket, prefix, err := splitPrefix(args[1])
			if err != nil {
				return err
			}
			server, err := c.connect()
			if err != nil {
				return err
			}
			for e, err := range server.Watch(cmd.Context(), spec.AppName(args[0]), bucket, client.WatchOptions{Prefix: prefix, From: from}) {
				if err != nil {
					return err
				}
				if err := c.printEvent(e); err != nil {
					return err
				}
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&from, "from", "", "go on behind this position")
	return cmd
}

func (c *cli) printEvent(e wire.WatchEvent) error {
	switch c.format {
	case formatJSON, formatJSONL:
		return c.writeJSON(e, "")
	case formatYAML:
		if _, err := io.WriteString(c.Stdout, "---\n"); err != nil {
			return err
		}
		return c.writeYAML(e)
	case formatName:
		_, err := fmt.Fprintln(c.Stdout, c.line(string(e.Object.Key)))
		return err
	}
	at := e.Object.CreatedAt
	if at.IsZero() {
		at = c.Now()
	}
	_, err := fmt.Fprintf(c.Stdout, "%s  %-6s  %s  revision %d  %s\n", clock(at), harmless(e.Type), harmless(string(e.Object.Key)), e.Object.Revision, size(e.Object.Size))
	return err
}

package cli

import (
	"context"
	"fmt"
	"mime"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/pheromone-run/pheromone/client"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/spec/wire"
	"github.com/spf13/cobra"
)

type putFlags struct {
	session     string
	ifMatch     string
	contentType string
	meta        []string
	ttl         durationFlag
	deliver     durationFlag
	timeout     durationFlag
	wait        durationFlag
	follow      bool
	key         string
}

func (c *cli) putCommand() *cobra.Command {
	var f putFlags
	cmd := &cobra.Command{
		Use:   "put APP BUCKET/KEY [VALUE | @FILE | -]",
		Short: "Put an object, and so start what its bucket's triggers say",
		Long:  "Put an object into a bucket. The value is the argument itself, the content of a file (@FILE),\nor standard input (- or nothing). Write @@ for a value that starts with @.",
		Example: "  pheromone put wordcount documents/a.txt 'some words' --follow\n" +
			"  pheromone put wordcount documents/b.txt @b.txt --wait 10s\n" +
			"  date | pheromone put clock ticks/now --ttl 1h",
		Args:              cobra.RangeArgs(2, 3),
		ValidArgsFunction: c.complete(c.apps, c.objects),
		RunE:              func(cmd *cobra.Command, args []string) error { return c.put(cmd, args, f) },
	}
	flags := cmd.Flags()
	flags.StringVar(&f.session, "session", "", "put into this session, where objects are written once")
	flags.StringVar(&f.ifMatch, "if-match", "", "only if this is the object's revision; 0: only if it is not there; *: only if it is")
	flags.Var(&f.ttl, "ttl", "delete the object after this time")
	flags.Var(&f.deliver, "deliver-after", "let it count for triggers only after this time")
	flags.Var(&f.timeout, "session-timeout", "how long the session that it starts may run before it fails (default: as the app says)")
	flags.StringVar(&f.contentType, "content-type", "", "content type (default: from the name of a @FILE, else text/plain for an argument)")
	flags.StringArrayVar(&f.meta, "meta", nil, "metadata as name=value; may be repeated")
	flags.BoolVar(&f.follow, "follow", false, "stay and show what the put drives, until its session ends")
	flags.Var(&f.wait, "wait", "wait this long for the session's result and print its outputs")
	flags.StringVar(&f.key, "idempotency-key", "", "name of this put: the same one again is not done twice")
	cmd.MarkFlagsMutuallyExclusive("follow", "wait")
	return cmd
}

func (c *cli) put(cmd *cobra.Command, args []string, f putFlags) error {
	bucket, key, err := splitObject(args[1])
	if err != nil {
		return err
	}
	options, err := f.options(args[2:])
	if err != nil {
		return err
	}
	if f.session != "" && (f.ttl > 0 || f.ifMatch != "") {
		return usage("--ttl and --if-match are for objects without a session: in a session an object is written once")
	}
	server, err := c.connect()
	if err != nil {
		return err
	}
	body, err := c.value(args[2:])
	if err != nil {
		return err
	}
	defer body.Close()
	app := spec.AppName(args[0])
	var result wire.PutResult
	ctx, cancel := c.carrying(cmd)
	defer cancel()
	if f.session != "" {
		result, err = server.PutSession(ctx, app, spec.SessionID(f.session), bucket, key, body, options)
	} else {
		result, err = server.Put(ctx, app, bucket, key, body, options)
	}
	if err != nil {
		return err
	}
	return c.showDriven(cmd.Context(), server, app, result, f.follow, time.Duration(f.wait))
}

// showDriven prints what a put or a delete has done, or follows or awaits the
// session that it drives.
func (c *cli) showDriven(ctx context.Context, server *client.Client, app spec.AppName, r wire.PutResult, follow bool, wait time.Duration) error {
	var err error
	switch {
	case !follow && wait == 0:
		return c.showPut(r)
	case r.Session == "":
		c.notice("it drives nothing: no trigger of bucket %s counts it", r.Bucket)
		return c.showPut(r)
	case follow:
		err = c.follow(ctx, server, app, r.Session)
	default:
		err = c.awaitResult(ctx, server, app, r.Session, wait, false)
	}
	if spec.CodeOf(err) == spec.CodeNotFound { // the answer of a repeated request lives longer
		return client.NoResult("wait for the result", r.Session)
	}
	return err
}

func (f putFlags) options(value []string) (client.PutOptions, error) {
	o := client.PutOptions{
		ContentType: f.contentType, TTL: time.Duration(f.ttl), DeliverAfter: time.Duration(f.deliver),
		SessionTimeout: time.Duration(f.timeout), IdempotencyKey: f.key,
	}
	var err error
	if o.Meta, err = parseMeta(f.meta); err != nil {
		return o, err
	}
	if o.ContentType == "" {
		o.ContentType = contentTypeOf(value)
	}
	switch f.ifMatch {
	case "":
	case "0":
		o.IfAbsent = true
	case "*":
		o.IfPresent = true
	default:
		o.IfRevision, err = parseRevision(f.ifMatch)
	}
	return o, err
}

func parseRevision(s string) (spec.Revision, error) {
	n, err := strconv.ParseUint(strings.Trim(s, `"`), 10, 64)
	if err != nil || n == 0 {
		return 0, usage("--if-match %q: use a revision, as put and ls print it", s)
	}
	return spec.Revision(n), nil
}

// contentTypeOf guesses from what stands on the command line; "" leaves it to the client.
func contentTypeOf(value []string) string {
	switch {
	case len(value) == 0 || value[0] == "-":
		return ""
	case strings.HasPrefix(value[0], "@") && !strings.HasPrefix(value[0], "@@"):
		return mime.TypeByExtension(filepath.Ext(value[0]))
	}
	return "text/plain; charset=utf-8"
}

func (c *cli) showPut(r wire.PutResult) error {
	var names []string
	if r.Session != "" {
		names = []string{string(r.Session)}
	}
	return c.show(view{
		value: r,
		names: names,
		table: func(t *table) {
			if r.Key == "" { // a session that no single object started
				t.linef("session %s", harmless(string(r.Session)))
				return
			}
			existed := ""
			if r.Existed {
				existed = "  (was there already)"
			}
			session := ""
			if r.Session != "" {
				session = "  session " + harmless(string(r.Session))
			}
			t.linef("%s  revision %d%s%s", harmless(fmt.Sprintf("%s/%s", r.Bucket, r.Key)), r.Revision, session, existed)
		},
	})
}

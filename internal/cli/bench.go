package cli

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/pheromone-run/pheromone/client"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/spf13/cobra"
)

func (c *cli) benchCommand() *cobra.Command {
	return family("bench", "Measure a cluster with its own load", c.benchObjectsCommand(), c.benchInvokeCommand())
}

const (
	// benchClients and benchTime bound what a bench asks of a cluster and of itself.
	benchClients = 1024
	benchTime    = 10 * time.Minute
	benchBytes   = 64 << 20
)

// benchFlags say how hard and for how long a cluster is worked.
type benchFlags struct {
	clients int
	lasts   durationFlag
}

func (f *benchFlags) add(cmd *cobra.Command) {
	f.lasts = durationFlag(5 * time.Second)
	cmd.Flags().IntVar(&f.clients, "clients", 16, "requests in flight")
	cmd.Flags().Var(&f.lasts, "for", "how long to measure each kind of request")
}

func (f *benchFlags) check() error {
	switch {
	case f.clients < 1 || f.clients > benchClients:
		return usage("--clients %d: use 1 to %d", f.clients, benchClients)
	case f.lasts <= 0 || time.Duration(f.lasts) > benchTime:
		return usage("--for %v: use more than 0, and at most %v", f.lasts.String(), benchTime)
	}
	return nil
}

func (c *cli) benchObjectsCommand() *cobra.Command {
	var f benchFlags
	length := sizeFlag(100)
	cmd := &cobra.Command{
		Use: "objects [VALUE | @FILE | -]", Short: "Measure puts, gets and watches", Args: cobra.MaximumNArgs(1),
		Long: "Measure how fast objects are put, read (linearizably) and seen by a watch. It works in an app of its own,\n" +
			"which it deletes in the end. Without VALUE the objects are random bytes.",
		Example: "  pheromone bench objects\n  pheromone bench objects @order.json --clients 64 --for 10s -o json",
		RunE: func(cmd *cobra.Command, args []string) error {
			payload, err := c.benchPayload(args, int64(length))
			if err == nil {
				err = f.check()
			}
			if err != nil {
				return err
			}
			server, err := c.connect()
			if err != nil {
				return err
			}
			return c.benchObjects(cmd.Context(), server, payload, f)
		},
	}
	f.add(cmd)
	cmd.Flags().Var(&length, "size", "bytes of each object")
	return cmd
}

// benchPayload returns what is sent: what an argument stands for, or random bytes.
func (c *cli) benchPayload(args []string, length int64) ([]byte, error) {
	if len(args) == 0 {
		if length > benchBytes {
			return nil, usage("--size %s: use at most %s", spec.FormatSize(length), spec.FormatSize(benchBytes))
		}
		payload := make([]byte, length)
		_, err := rand.Read(payload)
		return payload, err
	}
	value, err := c.value(args)
	if err != nil {
		return nil, err
	}
	defer value.Close()
	payload, err := io.ReadAll(io.LimitReader(value, benchBytes+1))
	if err != nil {
		return nil, usage("read the value: %w", err)
	}
	if len(payload) > benchBytes {
		return nil, usage("the value has more than %s", spec.FormatSize(benchBytes))
	}
	return payload, nil
}

const benchBucket = "objects"

func (c *cli) benchObjects(ctx context.Context, server *client.Client, payload []byte, f benchFlags) (err error) {
	app := spec.AppName("bench-" + strings.ToLower(rand.Text()[:8]))
	applying, cancel := c.bounded(ctx)
	defer cancel()
	if _, err := server.Apply(applying, app, []byte(fmt.Sprintf("apiVersion: pheromone/v1\napp: %s\nbuckets: {%s: {}}\n", app, benchBucket)), client.ApplyOptions{}); err != nil {
		return err
	}
	defer func() {
		// Also after an interrupt: nobody else knows of the app.
		deleting, cancel := c.bounded(context.WithoutCancel(ctx))
		defer cancel()
		if gone := server.DeleteApp(deleting, app); err == nil {
			err = gone
		}
	}()
	key := func(worker, n int) spec.Key { return spec.Key(fmt.Sprintf("%d-%d", worker, n%benchKeys)) }
	puts := measure(ctx, f, "put", func(ctx context.Context, worker, n int) error {
		_, err := server.Put(ctx, app, benchBucket, key(worker, n), bytes.NewReader(payload), client.PutOptions{})
		return err
	})
	gets := measure(ctx, f, "get", func(ctx context.Context, worker, n int) error {
		_, err := server.Get(ctx, app, benchBucket, key(worker, n%max(1, min(puts.least, benchKeys))), client.GetOptions{})
		return err
	})
	seen, err := benchWatch(ctx, server, app, payload, f)
	if err != nil {
		return err
	}
	return c.showBench(ctx, len(payload), puts, gets, seen)
}

// benchKeys is how many keys each client uses.
const benchKeys = 1000

// benchWatch measures from the beginning of a put until a watch shows it.
func benchWatch(ctx context.Context, server *client.Client, app spec.AppName, payload []byte, f benchFlags) (measured, error) {
	f.clients = 1
	from, err := server.Put(ctx, app, benchBucket, "watched", bytes.NewReader(payload), client.PutOptions{})
	if err != nil {
		return measured{}, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	events := make(chan spec.Revision)
	go func() {
		defer close(events)
		for event, err := range server.Watch(ctx, app, benchBucket, client.WatchOptions{Prefix: "watched"}) {
			if err != nil {
				return
			}
			select {
			case events <- event.Object.Revision:
			case <-ctx.Done():
				return
			}
		}
	}()
	// The watch is there once it shows a put.
	for open := false; !open; {
		put, err := server.Put(ctx, app, benchBucket, "watched", bytes.NewReader(payload), client.PutOptions{})
		if err != nil {
			return measured{}, err
		}
		from = put
		select {
		case _, open = <-events:
		case <-time.After(50 * time.Millisecond):
		}
	}
	last := from.Revision
	return measure(ctx, f, "put until watched", func(ctx context.Context, _, _ int) error {
		put, err := server.Put(ctx, app, benchBucket, "watched", bytes.NewReader(payload), client.PutOptions{})
		if err != nil {
			return err
		}
		for last = 0; last < put.Revision; {
			var ok bool
			if last, ok = <-events; !ok {
				return spec.Errorf(spec.CodeUnavailable, "the watch has ended")
			}
		}
		return nil
	}), nil
}

func (c *cli) benchInvokeCommand() *cobra.Command {
	var f benchFlags
	cmd := &cobra.Command{
		Use: "invoke APP FUNCTION [INPUT | @FILE | -]", Short: "Measure a function of an app that is deployed, from the call to the session's end", Args: cobra.RangeArgs(2, 3),
		Long: "Invoke a function again and again, each time waiting for its session's end. The sessions are kept as the\n" +
			"app's others are, and what they do is done: measure an app that is made for it.",
		Example:           "  pheromone bench invoke wordcount split @book.txt --clients 8",
		ValidArgsFunction: c.complete(c.apps, c.functions),
		RunE: func(cmd *cobra.Command, args []string) error {
			value := args[2:]
			if len(value) == 0 {
				value = []string{""}
			}
			payload, err := c.benchPayload(value, 0)
			if err == nil {
				err = f.check()
			}
			if err != nil {
				return err
			}
			server, err := c.connect()
			if err != nil {
				return err
			}
			app, function := spec.AppName(args[0]), spec.FunctionName(args[1])
			contentType := contentTypeOf(value)
			invoke := func(ctx context.Context, _, _ int) error {
				r, err := server.Invoke(ctx, app, function, bytes.NewReader(payload), client.InvokeOptions{ContentType: contentType})
				if err != nil {
					return err
				}
				if r, err = server.Result(ctx, app, r.Session, client.ResultOptions{Wait: benchTime}); err != nil {
					return err
				}
				return client.ResultError("wait for the result", r)
			}
			if err := invoke(cmd.Context(), 0, 0); err != nil { // also has its process started
				return err
			}
			return c.showBench(cmd.Context(), len(payload), measure(cmd.Context(), f, "invoke", invoke))
		},
	}
	f.add(cmd)
	return cmd
}

// showBench prints what was measured. It fails if a kind of request never
// succeeded, and tells of the first error if some did not.
func (c *cli) showBench(ctx context.Context, bytes int, all ...measured) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	for _, m := range all {
		if m.Done == 0 {
			return fmt.Errorf("%s: none of %d requests succeeded: %w", m.Work, m.Failed, m.first)
		}
	}
	report := benchReport{Bytes: bytes}
	for _, m := range all {
		report.Work = append(report.Work, m.benchWork)
		if m.Failed > 0 {
			fmt.Fprintf(c.Stderr, "%s: %d of %d requests failed, the first with: %s\n", m.Work, m.Failed, m.Failed+m.Done, harmless(m.first.Error()))
		}
	}
	return c.show(view{value: report, items: anys(report.Work), table: func(t *table) {
		t.header("WORK", "CLIENTS", "BYTES", "DONE", "PER SECOND", "P50", "P90", "P99", "MAX", "FAILED")
		for _, w := range report.Work {
			t.row(w.Work, fmt.Sprint(w.Clients), fmt.Sprint(bytes), fmt.Sprint(w.Done), fmt.Sprintf("%.0f", w.PerSecond),
				millis(w.P50), millis(w.P90), millis(w.P99), millis(w.Max), fmt.Sprint(w.Failed))
		}
	}})
}

func millis(ms float64) string { return fmt.Sprintf("%.2fms", ms) }

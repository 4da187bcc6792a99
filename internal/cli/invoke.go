package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/pheromone-run/pheromone/client"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/spec/wire"
	"github.com/spf13/cobra"
)

func (c *cli) invokeCommand() *cobra.Command {
	wait, timeout := durationFlag(10*time.Second), durationFlag(0)
	var async bool
	var contentType, key string
	var meta []string
	cmd := &cobra.Command{
		Use:   "invoke APP FUNCTION [INPUT | @FILE | -]",
		Short: "Run a function and print its outputs",
		Long:  "Run a function with an input and print the session's outputs: one output as its bytes, several one after\nthe other, or with -o json the whole result. Without INPUT, the input is empty on a terminal and\nstandard input in a pipe.",
		Example: "  pheromone invoke hello greet 'Ada'\n" +
			"  pheromone invoke wordcount split @book.txt --wait 1m -o json\n" +
			"  pheromone invoke wordcount split @book.txt --async",
		Args:              cobra.RangeArgs(2, 3),
		ValidArgsFunction: c.complete(c.apps, c.functions),
		RunE: func(cmd *cobra.Command, args []string) error {
			fields, err := parseMeta(meta)
			if err != nil {
				return err
			}
			value := args[2:]
			if len(value) == 0 && c.StdinTerminal {
				value = []string{""}
			}
			if contentType == "" {
				contentType = contentTypeOf(value)
			}
			server, err := c.connect()
			if err != nil {
				return err
			}
			input, err := c.value(value)
			if err != nil {
				return err
			}
			defer input.Close()
			app := spec.AppName(args[0])
			ctx, cancel := c.carrying(cmd)
			defer cancel()
			started, err := server.Invoke(ctx, app, spec.FunctionName(args[1]), input,
				client.InvokeOptions{SessionTimeout: time.Duration(timeout), ContentType: contentType, Meta: fields, IdempotencyKey: key})
			if err != nil {
				return err
			}
			if async || wait == 0 {
				return c.showStarted(started)
			}
			err = c.awaitResult(cmd.Context(), server, app, started.Session, time.Duration(wait), false)
			if spec.CodeOf(err) == spec.CodeNotFound { // the answer of a repeated request lives longer
				return client.NoResult("wait for the result", started.Session)
			}
			return err
		},
	}
	flags := cmd.Flags()
	flags.Var(&wait, "wait", "how long to wait for the session's end; 0: don't")
	flags.Var(&timeout, "session-timeout", "how long the session may run before it fails (default: as the app says)")
	flags.BoolVar(&async, "async", false, "print the session and don't wait")
	flags.StringVar(&contentType, "content-type", "", "content type of the input")
	flags.StringArrayVar(&meta, "meta", nil, "metadata as name=value; may be repeated")
	flags.StringVar(&key, "idempotency-key", "", "name of this call: the same one again is not done twice")
	cmd.MarkFlagsMutuallyExclusive("wait", "async")
	return cmd
}

func (c *cli) showStarted(r wire.Result) error {
	return c.show(view{
		value: r, names: []string{string(r.Session)},
		table: func(t *table) { t.linef("session %s", harmless(string(r.Session))) },
	})
}

// awaitResult waits for a session's end and prints what it came to.
func (c *cli) awaitResult(ctx context.Context, server *client.Client, app spec.AppName, session spec.SessionID, wait time.Duration, untilOutput bool) error {
	r, err := server.Result(ctx, app, session, client.ResultOptions{Wait: wait, UntilOutput: untilOutput})
	if err != nil {
		return err
	}
	if untilOutput && r.Status == wire.SessionRunning && len(r.Outputs) > 0 {
		return c.showResult(r)
	}
	return c.endWith(app, r)
}

// endWith prints a result and turns one that is not a completed session's into
// the error that it is.
func (c *cli) endWith(app spec.AppName, r wire.Result) error {
	if err := c.showResult(r); err != nil {
		return err
	}
	err := client.ResultError("wait for the result", r)
	switch e, _ := errors.AsType[*client.Error](err); spec.CodeOf(err) {
	case spec.CodeSessionFailed:
		e.Op = fmt.Sprintf("session %s", r.Session)
		e.Err = e.Err.WithHint(fmt.Sprintf("see `pheromone session show %s %s` and `pheromone logs %s`", app, r.Session, app))
		if r.Error != nil && r.Error.Detail != "" && c.format == formatTable {
			fmt.Fprintln(c.Stderr, harmlessText(strings.TrimRight(r.Error.Detail, "\n")))
		}
	case spec.CodeCancelled:
		e.Err = e.Err.WithHint(fmt.Sprintf("see `pheromone session show %s %s`", app, r.Session))
	case spec.CodeTimeout:
		e.Err = e.Err.WithHint(fmt.Sprintf("it goes on: `pheromone session result %s %s --wait 1m` waits for it", app, r.Session))
	}
	return err
}

func (c *cli) showResult(r wire.Result) error {
	if c.format != formatTable {
		names := make([]string, 0, len(r.Outputs))
		for _, o := range r.Outputs {
			names = append(names, fmt.Sprintf("%s/%s", o.Bucket, o.Key))
		}
		if r.Outputs == nil {
			r.Outputs = []wire.Output{}
		}
		return c.show(view{value: r, names: names})
	}
	switch {
	case len(r.Outputs) == 1:
		return c.writeBytes(r.Outputs[0].Data)
	case len(r.Outputs) == 0 && r.Status == wire.SessionCompleted:
		c.notice("session %s completed without outputs", r.Session)
	}
	for _, o := range r.Outputs {
		if _, err := fmt.Fprintf(c.Stdout, "--- %s (%s, %s)\n", harmless(fmt.Sprintf("%s/%s", o.Bucket, o.Key)), harmless(orDash(o.ContentType)), size(o.Size)); err != nil {
			return err
		}
		data := o.Data
		if len(data) > 0 && data[len(data)-1] != '\n' {
			data = append(data[:len(data):len(data)], '\n')
		}
		if err := c.writeBytes(data); err != nil {
			return err
		}
	}
	return nil
}

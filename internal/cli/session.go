package cli

import (
	"fmt"
	"strconv"
	"time"

	"github.com/pheromone-run/pheromone/client"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/spec/wire"
	"github.com/spf13/cobra"
)

func (c *cli) sessionCommand() *cobra.Command {
	return family("session", "Runs of workflows: what they did, what they wait for",
		c.sessionLsCommand(), c.sessionShowCommand(), c.sessionResultCommand(), c.sessionHistoryCommand(),
		c.sessionCancelCommand(), c.sessionRerunCommand(), c.sessionPurgeCommand())
}

func (c *cli) sessionLsCommand() *cobra.Command {
	var status, function string
	var limit int
	cmd := &cobra.Command{
		Use: "ls APP", Aliases: []string{"list"}, Short: "List sessions, newest first", Args: cobra.ExactArgs(1),
		ValidArgsFunction: c.complete(c.apps),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch wire.SessionStatus(status) {
			case "", wire.SessionRunning, wire.SessionCompleted, wire.SessionFailed, wire.SessionCancelled:
			default:
				return usage("--status %q: use running, completed, failed or cancelled", status)
			}
			if limit < 0 {
				return usage("--limit must not be negative")
			}
			server, err := c.connect()
			if err != nil {
				return err
			}
			ctx, cancel := c.bounded(cmd.Context())
			defer cancel()
			options := client.SessionsOptions{Status: wire.SessionStatus(status), Function: spec.FunctionName(function), PageSize: 1000}
			if limit > 0 {
				options.PageSize = min(limit+1, 1000)
			}
			sessions := []wire.Session{}
			for s, err := range server.Sessions(ctx, spec.AppName(args[0]), options) {
				if err != nil {
					return err
				}
				if limit > 0 && len(sessions) == limit {
					c.notice("there are more: --limit 0 for all")
					break
				}
				sessions = append(sessions, s)
			}
			return c.showSessions(sessions)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&status, "status", "", "only running, completed, failed or cancelled ones")
	flags.StringVar(&function, "function", "", "only sessions that this function ran in")
	flags.IntVar(&limit, "limit", 50, "at most so many; 0: all")
	_ = cmd.RegisterFlagCompletionFunc("status", fixed("running", "completed", "failed", "cancelled"))
	return cmd
}

func (c *cli) showSessions(sessions []wire.Session) error {
	names := make([]string, 0, len(sessions))
	for _, s := range sessions {
		names = append(names, string(s.Session))
	}
	return c.show(view{value: wire.SessionList{Items: sessions}, items: anys(sessions), names: names, table: func(t *table) {
		t.header("SESSION", "STATUS", "AGE", "TOOK", "INVOCATIONS", "STARTED BY")
		for _, s := range sessions {
			invocations := strconv.Itoa(s.Invocations)
			if s.PendingInvocations > 0 {
				invocations += fmt.Sprintf(" (%d pending)", s.PendingInvocations)
			}
			t.row(string(s.Session), string(s.Status), c.age(s.CreatedAt), c.took(s), invocations, origin(s.Origin))
		}
	}})
}

func (c *cli) took(s wire.Session) string {
	if s.EndedAt.IsZero() {
		return "-"
	}
	return short(s.EndedAt.Sub(s.CreatedAt))
}

// onSession is a command that does one thing with APP SESSION.
func (c *cli) onSession(verb, text string, do func(cmd *cobra.Command, server *client.Client, app spec.AppName, session spec.SessionID) error) *cobra.Command {
	return &cobra.Command{
		Use: verb + " APP SESSION", Short: text, Args: cobra.ExactArgs(2),
		ValidArgsFunction: c.complete(c.apps, c.sessions),
		RunE: func(cmd *cobra.Command, args []string) error {
			server, err := c.connect()
			if err != nil {
				return err
			}
			return do(cmd, server, spec.AppName(args[0]), spec.SessionID(args[1]))
		},
	}
}

func (c *cli) sessionResultCommand() *cobra.Command {
	var wait durationFlag
	var untilOutput bool
	cmd := c.onSession("result", "Print what a session came to", func(cmd *cobra.Command, server *client.Client, app spec.AppName, session spec.SessionID) error {
		return c.awaitResult(cmd.Context(), server, app, session, time.Duration(wait), untilOutput)
	})
	cmd.Flags().Var(&wait, "wait", "how long to wait for the session's end")
	cmd.Flags().BoolVar(&untilOutput, "until-output", false, "wait for the first output only")
	return cmd
}

func (c *cli) sessionHistoryCommand() *cobra.Command {
	return c.onSession("history", "List a session's invocations and attempts", func(cmd *cobra.Command, server *client.Client, app spec.AppName, session spec.SessionID) error {
		ctx, cancel := c.bounded(cmd.Context())
		defer cancel()
		history, err := historyOf(ctx, server, app, session, maxHistory)
		if err != nil {
			return err
		}
		names := make([]string, 0, len(history.Invocations))
		for _, i := range history.Invocations {
			names = append(names, i.ID)
		}
		return c.show(view{value: history, items: anys(history.Invocations), names: names, table: func(t *table) {
			t.header("INVOCATION", "FUNCTION", "STATE", "FIRED BY", "QUEUED", "ATTEMPT", "STARTED", "TOOK", "ERROR")
			for _, i := range history.Invocations {
				historyRows(t, i)
			}
		}})
	})
}

func historyRows(t *table, i wire.Invocation) {
	fired := fmt.Sprintf("%s/%s", i.Bucket, i.Trigger)
	if len(i.Attempts) == 0 {
		t.row(shortID(i.ID), string(i.Function), i.State, fired, clock(i.QueuedAt), "-", "-", "-", "-")
	}
	for _, a := range i.Attempts {
		took, failure := "-", "-"
		if !a.EndedAt.IsZero() {
			took = short(a.EndedAt.Sub(a.StartedAt))
		}
		if a.Error != nil {
			failure = a.Error.Kind + ": " + a.Error.Message
		}
		t.row(shortID(i.ID), string(i.Function), i.State, fired, clock(i.QueuedAt), strconv.Itoa(a.Number), clock(a.StartedAt), took, failure)
	}
}

func (c *cli) sessionCancelCommand() *cobra.Command {
	return c.onSession("cancel", "Stop a session: nothing more of it is started", func(cmd *cobra.Command, server *client.Client, app spec.AppName, session spec.SessionID) error {
		ctx, cancel := c.bounded(cmd.Context())
		defer cancel()
		s, err := server.Cancel(ctx, app, session)
		if err != nil {
			return err
		}
		return c.show(view{value: s, names: []string{string(s.Session)}, table: func(t *table) {
			line := fmt.Sprintf("session %s  %s", s.Session, s.Status)
			if s.Status != wire.SessionCancelled {
				line += "  (it had ended before: there was nothing to cancel)"
			}
			t.linef("%s", harmless(line))
		}})
	})
}

func (c *cli) sessionRerunCommand() *cobra.Command {
	var from string
	var follow bool
	var wait durationFlag
	cmd := c.onSession("rerun", "Run a session again, as a new one", func(cmd *cobra.Command, server *client.Client, app spec.AppName, session spec.SessionID) error {
		result, err := server.Rerun(cmd.Context(), app, session, from)
		switch {
		case err != nil:
			return err
		case follow:
			return c.follow(cmd.Context(), server, app, result.Session)
		case wait > 0:
			return c.awaitResult(cmd.Context(), server, app, result.Session, time.Duration(wait), false)
		}
		return c.showPut(result)
	})
	flags := cmd.Flags()
	flags.StringVar(&from, "from", "", "begin with this stored object, as BUCKET/KEY, instead of what started the session")
	flags.BoolVar(&follow, "follow", false, "stay and show what it does")
	flags.Var(&wait, "wait", "wait this long for the result and print its outputs")
	cmd.MarkFlagsMutuallyExclusive("follow", "wait")
	return cmd
}

func (c *cli) sessionPurgeCommand() *cobra.Command {
	var yes bool
	cmd := c.onSession("purge", "Delete an ended session with its objects and history", func(cmd *cobra.Command, server *client.Client, app spec.AppName, session spec.SessionID) error {
		if err := c.confirm(cmd.Context(), yes, fmt.Sprintf("Delete session %s with its objects and history?", session)); err != nil {
			return err
		}
		ctx, cancel := c.bounded(cmd.Context())
		defer cancel()
		if err := server.Purge(ctx, app, session); err != nil {
			return err
		}
		c.notice("purged session %s", session)
		return nil
	})
	yesFlag(cmd, &yes)
	return cmd
}

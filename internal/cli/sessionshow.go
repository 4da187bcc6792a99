package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/pheromone-run/pheromone/client"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/spec/wire"
	"github.com/spf13/cobra"
)

const (
	maxHistory  = 20_000 // invocations that show and history hold in memory and print
	treeHistory = 500    // those that show prints without --full
	historyPage = 1000
)

func (c *cli) sessionShowCommand() *cobra.Command {
	var full bool
	cmd := c.onSession("show", "Show a session as a tree: what ran, when, why, and what triggers wait for", func(cmd *cobra.Command, server *client.Client, app spec.AppName, session spec.SessionID) error {
		ctx, cancel := c.bounded(cmd.Context())
		defer cancel()
		// The session is asked for by itself, since only that answer tells what its
		// triggers wait for.
		s, err := server.Session(ctx, app, session)
		if err != nil {
			return err
		}
		limit := maxHistory
		if c.format == formatTable && !full {
			limit = treeHistory
		}
		history, err := historyOf(ctx, server, app, session, limit)
		if err != nil {
			return err
		}
		history.Session = s
		return c.show(view{value: history, names: []string{string(s.Session)}, table: func(t *table) {
			tree := sessionTree{c: c, t: t, history: history, full: full}
			tree.print()
		}})
	})
	cmd.Flags().BoolVar(&full, "full", false, "show every invocation, and each failure with all that is known of it")
	return cmd
}

// historyOf fetches the first limit invocations of a session.
func historyOf(ctx context.Context, server *client.Client, app spec.AppName, session spec.SessionID, limit int) (wire.History, error) {
	all, err := server.History(ctx, app, session, client.HistoryOptions{Limit: min(limit, historyPage)})
	for err == nil && all.Next != "" && len(all.Invocations) < limit {
		var page wire.History
		after := all.Next
		page, err = server.History(ctx, app, session, client.HistoryOptions{After: after, Limit: historyPage})
		all.Invocations = append(all.Invocations, page.Invocations...)
		if all.Next = page.Next; page.Next == after {
			break
		}
	}
	if all.Invocations == nil {
		all.Invocations = []wire.Invocation{}
	}
	return all, err
}

// times tells when an invocation was queued, started and ended, from the
// session's start on.
func times(i wire.Invocation, start time.Time) string {
	parts := []string{"queued +" + short(max(0, i.QueuedAt.Sub(start)))}
	if n := len(i.Attempts); n > 0 {
		last := i.Attempts[n-1]
		parts = append(parts, "started +"+short(max(0, last.StartedAt.Sub(start))))
		if !last.EndedAt.IsZero() {
			parts = append(parts, "took "+short(last.EndedAt.Sub(last.StartedAt)))
		}
		if last.Number > 1 {
			parts = append(parts, fmt.Sprintf("%d attempts", last.Number))
		}
	}
	if !i.EndedAt.IsZero() {
		parts = append(parts, "ended +"+short(max(0, i.EndedAt.Sub(start))))
	}
	if !i.NextAt.IsZero() && i.EndedAt.IsZero() {
		parts = append(parts, "next attempt +"+short(max(0, i.NextAt.Sub(start))))
	}
	return strings.Join(parts, ", ")
}

// why tells which trigger fired an invocation and with what.
func why(i wire.Invocation) string {
	const shown = 5
	var inputs []string
	for _, input := range i.Inputs[:min(shown, len(i.Inputs))] {
		text := string(input.Key)
		if input.Producer != "" {
			text += " from " + shortID(input.Producer)
		}
		inputs = append(inputs, text)
	}
	if more := max(i.InputCount, len(i.Inputs)) - len(inputs); more > 0 {
		inputs = append(inputs, fmt.Sprintf("%d more", more))
	}
	return fmt.Sprintf("fired by %s/%s with %s", i.Bucket, i.Trigger, orDash(strings.Join(inputs, ", ")))
}

func (s *sessionTree) waiting(waiting []wire.Waiting) {
	if len(waiting) == 0 {
		return
	}
	s.t.linef("triggers that wait")
	for _, w := range waiting {
		line := fmt.Sprintf("%s/%s  %s  has %d", w.Bucket, w.Trigger, w.Primitive, w.Have)
		if w.Need > 0 {
			line += fmt.Sprintf(", needs %d more", w.Need)
		}
		if len(w.Missing) > 0 {
			var keys []string
			for _, k := range w.Missing[:min(10, len(w.Missing))] {
				keys = append(keys, string(k))
			}
			if w.Need > len(keys) {
				keys = append(keys, "…")
			}
			line += ": " + strings.Join(keys, ", ")
		}
		if !w.Deadline.IsZero() {
			line += ", fires at " + clock(w.Deadline)
		}
		if w.Stalled != "" {
			line += ", stalled: " + w.Stalled
		}
		s.t.linef("  %s", harmless(line))
	}
}

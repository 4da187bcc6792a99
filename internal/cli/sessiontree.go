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

// maxHistory bounds what show and history hold in memory and print.
const maxHistory = 20_000

func (c *cli) sessionShowCommand() *cobra.Command {
	return c.onSession("show", "Show a session as a tree: what ran, when, why, and what triggers wait for", func(cmd *cobra.Command, server *client.Client, app spec.AppName, session spec.SessionID) error {
		ctx, cancel := c.bounded(cmd.Context())
		defer cancel()
		// The session is asked for by itself, since only that answer tells what its
		// triggers wait for.
		s, err := server.Session(ctx, app, session)
		if err != nil {
			return err
		}
		history, err := wholeHistory(ctx, server, app, session)
		if err != nil {
			return err
		}
		history.Session = s
		return c.show(view{value: history, names: []string{string(s.Session)}, table: func(t *table) {
			tree := sessionTree{c: c, t: t, history: history}
			tree.print()
		}})
	})
}

func wholeHistory(ctx context.Context, server *client.Client, app spec.AppName, session spec.SessionID) (wire.History, error) {
	all, err := server.History(ctx, app, session, client.HistoryOptions{Limit: 1000})
	for err == nil && all.Next != "" && len(all.Invocations) < maxHistory {
		var page wire.History
		after := all.Next
		page, err = server.History(ctx, app, session, client.HistoryOptions{After: after, Limit: 1000})
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

// sessionTree prints invocations below the one whose object made them fire.
type sessionTree struct {
	c        *cli
	t        *table
	history  wire.History
	children map[string][]*wire.Invocation // by the id of what they hang below; "" for roots
}

func (s *sessionTree) print() {
	session := s.history.Session
	s.t.linef("session %s  %s  %s version %d", harmless(string(session.Session)), s.state(string(session.Status)), harmless(string(session.App)), session.AppVersion)
	line := fmt.Sprintf("started %s by %s", session.CreatedAt.Local().Format("2006-01-02 15:04:05.000"), origin(session.Origin))
	if !session.EndedAt.IsZero() {
		line += ", took " + short(session.EndedAt.Sub(session.CreatedAt))
	}
	s.t.linef("%s", harmless(line))
	s.t.linef("%s, %s", count(session.Invocations, "invocation"), count(session.Objects, "object"))
	if e := session.Error; e != nil {
		s.t.linef("%s %s", s.c.paint(s.c.StdoutTerminal, red, "error:"), harmless(fmt.Sprintf("%s %s: %s", e.Function, e.Kind, e.Message)))
	}
	s.grow()
	for i, root := range s.children[""] {
		s.branch(root, "", i == len(s.children[""])-1)
	}
	if s.history.Next != "" {
		s.t.linef("… and more: this shows the first %d invocations", len(s.history.Invocations))
	}
	s.waiting(session.Waiting)
}

// grow finds each invocation's parent: the invocation, made before it, whose
// object was the last of its inputs to be stored and so made it fire.
func (s *sessionTree) grow() {
	s.children = map[string][]*wire.Invocation{}
	seen := map[string]bool{}
	for i := range s.history.Invocations {
		invocation := &s.history.Invocations[i]
		parent, newest := "", spec.Revision(0)
		for _, input := range invocation.Inputs {
			if input.Revision >= newest {
				parent, newest = input.Producer, input.Revision
			}
		}
		if !seen[parent] { // it comes from outside, or would make a loop
			parent = ""
		}
		seen[invocation.ID] = true
		s.children[parent] = append(s.children[parent], invocation)
	}
}

func (s *sessionTree) branch(i *wire.Invocation, indent string, last bool) {
	joint, below := "├─ ", "│  "
	if last {
		joint, below = "└─ ", "   "
	}
	start := s.history.Session.CreatedAt
	s.t.linef("%s%s%s %s  %s  %s", indent, joint, shortID(i.ID), harmless(string(i.Function)), s.state(i.State), harmless(times(*i, start)))
	inner := indent + below
	stem := "   "
	if len(s.children[i.ID]) > 0 {
		stem = "│  "
	}
	s.t.linef("%s%s%s", inner, stem, s.c.paint(s.c.StdoutTerminal, dim, harmless(why(*i))))
	for _, a := range i.Attempts {
		if a.Error != nil {
			s.t.linef("%s%s%s", inner, stem, s.c.paint(s.c.StdoutTerminal, red, harmless(fmt.Sprintf("attempt %d %s: %s", a.Number, a.Error.Kind, a.Error.Message))))
		}
	}
	for n, child := range s.children[i.ID] {
		s.branch(child, inner, n == len(s.children[i.ID])-1)
	}
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
		s.t.linef("  %s", harmless(line))
	}
}

func (s *sessionTree) state(state string) string {
	return s.c.paint(s.c.StdoutTerminal, colourOf(state), harmless(state))
}

package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/pheromone-run/pheromone/client"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/spec/wire"
)

const (
	followFast    = 50 * time.Millisecond
	followSlow    = time.Second
	followPageMax = 1000 // invocations whose every step is shown
)

// follow prints what a session does until it ends, and then its outputs.
// Interrupting it leaves the session alone.
func (c *cli) follow(ctx context.Context, server *client.Client, app spec.AppName, session spec.SessionID) error {
	f := follower{c: c, states: map[string]string{}}
	c.notice("session %s", session)
	wait := followFast
	for {
		history, err := server.History(ctx, app, session, client.HistoryOptions{Limit: followPageMax})
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return err
		}
		changed := f.print(history)
		if history.Session.Status != wire.SessionRunning && history.Session.Status != "" {
			break
		}
		wait = min(wait*2, followSlow)
		if changed {
			wait = followFast
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return nil
		}
	}
	r, err := server.Result(ctx, app, session, client.ResultOptions{})
	if err != nil {
		return err
	}
	return c.endWith(app, r)
}

// follower remembers what it has printed of a session.
type follower struct {
	c      *cli
	states map[string]string // by invocation: the line printed last
	more   bool
}

// print writes a line for each invocation that has moved on, and says whether any has.
func (f *follower) print(h wire.History) bool {
	changed := false
	for _, i := range h.Invocations {
		state := i.State
		if len(i.Attempts) > 0 {
			state = fmt.Sprintf("%s %d", i.State, i.Attempts[len(i.Attempts)-1].Number)
		}
		if f.states[i.ID] == state {
			continue
		}
		f.states[i.ID] = state
		changed = true
		f.line(h.Session, i)
	}
	if h.Next != "" && !f.more {
		f.more = true
		fmt.Fprintf(f.c.Stderr, "more than %d invocations: only the first are shown\n", followPageMax)
	}
	return changed
}

func (f *follower) line(s wire.Session, i wire.Invocation) {
	if f.c.format != formatTable {
		_ = f.c.jsonProgress(i)
		return
	}
	at := i.QueuedAt
	detail := fmt.Sprintf("%s/%s", i.Bucket, i.Trigger)
	if n := len(i.Attempts); n > 0 {
		last := i.Attempts[n-1]
		at, detail = last.StartedAt, ""
		if i.State == "queued" && !last.EndedAt.IsZero() {
			i.State = "retrying" // its wait is over, its next attempt has not begun
		}
		if !last.EndedAt.IsZero() {
			at, detail = last.EndedAt, "took "+short(last.EndedAt.Sub(last.StartedAt))
		}
		if last.Error != nil {
			detail += ": " + last.Error.Message
		}
	}
	out := f.c.Stderr
	fmt.Fprintf(out, "%9s  %s %s %s  %s\n", "+"+short(max(0, at.Sub(s.CreatedAt))),
		f.c.paint(f.c.StderrTerminal, colourOf(i.State), fmt.Sprintf("%-10s", i.State)), shortID(i.ID), harmless(string(i.Function)), harmless(strings.TrimSpace(detail)))
}

// jsonProgress keeps standard output for the result.
func (c *cli) jsonProgress(i wire.Invocation) error {
	if c.format != formatJSONL {
		return nil
	}
	return c.writeJSON(i, "")
}

// shortID is the part of an invocation's id behind its session.
func shortID(id string) string {
	if dot := strings.LastIndexByte(id, '.'); dot >= 0 {
		return "#" + harmless(id[dot+1:])
	}
	return harmless(id)
}

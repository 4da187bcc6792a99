package cli

import (
	"context"
	"fmt"
	"slices"
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
	f := follower{c: c, told: map[string]*toldSteps{}, children: map[spec.SessionID]int{}}
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

// follower remembers what it has told of a session. Its lines come from the
// records of the attempts, so that none is missed however fast a step is.
type follower struct {
	c        *cli
	told     map[string]*toldSteps  // by invocation
	children map[spec.SessionID]int // of each child session: how many of its steps are told
	more     bool
}

// toldSteps is what has been told of one invocation.
type toldSteps struct {
	queued, over   bool
	started, ended int // the last attempt of which that was told
}

// step is one line.
type step struct {
	at     time.Time
	state  string
	who    string // an invocation and its function, or a child session and its
	detail string
}

// print writes a line for each step that is new, and says whether any is.
func (f *follower) print(h wire.History) bool {
	var steps []step
	for _, i := range h.Invocations {
		t := f.told[i.ID]
		if t == nil {
			t = &toldSteps{}
			f.told[i.ID] = t
		}
		fresh := t.steps(i)
		if len(fresh) > 0 && f.c.format == formatJSONL {
			_ = f.c.writeJSON(i, "") // with json, standard output is the result's alone
		}
		steps = append(steps, fresh...)
	}
	for _, child := range h.Children {
		steps = append(steps, f.childSteps(child)...)
	}
	if f.c.format == formatTable {
		slices.SortStableFunc(steps, func(a, b step) int { return a.at.Compare(b.at) })
		for _, s := range steps {
			f.line(h.Session, s)
		}
	}
	if h.Next != "" && !f.more {
		f.more = true
		fmt.Fprintf(f.c.Stderr, "more than %d invocations: only the first are shown\n", followPageMax)
	}
	return len(steps) > 0
}

// childSteps is what a child session has done that was not told: its start, and the
// end of one that is awaited.
func (f *follower) childSteps(c wire.Child) []step {
	who := fmt.Sprintf("child %s %s", shortSession(c.Session), harmless(string(c.Function)))
	all := []step{{c.StartedAt, "started", who, "by " + shortID(c.Invocation)}}
	if !c.EndedAt.IsZero() {
		all = append(all, step{c.EndedAt, string(c.Status), who, fmt.Sprintf("into %s/%s", c.Bucket, c.Key)})
	}
	fresh := all[min(len(all), f.children[c.Session]):]
	f.children[c.Session] = len(all)
	return fresh
}

// steps is what i has done since it was asked for last.
func (t *toldSteps) steps(i wire.Invocation) []step {
	var out []step
	over := !i.EndedAt.IsZero()
	who := fmt.Sprintf("%s %s", shortID(i.ID), harmless(string(i.Function)))
	fired := fmt.Sprintf("%s/%s", i.Bucket, i.Trigger)
	if len(i.Attempts) == 0 && !over && !t.queued { // it has to wait: for a place, or for its process
		out = append(out, step{i.QueuedAt, "queued", who, fired})
	}
	t.queued = true
	for n, a := range i.Attempts {
		last := n == len(i.Attempts)-1
		if a.Number > t.started {
			t.started = a.Number
			detail := fired
			if a.Number > 1 {
				detail = fmt.Sprintf("attempt %d", a.Number)
			}
			out = append(out, step{a.StartedAt, "started", who, detail})
		}
		if a.Number > t.ended && !a.EndedAt.IsZero() {
			t.ended = a.Number
			t.over = t.over || last && over
			out = append(out, step{a.EndedAt, endOf(i, a, last), who, tookOf(i, a, last)})
		}
	}
	if over && !t.over {
		t.over = true
		out = append(out, step{i.EndedAt, i.State, who, ""})
	}
	return out
}

// endOf names what came of an attempt.
func endOf(i wire.Invocation, a wire.Attempt, last bool) string {
	switch {
	case last && !i.EndedAt.IsZero():
		return i.State
	case a.Error == nil:
		return "succeeded"
	case a.Error.Kind == "cancelled":
		return "cancelled"
	}
	return "failed"
}

func tookOf(i wire.Invocation, a wire.Attempt, last bool) string {
	text := "took " + short(a.EndedAt.Sub(a.StartedAt))
	if a.Error != nil {
		text += ": " + a.Error.Message
	}
	if last && i.EndedAt.IsZero() && i.NextAt.After(a.EndedAt) {
		text += "; again in " + short(i.NextAt.Sub(a.EndedAt))
	}
	return text
}

func (f *follower) line(session wire.Session, s step) {
	detail := ""
	if s.detail != "" {
		detail = "  " + harmless(s.detail)
	}
	fmt.Fprintf(f.c.Stderr, "%9s  %s %s%s\n", "+"+short(max(0, s.at.Sub(session.CreatedAt))),
		f.c.paint(f.c.StderrTerminal, colourOf(s.state), fmt.Sprintf("%-10s", s.state)), s.who, detail)
}

// shortID is the part of an invocation's id behind its session.
func shortID(id string) string {
	if dot := strings.LastIndexByte(id, '.'); dot >= 0 {
		return "#" + harmless(id[dot+1:])
	}
	return harmless(id)
}

// shortSession tells sessions of one app apart at a glance: made-up ones begin
// alike and end at random.
func shortSession(session spec.SessionID) string {
	const head, tail = 4, 3
	name := []rune(string(session))
	if len(name) <= 12 {
		return harmless(string(name))
	}
	return harmless(string(name[:head]) + "…" + string(name[len(name)-tail:]))
}

package crashmatrix

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

// outcome is what an app's sessions came to, without what differs from run to run:
// ids, times, and how many attempts it took.
type outcome struct {
	running int
	outputs []string // of all sessions, sorted
	states  []string // of the sessions
	text    string   // all of it
}

// settled tells whether the outcome is what the scenario has to come to.
func (o *outcome) settled(s *scenario) bool {
	status := s.status
	if status == "" {
		status = wire.SessionCompleted
	}
	return o.running == 0 && len(o.states) > 0 && slices.Equal(o.outputs, s.outputs) &&
		!slices.ContainsFunc(o.states, func(state string) bool { return state != string(status) })
}

// collect reads the outcome of an app by its API.
func collect(ctx context.Context, c *client.Client, app spec.AppName, s *scenario) (*outcome, error) {
	o := &outcome{}
	var blocks []string
	for session, err := range c.Sessions(ctx, app, client.SessionsOptions{}) {
		if err != nil {
			return nil, err
		}
		if session.Status == wire.SessionRunning {
			o.running++
		}
		o.states = append(o.states, string(session.Status))
		lines, err := o.ofSession(ctx, c, s, &session)
		if err != nil {
			return nil, err
		}
		blocks = append(blocks, lines...)
	}
	slices.Sort(blocks)
	slices.Sort(o.outputs)
	o.text = strings.Join(blocks, "\n")
	return o, nil
}

// ofSession describes a session: as one block, or, where it is a matter of time
// which session has what, line by line.
func (o *outcome) ofSession(ctx context.Context, c *client.Client, s *scenario, session *wire.Session) ([]string, error) {
	var lines []string
	for inv, err := range c.Invocations(ctx, session.App, session.Session) {
		if err != nil {
			return nil, err
		}
		lines = append(lines, invocation(s, &inv)...)
	}
	objects, err := objectsOf(ctx, c, session)
	if err != nil {
		return nil, err
	}
	lines = append(lines, objects...)
	res, err := c.Result(ctx, session.App, session.Session, client.ResultOptions{})
	if err != nil {
		return nil, err
	}
	for _, out := range res.Outputs {
		o.outputs = append(o.outputs, string(out.Data))
		lines = append(lines, fmt.Sprintf("  output %s: %s", out.Bucket, out.Data))
	}
	slices.Sort(lines)
	head := fmt.Sprintf("session by %s %s %s%s: %s", session.Origin.Kind, session.Origin.Bucket, session.Origin.Key, session.Origin.Trigger, session.Status)
	if session.Error != nil {
		head += fmt.Sprintf(" (%s: %s)", session.Error.Kind, session.Error.Message)
	}
	switch {
	case s.loose && session.Origin.Kind == "trigger":
		return lines, nil
	case s.loose:
		return append(lines, head), nil
	}
	return []string{strings.Join(append([]string{head}, lines...), "\n")}, nil
}

func invocation(s *scenario, inv *wire.Invocation) []string {
	var inputs []string
	for _, in := range inv.Inputs {
		inputs = append(inputs, string(in.Key))
	}
	if s.unordered {
		slices.Sort(inputs)
	}
	what := fmt.Sprintf("  %s/%s fired %s, %s, with", inv.Bucket, inv.Trigger, inv.Function, inv.State)
	if !s.loose {
		return []string{fmt.Sprintf("%s %s", what, strings.Join(inputs, " "))}
	}
	var lines []string
	for _, in := range inputs {
		lines = append(lines, what+" "+in)
	}
	return lines
}

// objectsOf lists what a session holds in the buckets of its app.
func objectsOf(ctx context.Context, c *client.Client, session *wire.Session) ([]string, error) {
	var lines []string
	for _, bucket := range []spec.BucketName{"in", "jobs", "done", "parts", "counts", "groups", "made", "large", "failed", "early", "late", "many"} {
		for object, err := range c.List(ctx, session.App, bucket, client.ListOptions{Session: session.Session}) {
			if spec.CodeOf(err) == spec.CodeNotFound {
				break // the app has no such bucket
			}
			if err != nil {
				return nil, err
			}
			lines = append(lines, fmt.Sprintf("  object %s/%s", object.Bucket, object.Key))
		}
	}
	return lines, nil
}

// driver does what clients do in a scenario. Each call is repeated until it is
// answered; the first error that is no answer ends it.
type driver struct {
	ctx    context.Context
	client *client.Client
	app    spec.AppName
	err    error
}

func (d *driver) do(what string, call func() error) {
	if d.err != nil {
		return
	}
	if err := call(); err != nil {
		d.err = fmt.Errorf("%s of app %s: %w", what, d.app, err)
	}
}

func (d *driver) put(bucket spec.BucketName, key spec.Key, value string) {
	d.putLater(bucket, key, value, 0)
}

func (d *driver) putLater(bucket spec.BucketName, key spec.Key, value string, after time.Duration) {
	d.do("put", func() error {
		_, err := d.client.Put(d.ctx, d.app, bucket, key, strings.NewReader(value),
			client.PutOptions{IdempotencyKey: string(bucket) + "/" + string(key), DeliverAfter: after})
		return err
	})
}

func (d *driver) putSession(session spec.SessionID, bucket spec.BucketName, key spec.Key, value string) {
	d.do("put into a session", func() error {
		_, err := d.client.PutSession(d.ctx, d.app, session, bucket, key, strings.NewReader(value), client.PutOptions{})
		return err
	})
}

// untilRunning waits until it is recorded that an attempt of the session runs.
func (d *driver) untilRunning(session spec.SessionID) {
	d.do("watch", func() error {
		for {
			h, err := d.client.History(d.ctx, d.app, session, client.HistoryOptions{})
			if err != nil {
				return err
			}
			for _, inv := range h.Invocations {
				if n := len(inv.Attempts); n > 0 && inv.Attempts[n-1].EndedAt.IsZero() {
					return nil
				}
			}
			if !pause(d.ctx) {
				return d.ctx.Err()
			}
		}
	})
}

// cancel cancels until the session has ended: the client does not repeat it itself.
func (d *driver) cancel(session spec.SessionID) {
	d.do("cancel", func() error {
		for {
			s, err := d.client.Cancel(d.ctx, d.app, session)
			if err == nil && s.Status != wire.SessionRunning {
				return nil
			}
			if err != nil && spec.CodeOf(err) != spec.CodeUnavailable && spec.CodeOf(err) != spec.CodeTimeout {
				return err
			}
			if !pause(d.ctx) {
				return d.ctx.Err()
			}
		}
	})
}

// pause waits before the same is asked again; false if there is no time left.
func pause(ctx context.Context) bool {
	select {
	case <-time.After(10 * time.Millisecond):
		return true
	case <-ctx.Done():
		return false
	}
}

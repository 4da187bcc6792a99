package node

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/pheromone-run/pheromone/leader"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/spec/wire"
	"github.com/pheromone-run/pheromone/store"
)

// Arguments of questions. Prefixes and positions in lists are bytes: they may end
// in the middle of a character.
type (
	getArgs struct {
		App     spec.AppName    `json:"app"`
		Session spec.SessionID  `json:"session,omitempty"`
		Bucket  spec.BucketName `json:"bucket"`
		Key     spec.Key        `json:"key"`
		Stale   bool            `json:"stale,omitempty"`
		// Prompt has only the leader answer: it alone has what is not committed.
		Prompt bool `json:"prompt,omitempty"`
	}
	listArgs struct {
		App     spec.AppName    `json:"app"`
		Session spec.SessionID  `json:"session,omitempty"`
		Bucket  spec.BucketName `json:"bucket"`
		Prefix  []byte          `json:"prefix,omitempty"`
		After   []byte          `json:"after,omitempty"`
		Limit   int             `json:"limit"`
		// Prompt has only the leader answer: it alone has what is not committed.
		Prompt bool `json:"prompt,omitempty"`
	}
	changesArgs struct {
		App    spec.AppName    `json:"app"`
		Bucket spec.BucketName `json:"bucket"`
		Prefix []byte          `json:"prefix,omitempty"`
		After  spec.Revision   `json:"after"`
		Limit  int             `json:"limit"`
		// Wait is how long to wait for a change if there is none.
		Wait time.Duration `json:"wait,omitempty"`
	}
	changesAnswer struct {
		Events []wire.WatchEvent `json:"events"`
		Last   spec.Revision     `json:"last"`
		// Deleted says that the app was deleted after the revision asked for.
		Deleted bool `json:"deleted,omitempty"`
	}
	sessionArgs struct {
		App     spec.AppName   `json:"app"`
		Session spec.SessionID `json:"session"`
	}
	resultArgs struct {
		sessionArgs
		Wait        time.Duration `json:"wait"`
		UntilOutput bool          `json:"until_output,omitempty"`
	}
	historyArgs struct {
		sessionArgs
		After string `json:"after,omitempty"`
		Limit int    `json:"limit"`
		// Prompt has only the leader answer: it alone has what is not committed.
		Prompt bool `json:"prompt,omitempty"`
	}
	sessionsArgs struct {
		App      spec.AppName       `json:"app"`
		Status   wire.SessionStatus `json:"status,omitempty"`
		Function spec.FunctionName  `json:"function,omitempty"`
		Before   store.Micros       `json:"before,omitempty"`
		BeforeID spec.SessionID     `json:"before_id,omitempty"`
		Limit    int                `json:"limit"`
		// Prompt has only the leader answer: it alone has what is not committed.
		Prompt bool `json:"prompt,omitempty"`
	}
	appsArgs struct {
		Index uint64 `json:"index"` // of the control group's state that has the change
	}
	nothing struct{}
)

func always[A any](A) bool { return true }

// What shards are asked.
type questions struct {
	put         question[leader.Put, leader.PutResult]
	remove      question[leader.Delete, leader.PutResult]
	get         question[getArgs, wire.Object]
	list        question[listArgs, []wire.Object]
	changes     question[changesArgs, changesAnswer]
	revision    question[nothing, spec.Revision]
	session     question[sessionArgs, wire.Session]
	sessions    question[sessionsArgs, leader.SessionPage]
	result      question[resultArgs, wire.Result]
	history     question[historyArgs, wire.History]
	cancel      question[sessionArgs, nothing]
	purge       question[sessionArgs, nothing]
	refire      question[sessionArgs, spec.SessionID]
	appsChanged question[appsArgs, nothing]
	mail        question[nothing, nothing]
}

// newQuestions makes them, and has the node answer those of others.
func newQuestions(n *Node) *questions {
	q := &questions{}
	q.put = question[leader.Put, leader.PutResult]{
		method: "shard.put",
		again: func(p leader.Put) bool {
			app, _, _ := n.App(p.App, 0)
			return repeatable(&p, app)
		},
		on: func(ctx context.Context, l *leader.Leader, p leader.Put, body io.Reader) (leader.PutResult, io.ReadCloser, error) {
			p.Body = body
			r, err := l.Put(ctx, p)
			return r, nil, err
		},
	}
	q.remove = question[leader.Delete, leader.PutResult]{
		method: "shard.delete",
		again:  func(d leader.Delete) bool { return d.Request != "" },
		on: func(ctx context.Context, l *leader.Leader, d leader.Delete, _ io.Reader) (leader.PutResult, io.ReadCloser, error) {
			r, err := l.Delete(ctx, d)
			return r, nil, err
		},
	}
	q.get = question[getArgs, wire.Object]{method: "shard.get", anywhere: true, on: getFrom}
	q.list = question[listArgs, []wire.Object]{
		method: "shard.list", anywhere: true,
		on: func(ctx context.Context, l *leader.Leader, a listArgs, _ io.Reader) (items []wire.Object, _ io.ReadCloser, err error) {
			if err := promptly(l, a.Prompt); err != nil {
				return nil, nil, err
			}
			if a.Session != "" {
				items, err = l.ListSession(ctx, a.App, a.Session, a.Bucket, string(a.Prefix), string(a.After), a.Limit)
			} else {
				items, err = l.ListKV(ctx, a.App, a.Bucket, string(a.Prefix), string(a.After), a.Limit)
			}
			return items, nil, err
		},
	}
	q.revision = question[nothing, spec.Revision]{
		method: "shard.revision", anywhere: true,
		on: func(ctx context.Context, l *leader.Leader, _ nothing, _ io.Reader) (spec.Revision, io.ReadCloser, error) {
			r, err := l.Revision(ctx)
			return r, nil, err
		},
	}
	q.changes = question[changesArgs, changesAnswer]{method: "shard.changes", anywhere: true, on: changesFrom}
	q.aboutSessions()
	q.appsChanged = question[appsArgs, nothing]{
		method: "shard.apps", again: always[appsArgs],
		on: func(ctx context.Context, l *leader.Leader, a appsArgs, _ io.Reader) (nothing, io.ReadCloser, error) {
			if err := n.awaitControl(ctx, a.Index); err != nil {
				return nothing{}, nil, err
			}
			return nothing{}, nil, l.AppsChanged(ctx)
		},
	}
	q.mail = mailQuestion()
	q.register(n)
	n.answerLeads()
	n.answerBlobs()
	n.answerControl()
	n.answerLogs()
	n.artifactsBetweenNodes()
	return q
}

// keptLong is for longer than a put is repeated.
const keptLong = 5 * time.Minute

// repeatable tells whether a put has no effect if it was carried out before. A request
// is remembered, and objects of a session are written once: as long as the session is
// kept, which a short one may not be by then. The app is nil where it is not known yet,
// though the shard's leader may know it.
func repeatable(p *leader.Put, app *spec.App) bool {
	return p.Request != "" || p.Session != "" && p.Key != "" && app != nil && app.Retention >= keptLong
}

// aboutSessions makes the questions about a shard's sessions.
func (q *questions) aboutSessions() {
	q.session = question[sessionArgs, wire.Session]{
		method: "shard.session", reads: true, again: always[sessionArgs],
		on: func(ctx context.Context, l *leader.Leader, a sessionArgs, _ io.Reader) (wire.Session, io.ReadCloser, error) {
			s, err := l.Session(ctx, a.App, a.Session)
			return s, nil, err
		},
	}
	q.sessions = question[sessionsArgs, leader.SessionPage]{
		method: "shard.sessions", anywhere: true,
		on: func(ctx context.Context, l *leader.Leader, a sessionsArgs, _ io.Reader) (leader.SessionPage, io.ReadCloser, error) {
			if err := promptly(l, a.Prompt); err != nil {
				return leader.SessionPage{}, nil, err
			}
			p, err := l.Sessions(ctx, a.App, a.Status, a.Function, a.Before, a.BeforeID, a.Limit)
			return p, nil, err
		},
	}
	q.result = question[resultArgs, wire.Result]{
		method: "shard.result", reads: true, again: always[resultArgs],
		on: func(ctx context.Context, l *leader.Leader, a resultArgs, _ io.Reader) (wire.Result, io.ReadCloser, error) {
			r, err := l.Result(ctx, a.App, a.Session, a.Wait, a.UntilOutput)
			return r, nil, err
		},
	}
	q.history = question[historyArgs, wire.History]{
		method: "shard.history", anywhere: true,
		on: func(ctx context.Context, l *leader.Leader, a historyArgs, _ io.Reader) (wire.History, io.ReadCloser, error) {
			if err := promptly(l, a.Prompt); err != nil {
				return wire.History{}, nil, err
			}
			h, err := l.History(ctx, a.App, a.Session, a.After, a.Limit)
			return h, nil, err
		},
	}
	q.cancel = question[sessionArgs, nothing]{
		method: "shard.cancel", again: always[sessionArgs],
		on: func(ctx context.Context, l *leader.Leader, a sessionArgs, _ io.Reader) (nothing, io.ReadCloser, error) {
			return nothing{}, nil, l.Cancel(ctx, a.App, a.Session)
		},
	}
	q.purge = question[sessionArgs, nothing]{
		method: "shard.purge",
		on: func(ctx context.Context, l *leader.Leader, a sessionArgs, _ io.Reader) (nothing, io.ReadCloser, error) {
			return nothing{}, nil, l.Purge(ctx, a.App, a.Session)
		},
	}
	q.refire = question[sessionArgs, spec.SessionID]{
		method: "shard.refire",
		on: func(ctx context.Context, l *leader.Leader, a sessionArgs, _ io.Reader) (spec.SessionID, io.ReadCloser, error) {
			id, err := l.Refire(ctx, a.App, a.Session)
			return id, nil, err
		},
	}
}

func (q *questions) register(n *Node) {
	answers(n, &q.put)
	answers(n, &q.remove)
	answers(n, &q.get)
	answers(n, &q.list)
	answers(n, &q.changes)
	answers(n, &q.revision)
	answers(n, &q.session)
	answers(n, &q.sessions)
	answers(n, &q.result)
	answers(n, &q.history)
	answers(n, &q.cancel)
	answers(n, &q.purge)
	answers(n, &q.refire)
	answers(n, &q.appsChanged)
	answers(n, &q.mail)
}

// promptly refuses what only the leader can answer where it is not.
func promptly(l *leader.Leader, prompt bool) error {
	if !prompt {
		return nil
	}
	return l.LedHere()
}

func getFrom(ctx context.Context, l *leader.Leader, a getArgs, _ io.Reader) (wire.Object, io.ReadCloser, error) {
	if err := promptly(l, a.Prompt); err != nil {
		return wire.Object{}, nil, err
	}
	var o leader.Object
	var err error
	if a.Session != "" {
		o, err = l.GetSession(ctx, a.App, a.Session, a.Bucket, a.Key)
	} else {
		o, err = l.GetKV(ctx, a.App, a.Bucket, a.Key, a.Stale)
	}
	return o.Object, o.Body, err
}

// changesFrom reads what has changed, and waits for it if there is nothing.
func changesFrom(ctx context.Context, l *leader.Leader, a changesArgs, _ io.Reader) (changesAnswer, io.ReadCloser, error) {
	wait := time.NewTimer(a.Wait)
	defer wait.Stop()
	for {
		changed := l.Changed()
		events, last, err := l.Changes(a.App, a.Bucket, string(a.Prefix), a.After, a.Limit)
		switch {
		case errors.Is(err, leader.ErrAppDeleted):
			return changesAnswer{Last: last, Deleted: true}, nil, nil
		case err != nil || len(events) > 0 || a.Wait <= 0:
			return changesAnswer{Events: events, Last: last}, nil, err
		}
		select {
		case <-changed:
		case <-wait.C:
			a.Wait = 0
		case <-ctx.Done():
			return changesAnswer{}, nil, ctx.Err()
		}
	}
}

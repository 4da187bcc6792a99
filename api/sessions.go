package api

import (
	"net/http"
	"strings"

	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/spec/wire"
)

func listSessions(r *request) error {
	limit, err := r.query.limit()
	if err != nil {
		return err
	}
	status, err := r.query.choice("status", string(wire.SessionRunning), string(wire.SessionCompleted), string(wire.SessionFailed), string(wire.SessionCancelled))
	if err != nil {
		return err
	}
	function, err := r.functionParam()
	if err != nil {
		return err
	}
	page, err := r.s.backend.ListSessions(r.ctx, ListSessions{
		App: r.app, Status: wire.SessionStatus(status), Function: function, After: r.query.get("after"), Limit: limit,
	})
	if err != nil {
		return err
	}
	page.Items = orEmpty(page.Items)
	return r.json(http.StatusOK, page)
}

// functionParam reads ?function=, which may be missing.
func (r *request) functionParam() (spec.FunctionName, error) {
	f, there := r.query.lookup("function")
	if !there {
		return "", nil
	}
	if err := spec.ValidFunctionName(f); err != nil {
		return "", inField("function", err)
	}
	return spec.FunctionName(f), nil
}

func getSession(r *request) error {
	session, err := r.s.backend.GetSession(r.ctx, r.app, r.session)
	if err != nil {
		return err
	}
	return r.json(http.StatusOK, session)
}

func getHistory(r *request) error {
	limit, err := r.query.limit()
	if err != nil {
		return err
	}
	history, err := r.s.backend.History(r.ctx, r.app, r.session, r.query.get("after"), limit)
	if err != nil {
		return err
	}
	history.Invocations = orEmpty(history.Invocations)
	return r.json(http.StatusOK, history)
}

func cancelSession(r *request) error {
	session, err := r.s.backend.Cancel(r.ctx, r.app, r.session)
	if err != nil {
		return err
	}
	r.setSession(session.Session)
	return r.json(http.StatusOK, session)
}

// rerun starts a new session from what started this one, or from ?from=bucket/key.
func rerun(r *request) error {
	from, there := r.query.lookup("from")
	if there {
		bucket, key, ok := strings.Cut(from, "/")
		if !ok || spec.ValidBucketRef(bucket) != nil || spec.ValidKey(key) != nil {
			return spec.Errorf(spec.CodeInvalid, "bad from=%q: use bucket/key of an object of the session", clip(from)).WithField("from")
		}
	}
	result, err := r.s.backend.Rerun(r.ctx, r.app, r.session, from)
	if err != nil {
		return err
	}
	return r.answerPut(http.StatusAccepted, result)
}

func purge(r *request) error {
	if err := r.s.backend.Purge(r.ctx, r.app, r.session); err != nil {
		return err
	}
	r.fh.SetStatusCode(http.StatusNoContent)
	return nil
}

package control

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"

	"github.com/pheromone-run/pheromone/spec"
)

// retryPause is how long a request waits before it is tried again, unless the
// leader changes before.
const retryPause = 20 * time.Millisecond

// Apply makes a change and waits until State has it on this node. On a node that
// does not lead it passes the change on to the leader, or without a way to do so
// answers unavailable and names the leader. While nobody leads, or the leader is
// lost, it waits and tries again, and the change is still made once. If ctx ends
// first, the change may still be made.
func (g *Group) Apply(ctx context.Context, c Command) (Result, error) {
	id := ""
	if !g.cfg.sole() {
		id = rand.Text()
	}
	return g.ApplyOnce(ctx, c, id)
}

// ApplyOnce is Apply of a change with a name of its own: who makes it again under the
// same id, on any node, gets the first result, and nothing is done.
func (g *Group) ApplyOnce(ctx context.Context, c Command, id string) (Result, error) {
	if err := readable(c); err != nil {
		return Result{}, err
	}
	result, err := g.request(ctx, c, id)
	if err != nil {
		return Result{}, err
	}
	return result, g.waitState(ctx, result.Index)
}

// readable refuses what the state machine takes as it is and nobody could read
// later.
func readable(c Command) error {
	a, ok := c.(*ApplyApp)
	if !ok {
		return nil
	}
	if _, _, err := spec.Parse(string(a.Name), a.Spec, spec.FormatJSON); err != nil {
		return spec.Errorf(spec.CodeInvalid, "apply app %s: its spec can't be read: %w", a.Name, err)
	}
	return nil
}

// answer is what came of a request.
type answer struct {
	result Result
	err    error
	// again says that the request can be made again: it was not taken, or does no
	// harm when it comes twice.
	again bool
	// unknown says that it may have been carried out in spite of err.
	unknown bool
}

// request has the leader answer, whoever that is by then.
func (g *Group) request(ctx context.Context, c Command, id string) (Result, error) {
	encoded, err := encodeCommand(c, id)
	if err != nil {
		return Result{}, err
	}
	var last answer
	for {
		changed := g.LeaderChanged()
		leader, err := g.waitLeader(ctx, last)
		if err != nil {
			return Result{}, err
		}
		unknown := last.unknown
		switch {
		case leader == g.cfg.Node:
			last = g.carryOut(ctx, c, id, encoded)
		case g.cfg.Forward == nil:
			return Result{}, g.notLeader()
		default:
			last = g.forward(ctx, leader, encoded)
		}
		if !last.again {
			return last.result, last.err
		}
		last.unknown = last.unknown || unknown
		select {
		case <-changed:
		case <-time.After(retryPause):
		case <-ctx.Done():
		case <-g.ended:
		}
	}
}

// waitLeader waits while nobody leads, as far as this node knows.
func (g *Group) waitLeader(ctx context.Context, last answer) (string, error) {
	for {
		changed := g.LeaderChanged()
		leader, ok := g.Leader()
		if ok && ctx.Err() == nil && g.raft.State() != raft.Shutdown {
			return leader, nil
		}
		select {
		case <-g.ended:
			return "", errClosed()
		case <-ctx.Done():
			return "", last.gaveUp(ctx.Err())
		case <-changed:
		}
	}
}

// gaveUp is the error after the last try.
func (a answer) gaveUp(why error) error {
	switch {
	case a.unknown:
		return spec.Errorf(spec.CodeTimeout, "the change was handed over and its outcome is not known: %w", fmt.Errorf("%w: %w", why, a.err))
	case a.err != nil:
		return spec.Errorf(spec.CodeUnavailable, "no leader of the control group took the change: %w", fmt.Errorf("%w: %w", why, a.err))
	}
	return spec.Errorf(spec.CodeUnavailable, "the control group has no leader: %w", why)
}

func errClosed() error {
	return spec.Errorf(spec.CodeUnavailable, "the control group's member is closed")
}

// notLeader says who leads.
func (g *Group) notLeader() *spec.Error {
	leader, ok := g.Leader()
	if !ok || leader == g.cfg.Node {
		return spec.Errorf(spec.CodeUnavailable, "the control group has no leader just now")
	}
	return spec.Errorf(spec.CodeUnavailable, "node %s leads the control group", leader).WithHint(leader)
}

// carryOut answers a request if this node leads.
func (g *Group) carryOut(ctx context.Context, c Command, id string, encoded []byte) answer {
	if _, ok := c.(*readBarrier); ok {
		result, err := g.barrier(ctx)
		return g.settle(result, err, true)
	}
	result, err := g.propose(ctx, encoded)
	return g.settle(result, err, id != "")
}

// settle says what an error of raft means for the one who asked.
func (g *Group) settle(result Result, err error, repeatable bool) answer {
	var unknown *unknownError
	switch {
	case err == nil:
		return answer{result: result}
	case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrLeadershipTransferInProgress):
		return answer{err: g.notLeader(), again: true}
	case errors.As(err, &unknown):
		return answer{err: err, again: repeatable, unknown: true}
	}
	return answer{result: result, err: err}
}

// unknownError marks what may have been carried out all the same.
type unknownError struct{ cause error }

func (e *unknownError) Error() string { return "its outcome is not known: " + e.cause.Error() }
func (e *unknownError) Unwrap() error { return e.cause }

func (g *Group) propose(ctx context.Context, command []byte) (Result, error) {
	var future raft.ApplyFuture
	err := await(ctx, "change of the control group", func() error {
		future = g.raft.Apply(command, acceptTimeout)
		return future.Error()
	})
	if err != nil {
		return Result{}, err
	}
	o, ok := future.Response().(outcome)
	if !ok {
		return Result{}, spec.Errorf(spec.CodeInternal, "the control group answered %T", future.Response())
	}
	return o.result, o.err
}

// await runs what waits for raft, as long as ctx says. What it waits for ends
// when raft does.
func await(ctx context.Context, what string, wait func() error) error {
	done := make(chan error, 1)
	go func() { done <- wait() }()
	var err error
	select {
	case err = <-done:
	case <-ctx.Done():
		return spec.Errorf(spec.CodeTimeout, "%s: %w", what, &unknownError{ctx.Err()})
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrLeadershipTransferInProgress):
		return fmt.Errorf("%s: %w", what, err)
	case errors.Is(err, raft.ErrEnqueueTimeout):
		return spec.Errorf(spec.CodeOverloaded, "%s: the leader takes no more just now: %w", what, err)
	}
	return spec.Errorf(spec.CodeUnavailable, "%s: %w", what, &unknownError{err})
}

// forward has another node answer a request.
func (g *Group) forward(ctx context.Context, leader string, encoded []byte) answer {
	raw, err := g.cfg.Forward(ctx, leader, encoded)
	if err != nil {
		err = spec.Errorf(spec.CodeUnavailable, "ask node %s, which leads the control group: %w", leader, err)
		return answer{err: err, again: true, unknown: true}
	}
	a, err := decodeAnswer(raw)
	if err != nil {
		return answer{err: spec.Errorf(spec.CodeInternal, "the answer of node %s can't be read: %w", leader, err), unknown: true}
	}
	return a
}

// ApplyEncoded answers a request that another node's member forwarded here. What
// was refused, and by whom, is in the answer.
func (g *Group) ApplyEncoded(ctx context.Context, request []byte) ([]byte, error) {
	if len(request) > maxCommandBytes+1 {
		return encodeAnswer(answer{err: spec.Errorf(spec.CodeTooLarge, "a request of %d bytes, %d are allowed", len(request), maxCommandBytes)})
	}
	c, id, err := decodeCommand(request)
	if err != nil {
		return encodeAnswer(answer{err: spec.Errorf(spec.CodeInvalid, "control group: %w", err)})
	}
	if err := readable(c); err != nil {
		return encodeAnswer(answer{err: err})
	}
	return encodeAnswer(g.carryOut(ctx, c, id, request))
}

// reply is an answer as it travels.
type reply struct {
	Result  Result   `json:"result"`
	Error   *failure `json:"error,omitempty"`
	Again   bool     `json:"again,omitempty"`
	Unknown bool     `json:"unknown,omitempty"`
}

type failure struct {
	Code    spec.Code    `json:"code"`
	Message string       `json:"message"`
	Field   string       `json:"field,omitempty"`
	Hint    string       `json:"hint,omitempty"`
	Faults  []spec.Fault `json:"faults,omitempty"`
}

func encodeAnswer(a answer) ([]byte, error) {
	r := reply{Result: a.result, Again: a.again, Unknown: a.unknown}
	if a.err != nil {
		r.Error = &failure{Code: spec.CodeOf(a.err), Message: a.err.Error()}
		var e *spec.Error
		if errors.As(a.err, &e) {
			r.Error.Field, r.Error.Hint, r.Error.Faults = e.Field, e.Hint, e.Faults
		}
	}
	b, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("encode the control group's answer: %w", err)
	}
	return b, nil
}

func decodeAnswer(b []byte) (answer, error) {
	var r reply
	if err := json.Unmarshal(b, &r); err != nil {
		return answer{}, err
	}
	a := answer{result: r.Result, again: r.Again, unknown: r.Unknown}
	if f := r.Error; f != nil {
		a.err = &spec.Error{Code: f.Code, Message: f.Message, Field: f.Field, Hint: f.Hint, Faults: f.Faults}
	}
	return a, nil
}

package node

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/pheromone-run/pheromone/leader"
	"github.com/pheromone-run/pheromone/node/peer"
	"github.com/pheromone-run/pheromone/spec"
)

// question is something that a shard is asked: its name between nodes, who may
// answer it, and how the leader object of a replica does.
type question[A, R any] struct {
	method string
	// anywhere says that any replica may answer, because it makes sure by itself
	// that it knows what was acknowledged before; else the leader's has to.
	anywhere bool
	// reads says that a leader's question only reads; those for any replica all do.
	reads bool
	// again tells whether asking again is harmless when it is not known whether the
	// first one was carried out; nil is never.
	again func(A) bool
	// on asks a replica. body is what goes with the question; the answer's, if there
	// is one, is closed by who asks.
	on func(ctx context.Context, l *leader.Leader, args A, body io.Reader) (R, io.ReadCloser, error)
}

// asked is the question, which any replica may answer, or the same for the leader alone.
func (q *question[A, R]) asked(ofLeader bool) *question[A, R] {
	if !ofLeader {
		return q
	}
	of := *q
	of.anywhere, of.reads, of.again = false, true, always[A]
	return &of
}

const (
	// leaderWait bounds how long a question waits for a leader that takes it. It is
	// longer than an election and a new leader's start take on a busy machine.
	leaderWait = 10 * time.Second
	// tookLong is longer than a node takes that does not get to answering: one that
	// failed after that had the question at work, as the wait for a result is.
	tookLong = leaderWait * 6 / 10
	// readWait is longer than a node takes to answer what any replica can, or to say
	// that it can't.
	readWait = leaderWait * 7 / 10
	// askAgain is how long the nodes are left alone after one did not take a question.
	askAgain     = 20 * time.Millisecond
	askAgainMost = 250 * time.Millisecond
)

// ask has a shard answer a question, here or on another node. It tries again while
// the question was not taken by anyone, or is harmless to repeat.
func ask[A, R any](ctx context.Context, n *Node, q *question[A, R], shard spec.ShardID, args A, body io.Reader) (R, io.ReadCloser, error) {
	var none R
	if n.network == nil { // there is nobody else to ask
		l := n.local(shard)
		if l == nil {
			return none, nil, errNotHere(shard, n.cfg.Name)
		}
		return onLocal(ctx, n, q, l, args, body)
	}
	deadline := time.Now().Add(leaderWait)
	again := newReplay(body)
	defer again.end()
	wait := askAgain
	var avoid string // the node that did not take it
	for {
		var moved <-chan struct{} // taken first: it tells of a leader that is gone when it is asked
		if l := n.local(shard); l != nil {
			_, _, moved = l.replica.Led()
		}
		node, err := n.place(shard, q.anywhere, avoid)
		var r R
		var answer io.ReadCloser
		if err == nil {
			content, whole := again.reader()
			if !whole {
				return none, nil, spec.Errorf(spec.CodeUnavailable, "shard %d changed its leader while the object was sent: send it again", shard)
			}
			harmless := q.anywhere || q.again != nil && q.again(args)
			asking, letGo := ctx, func(bool) bool { return false }
			switch {
			case node == n.cfg.Name:
			case q.anywhere:
				asking, letGo = soon(ctx)
			default:
				asking, letGo = n.whileLed(ctx, shard, node, harmless, moved)
			}
			begun := time.Now()
			r, answer, err = askAt(asking, n, q, node, shard, args, content)
			hasMoved := letGo(answer != nil)
			if err == nil && hasMoved && answer != nil { // the rest of it would not come
				err = errors.Join(errDeposed(shard, node, leader.ErrNotTaken), answer.Close())
			}
			if err == nil {
				return r, answer, nil
			}
			taken := !errors.Is(err, leader.ErrNotTaken) && !errors.Is(err, peer.ErrNotSent)
			switch {
			case taken && hasMoved && !harmless && ctx.Err() == nil && unknown(err):
				return none, nil, errDeposed(shard, node, err)
			case taken && !(unknown(err) && harmless):
				return none, nil, err
			}
			if avoid = node; hasMoved {
				avoid = ""
			}
			if hasMoved || time.Since(begun) > tookLong { // a new leader may have to be found only now
				deadline = time.Now().Add(leaderWait)
			}
			n.waitMoved(ctx, moved, wait)
		} else {
			n.waitMoved(ctx, nil, wait)
		}
		wait = min(2*wait, askAgainMost)
		switch {
		case ctx.Err() != nil:
			return none, nil, spec.Errorf(spec.CodeTimeout, "%v: %w", err, ctx.Err())
		case n.stopping.Load(): // there may be no leader any more, and clients ask another node
			return none, nil, spec.Errorf(spec.CodeUnavailable, "node %s is stopping: %w", n.cfg.Name, err)
		case time.Now().After(deadline):
			return none, nil, spec.Errorf(spec.CodeUnavailable, "%w", err)
		}
	}
}

// soon returns a context for a question that any replica can answer, which ends when
// a node does not: another one is asked then. letGo is called with the answer, and
// is told whether it has a body, which is read in the same context.
func soon(ctx context.Context) (asking context.Context, letGo func(body bool) bool) {
	asking, cancel := context.WithCancel(ctx)
	patience := time.AfterFunc(readWait, cancel)
	return asking, func(body bool) bool {
		if patience.Stop(); !body {
			cancel()
		}
		return false
	}
}

// unknown tells whether an error leaves open what became of a question.
func unknown(err error) bool {
	code := spec.CodeOf(err)
	return code == spec.CodeUnavailable || code == spec.CodeTimeout
}

// waitMoved waits a moment, or until the shard has another leader.
func (n *Node) waitMoved(ctx context.Context, moved <-chan struct{}, wait time.Duration) {
	pause := time.NewTimer(wait/2 + rand.N(wait/2))
	defer pause.Stop()
	select {
	case <-moved:
	case <-pause.C:
	case <-ctx.Done():
	}
}

// place tells which node is asked: for a leader's question the one that leads as
// far as is known here, else this one if it has a replica. A node to avoid is asked
// only if there is no other to be tried.
func (n *Node) place(shard spec.ShardID, anywhere bool, avoid string) (string, error) {
	l := n.local(shard)
	if anywhere && l != nil && !l.joining && avoid != n.cfg.Name {
		return n.cfg.Name, nil
	}
	placed, ok := n.control.State().Placement.Shards[shard]
	if !ok {
		return "", spec.Errorf(spec.CodeUnavailable, "the cluster has no shard %d yet: %w", shard, leader.ErrNotTaken)
	}
	if l != nil {
		if replica, ok := l.replica.Leader(); ok {
			if r, ok := placed.Replicas[replica]; ok && (r.Node != avoid || r.Node == n.cfg.Name) {
				return r.Node, nil
			}
		}
	}
	if hint := n.hints.get(shard); hint != "" && hint != avoid {
		return hint, nil
	}
	var others []string
	for _, r := range placed.Replicas {
		if !r.Joining && r.Node != avoid && r.Node != n.cfg.Name {
			others = append(others, r.Node)
		}
	}
	switch {
	case len(others) > 0 && (l == nil || anywhere):
		return others[rand.IntN(len(others))], nil
	case l != nil:
		return n.cfg.Name, nil // it waits for the election's outcome
	case len(placed.Replicas) == 1:
		for _, r := range placed.Replicas {
			return r.Node, nil
		}
	}
	return "", spec.Errorf(spec.CodeUnavailable, "shard %d has no leader just now: %w", shard, leader.ErrNotTaken)
}

// askAt asks one node.
func askAt[A, R any](ctx context.Context, n *Node, q *question[A, R], node string, shard spec.ShardID, args A, body io.Reader) (R, io.ReadCloser, error) {
	var result R
	if node == n.cfg.Name {
		l := n.local(shard)
		if l == nil {
			return result, nil, errNotHere(shard, n.cfg.Name)
		}
		return onLocal(ctx, n, q, l, args, body)
	}
	var a shardAnswer
	answer, err := n.call(ctx, node, q.method, shardQuestion[A]{shard, args}, body, &a)
	if err != nil {
		return result, nil, err
	}
	if a.Leader != "" {
		n.hints.set(shard, a.Leader)
	}
	if a.NotTaken != "" {
		return result, nil, spec.Errorf(spec.CodeUnavailable, "node %s: %s%w", node, strings.TrimSuffix(a.NotTaken, leader.ErrNotTaken.Error()), leader.ErrNotTaken)
	}
	if !q.anywhere {
		n.hints.set(shard, node)
	}
	if a.Long && answer != nil {
		long := answer
		defer func() { _ = long.Close() }()
		a.Result, err = io.ReadAll(long)
		if err != nil {
			return result, nil, spec.Errorf(spec.CodeUnavailable, "the answer of node %s broke off: %w", node, err)
		}
		answer = nil
	}
	if err := json.Unmarshal(a.Result, &result); err != nil {
		return result, nil, spec.Errorf(spec.CodeInternal, "the answer of node %s to %s can't be read: %w", node, q.method, err)
	}
	return result, answer, nil
}

// onLocal asks a replica that is on this node. One that was taken off the node while
// it was read may have been dropped under the reader, who has then read nothing of
// worth: end takes a replica out of the locals before it drops it. An answer's body is
// of a snapshot, which was whole if the replica is there once it is taken.
func onLocal[A, R any](ctx context.Context, n *Node, q *question[A, R], l *local, args A, body io.Reader) (R, io.ReadCloser, error) {
	r, answer, err := q.on(ctx, l.leader, args, body)
	if now := n.local(l.id); now != nil && now.replica == l.replica {
		return r, answer, err
	}
	// What a command did counts, but not what it did not find.
	if !q.anywhere && !q.reads && spec.CodeOf(err) != spec.CodeNotFound {
		return r, answer, err
	}
	if answer != nil {
		_ = answer.Close()
	}
	var none R
	return none, nil, errNotHere(l.id, n.cfg.Name)
}

func errNotHere(shard spec.ShardID, node string) error {
	return spec.Errorf(spec.CodeUnavailable, "shard %d has no replica on node %s: %w", shard, node, leader.ErrNotTaken)
}

// errDeposed answers who has asked a leader that never answered for what must not be
// done twice.
func errDeposed(shard spec.ShardID, node string, err error) error {
	return spec.Errorf(spec.CodeUnavailable, "node %s stopped answering and another one leads shard %d now; whether the request was carried out is not known: %w", node, shard, err).
		WithHint("look before sending it again, or send requests with an Idempotency-Key, which are repeated without doing anything twice")
}

// shardQuestion is a question on its way to another node.
type shardQuestion[A any] struct {
	Shard spec.ShardID `json:"shard"`
	Args  A            `json:"args"`
}

// shardAnswer is its answer.
type shardAnswer struct {
	Result json.RawMessage `json:"result,omitempty"`
	Long   bool            `json:"long,omitempty"` // the result is the body
	// NotTaken says why the question was not taken, and Leader where it may be.
	NotTaken string `json:"not_taken,omitempty"`
	Leader   string `json:"leader,omitempty"`
}

// shortResult is up to which size a result goes with the answer's header.
const shortResult = 64 << 10

// answers has this node answer a question of others.
func answers[A, R any](n *Node, q *question[A, R]) {
	n.handle(q.method, func(ctx context.Context, c *peer.Call) (peer.Answer, error) {
		var asked shardQuestion[A]
		if err := c.Args(&asked); err != nil {
			return peer.Answer{}, err
		}
		l := n.local(asked.Shard)
		if l == nil {
			return n.refusal(asked.Shard, errNotHere(asked.Shard, n.cfg.Name))
		}
		result, body, err := onLocal(ctx, n, q, l, asked.Args, c.Body)
		if err != nil {
			return n.refusal(asked.Shard, err)
		}
		raw, err := json.Marshal(result)
		if err != nil {
			return peer.Answer{Body: body}, err
		}
		if len(raw) > shortResult && body == nil {
			return peer.Answer{Result: shardAnswer{Long: true}, Body: io.NopCloser(bytes.NewReader(raw))}, nil
		}
		return peer.Answer{Result: shardAnswer{Result: raw}, Body: body}, nil
	})
}

// refusal is the answer for an error.
func (n *Node) refusal(shard spec.ShardID, err error) (peer.Answer, error) {
	if errors.Is(err, leader.ErrNotTaken) {
		return peer.Answer{Result: shardAnswer{NotTaken: err.Error(), Leader: n.leads(shard)}}, nil
	}
	return peer.Answer{}, err
}

// leads returns the node that leads a shard as far as the replica here knows.
func (n *Node) leads(shard spec.ShardID) string {
	leader, _ := n.leadsIn(shard)
	return leader
}

// leadsIn is leads, with the raft term.
func (n *Node) leadsIn(shard spec.ShardID) (leader string, term uint64) {
	l := n.local(shard)
	if l == nil {
		return "", 0
	}
	status := l.replica.Status()
	if status.Leader == 0 {
		return "", 0
	}
	return n.control.State().Placement.Shards[shard].Replicas[status.Leader].Node, status.RaftTerm
}

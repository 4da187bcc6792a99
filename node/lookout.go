package node

import (
	"context"
	"sync"
	"time"

	"github.com/pheromone-run/pheromone/node/peer"
	"github.com/pheromone-run/pheromone/spec"
)

const (
	// methodLeads asks a replica's node who leads the shard.
	methodLeads = "shard.leads"
	// leadsWait bounds how long one node may take to say it.
	leadsWait = time.Second
	// deposedWait is how long a leader that was asked may answer yet when the shard has
	// another one: one that is alive ends what it has at work sooner.
	deposedWait = 2 * time.Second
)

// silence is how long a node is believed to lead a shard before somebody else is
// asked: longer than the others take to elect another one.
func (n *Node) silence() time.Duration {
	return max(time.Second, 2*n.cfg.RaftRTT*time.Duration(n.cfg.RaftElection))
}

// whileLed returns a context for a question to a shard's leader on another node,
// which ends when another node leads the shard: the one that was asked may be cut off
// or stand still and never answer. If the question can't be repeated it ends only when
// the answer has not come for a while then. moved tells of news of an election since
// before the node was chosen; it is nil if no replica is here.
//
// letGo is called when the question is over, and tells whether it was ended. The body of
// an answer, if it has one, is read in the same context, which goes on.
func (n *Node) whileLed(ctx context.Context, shard spec.ShardID, asked string, harmless bool, moved <-chan struct{}) (asking context.Context, letGo func(bool) bool) {
	asking, cancel := context.WithCancel(ctx)
	watching, stop := context.WithCancel(asking)
	var mu sync.Mutex
	over, hasMoved := false, false // guarded by mu
	go func() {
		for watching.Err() == nil {
			moved = n.awaitNews(watching, shard, moved, n.silence())
			if !n.ledElsewhere(watching, shard, asked) {
				continue
			}
			if !harmless {
				n.awaitNews(watching, shard, nil, deposedWait)
				if watching.Err() != nil || !n.ledElsewhere(watching, shard, asked) {
					continue
				}
			}
			mu.Lock()
			if hasMoved = !over; hasMoved {
				cancel()
			}
			mu.Unlock()
			stop()
		}
	}()
	return asking, func(body bool) bool {
		mu.Lock()
		defer mu.Unlock()
		over = true
		if stop(); !body {
			cancel()
		}
		return hasMoved
	}
}

// awaitNews waits for news of an election at the replica here, and no longer than
// patience. It returns what tells of the next ones.
func (n *Node) awaitNews(ctx context.Context, shard spec.ShardID, news <-chan struct{}, patience time.Duration) <-chan struct{} {
	pause := time.NewTimer(patience)
	defer pause.Stop()
	select {
	case <-news:
	case <-pause.C:
	case <-ctx.Done():
	}
	if l := n.local(shard); l != nil {
		_, _, news = l.replica.Led()
		return news
	}
	return nil
}

// ledElsewhere tells whether another node than the one that was asked leads a shard, as
// the replica here knows, or one of the others if there is none here.
func (n *Node) ledElsewhere(ctx context.Context, shard spec.ShardID, asked string) bool {
	if ctx.Err() != nil {
		return false
	}
	leads := n.leads(shard)
	if n.local(shard) == nil {
		leads = n.lookouts.look(ctx, shard, n.silence()/2, func() string { return n.askWhoLeads(ctx, shard) })
	}
	return leads != "" && leads != asked
}

// askWhoLeads asks the nodes of a shard's replicas who leads it, and believes the one
// that knows of the newest term: others may be behind, cut off from the group though
// not from here. It returns "" if none of them knows.
func (n *Node) askWhoLeads(ctx context.Context, shard spec.ShardID) string {
	ctx, cancel := context.WithTimeout(ctx, leadsWait)
	defer cancel()
	var mu sync.Mutex
	var newest leadsAnswer
	var asking sync.WaitGroup
	for _, r := range n.control.State().Placement.Shards[shard].Replicas {
		if r.Node == n.cfg.Name {
			continue
		}
		asking.Go(func() {
			var a leadsAnswer
			if _, err := n.call(ctx, r.Node, methodLeads, shardQuestion[nothing]{Shard: shard}, nil, &a); err != nil {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			if a.Leader != "" && a.Term >= newest.Term {
				newest = a
			}
		})
	}
	asking.Wait()
	if newest.Leader != "" {
		n.hints.set(shard, newest.Leader)
	}
	return newest.Leader
}

// leadsAnswer says which node leads a shard, "" if that is not known, and in which
// raft term.
type leadsAnswer struct {
	Leader string `json:"leader,omitempty"`
	Term   uint64 `json:"term,omitempty"`
}

// answerLeads has the node say who leads the shards that it has replicas of.
func (n *Node) answerLeads() {
	n.handle(methodLeads, func(_ context.Context, c *peer.Call) (peer.Answer, error) {
		var asked shardQuestion[nothing]
		if err := c.Args(&asked); err != nil {
			return peer.Answer{}, err
		}
		if n.stopping.Load() { // it can't lead either, and others will know better soon
			return peer.Answer{}, errStopping(n.cfg.Name)
		}
		leader, term := n.leadsIn(asked.Shard)
		return peer.Answer{Result: leadsAnswer{leader, term}}, nil
	})
}

// lookouts have many who wait for the same shard share one look for its leader.
type lookouts struct {
	mu     sync.Mutex
	shards map[spec.ShardID]*lookout
}

type lookout struct {
	mu    sync.Mutex // held while somebody looks
	at    time.Time
	leads string
}

// look returns what a look has found that is not older than age, or looks. Who looks
// gives up with ctx, and has found nothing that others could go by then.
func (l *lookouts) look(ctx context.Context, id spec.ShardID, age time.Duration, find func() string) string {
	l.mu.Lock()
	if l.shards == nil {
		l.shards = map[spec.ShardID]*lookout{}
	}
	one := l.shards[id]
	if one == nil {
		one = &lookout{}
		l.shards[id] = one
	}
	l.mu.Unlock()
	one.mu.Lock()
	defer one.mu.Unlock()
	if ctx.Err() != nil { // while others have looked
		return ""
	}
	if one.at.IsZero() || time.Since(one.at) > age {
		leads := find()
		if ctx.Err() != nil {
			return leads
		}
		one.leads, one.at = leads, time.Now()
	}
	return one.leads
}

package form

import (
	"errors"
	"fmt"
	"time"

	"github.com/pheromone-run/pheromone/node/peer"
	"github.com/pheromone-run/pheromone/spec"
)

// Bounds of how far apart the clocks of two nodes may be: beyond the first it is
// logged, beyond the second they do not get together.
const (
	clockOdd  = 30 * time.Second
	clockMost = 10 * time.Minute
)

// newcomer is how long a node takes itself for the one that came last, if the other
// can't be asked: what stands between two nodes ends the one that came last, and is
// logged by the one that was there.
const newcomer = 30 * time.Second

// obstacle returns what stands in the way of this node and can't go away by waiting.
func (f *Former) obstacle(s seen) error {
	if v := s.instead; v != nil {
		return spec.Errorf(spec.CodeConflict, "node %s is at %s, which is the address that this node tells others", v.answer.Node.Name, v.address).
			WithHint("give each node a --peer-advertise of its own")
	}
	for _, v := range s.absent {
		err, named := refused(v), isRefusal(v, peer.ReasonName)
		// Whom another one takes is not the one that is wrong, unless by its name.
		if err != nil && time.Since(f.began) < newcomer && (named || len(s.members)+len(s.waiting) == 0) {
			return err
		}
	}
	for _, v := range s.members {
		if err := f.memberObstacle(v, s.members[0]); err != nil {
			return err
		}
	}
	for _, v := range s.waiting {
		err := f.waitingObstacle(v)
		if err != nil && time.Since(f.began) <= v.answer.Up {
			return err
		}
	}
	return nil
}

func isRefusal(v view, why peer.Reason) bool {
	var r *peer.Refusal
	return errors.As(v.err, &r) && r.Reason == why
}

// refused is the error for a refusal that stays.
func refused(v view) error {
	var r *peer.Refusal
	if !errors.As(v.err, &r) {
		return nil
	}
	refusal := func(hint string) error {
		return spec.Errorf(spec.CodeConflict, "the node at %s refuses this one: %w", v.address, r).WithHint(hint)
	}
	switch r.Reason {
	case peer.ReasonName:
		return refusal("start this node under another --name")
	case peer.ReasonVersion:
		return refusal("install one release on all nodes")
	case peer.ReasonToken:
		return refusal("start all nodes of the cluster with the same --join-token, or none with one")
	case peer.ReasonCluster:
		return refusal("start this node with the --data of that cluster, or with the --join addresses of its own")
	}
	return nil
}

func (f *Former) memberObstacle(v, first view) error {
	n := v.answer.Node
	switch {
	case v.answer.Cluster != first.answer.Cluster:
		return spec.Errorf(spec.CodeConflict, "the addresses to join are those of two clusters: node %s at %s belongs to %s, node %s at %s to %s",
			first.answer.Node.Name, first.address, first.answer.Cluster, n.Name, v.address, v.answer.Cluster).
			WithHint("name only nodes of one of them in --join")
	case v.answer.Standing == standingTaken:
		return spec.Errorf(spec.CodeConflict, "cluster %s has a node %s with another data folder", v.answer.Cluster, f.cfg.Self.Name).
			WithHint(fmt.Sprintf("start this node under another --name or with the folder it had; if that is lost, `pheromone cluster remove %s` first", f.cfg.Self.Name))
	}
	return f.clockObstacle(v)
}

func (f *Former) waitingObstacle(v view) error {
	n := v.answer.Node
	switch {
	case v.answer.Expect > 0 && f.cfg.Expect > 0 && v.answer.Expect != f.cfg.Expect:
		return spec.Errorf(spec.CodeConflict, "this node expects %d nodes to found the cluster, node %s at %s expects %d", f.cfg.Expect, n.Name, v.address, v.answer.Expect).
			WithHint("start all of them with the same --bootstrap-expect")
	}
	return f.clockObstacle(v)
}

// clockObstacle refuses a node whose clock is far off, and logs one that is odd.
func (f *Former) clockObstacle(v view) error {
	apart := v.ahead.Abs().Round(time.Second)
	if apart <= clockOdd {
		return nil
	}
	if apart > clockMost {
		return spec.Errorf(spec.CodePrecondition, "the clocks of node %s and of node %s at %s are %v apart", f.cfg.Self.Name, v.answer.Node.Name, v.address, apart).
			WithHint("set the clock that is wrong, best by NTP, and start the node again")
	}
	f.mu.Lock()
	last := f.mu.clocks[v.address]
	if time.Since(last) > sayAgain {
		f.mu.clocks[v.address] = time.Now()
	}
	f.mu.Unlock()
	if time.Since(last) > sayAgain {
		f.cfg.Log.Warn("the clocks of two nodes are apart", "node", f.cfg.Self.Name, "other", v.answer.Node.Name, "apart", apart)
	}
	return nil
}

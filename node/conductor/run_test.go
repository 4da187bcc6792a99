//go:build !race

// Timers of a synctest bubble crash the race detector of Go 1.26 once in a while
// (a segmentation fault in raceacquirectx), so make test runs this package a
// second time, without it.

package conductor_test

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pheromone-run/pheromone/node/conductor"
	"github.com/pheromone-run/pheromone/raft/control"
	"github.com/pheromone-run/pheromone/raft/shard"
	"github.com/pheromone-run/pheromone/spec"
)

// stage is a cluster of nodes n1 to n4 with one shard on the first three, and of n0,
// which conducts and holds nothing. Its nodes do at once what they are asked.
type stage struct {
	mu      sync.Mutex
	state   control.State
	members shard.Members
	lead    uint64
	leading bool
	changed chan struct{} // of the state and of the leader
	calls   map[string]int
	// stuck has a lead stay where it is, whatever is asked.
	stuck bool
	// fail, if it is set, answers calls before the nodes do.
	fail func(ctx context.Context, node, method string) error
}

func newStage() *stage {
	s := &stage{
		members: shard.Members{Voters: []uint64{1, 2, 3}, Version: 1}, lead: 1, leading: true,
		changed: make(chan struct{}), calls: map[string]int{},
	}
	s.state.Members = map[string]control.Member{"n0": {Name: "n0", Address: address("n0"), Draining: true}}
	placed := control.Shard{Replicas: map[uint64]control.Replica{}, Next: 4}
	for n, name := range []string{"n1", "n2", "n3", "n4"} {
		s.state.Members[name] = control.Member{Name: name, Address: address(name)}
		if n < 3 {
			placed.Replicas[uint64(n+1)] = control.Replica{Node: name}
		}
	}
	s.state.Placement.Shards = map[spec.ShardID]control.Shard{1: placed}
	return s
}

func (s *stage) State() *control.State {
	s.mu.Lock()
	defer s.mu.Unlock()
	state := s.state
	return &state
}

func (s *stage) Changed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}

func (s *stage) LeaderChanged() <-chan struct{} { return s.Changed() }

func (s *stage) IsLeader() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.leading
}

// change changes the state or the leader, and tells who waits.
func (s *stage) change(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *stage) ReadBarrier(context.Context) error          { return nil }
func (s *stage) Servers() []control.Server                  { return nil }
func (s *stage) LastContact(string) (time.Time, bool)       { return time.Time{}, false }
func (s *stage) RemoveServer(context.Context, string) error { return nil }
func (s *stage) TransferLeadership(context.Context) error   { return nil }
func (s *stage) Status() []conductor.Held                   { return nil }
func (s *stage) Lacks(context.Context, spec.ShardID) bool   { return false }

func (s *stage) Shard(spec.ShardID) (*shard.Shard, bool)               { return nil, false }
func (s *stage) AddServer(context.Context, string, string, bool) error { return nil }

func (s *stage) Apply(_ context.Context, c control.Command) (control.Result, error) {
	s.change(func() {
		placed := s.state.Placement.Shards[1]
		placed.Replicas = maps.Clone(placed.Replicas)
		switch c := c.(type) {
		case *control.Set:
			s.state.Settings = map[string]string{c.Key: c.Value}
		case *control.AddReplica:
			placed.Replicas[placed.Next] = control.Replica{Node: c.Node, Joining: true}
			placed.Next++
		case *control.ReplicaJoined:
			placed.Replicas[c.Replica] = control.Replica{Node: placed.Replicas[c.Replica].Node}
		case *control.RemoveReplica:
			delete(placed.Replicas, c.Replica)
		}
		s.state.Placement.Shards = map[spec.ShardID]control.Shard{1: placed}
	})
	return control.Result{Changed: true}, nil
}

func (s *stage) call(ctx context.Context, node, method string, args, result any) error {
	s.mu.Lock()
	s.calls[method]++
	fail := s.fail
	s.mu.Unlock()
	if fail != nil {
		if err := fail(ctx, node, method); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if status, ok := result.(*conductor.Status); ok {
		for n, r := range s.state.Placement.Shards[1].Replicas {
			if r.Node != node {
				continue
			}
			rs := conductor.ReplicaStatus{Shard: 1, Replica: n, Applied: 100}
			if n == s.lead {
				members := s.members
				rs.Members = &members
			}
			status.Replicas = append(status.Replicas, rs)
		}
		return nil
	}
	o := args.(conductor.Order)
	without := func(numbers []uint64) []uint64 {
		return slices.DeleteFunc(slices.Clone(numbers), func(n uint64) bool { return n == o.Replica })
	}
	switch {
	case node != s.state.Placement.Shards[1].Replicas[s.lead].Node || o.Version != s.members.Version:
		return spec.Errorf(spec.CodePrecondition, "%s asks node %s for %+v", method, node, o)
	case method == "replica.add" && o.Address == address("n4"):
		s.members.Learners = append(s.members.Learners, o.Replica)
	case method == "replica.promote":
		s.members.Learners, s.members.Voters = without(s.members.Learners), append(slices.Clone(s.members.Voters), o.Replica)
	case method == "replica.remove":
		s.members.Voters, s.members.Removed = without(s.members.Voters), append(slices.Clone(s.members.Removed), o.Replica)
	case method == "replica.transfer":
		if !s.stuck {
			s.lead = o.Replica
		}
		return nil
	}
	s.members.Version++
	return nil
}

// run conducts until the test is over.
func (s *stage) run(t *testing.T) {
	t.Helper()
	c, err := conductor.New(conductor.Config{Node: "n0", Call: s.call, Replicas: s})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { c.Run(ctx, s) })
	t.Cleanup(func() { cancel(); running.Wait() })
}

// after lets time pass.
func after(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func (s *stage) called(method string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls[method]
}

func (s *stage) nodes() []string {
	var nodes []string
	for _, r := range s.State().Placement.Shards[1].Replicas {
		nodes = append(nodes, r.Node)
	}
	return slices.Sorted(slices.Values(nodes))
}

func TestReplicasOfADeadNodeAreMadeAnewByThemselves(t *testing.T) {
	for name, dies := range map[string]func(ctx context.Context) error{
		"it refuses":         func(context.Context) error { return errors.New("refused") },
		"it does not answer": func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStage()
				s.run(t)
				after(10 * time.Second)
				s.change(func() {
					s.fail = func(ctx context.Context, node, _ string) error {
						if node == "n3" {
							return dies(ctx)
						}
						return nil
					}
				})
				after(4*time.Minute + 50*time.Second)
				if got := s.nodes(); !slices.Equal(got, []string{"n1", "n2", "n3"}) {
					t.Fatalf("the replicas are on %v before the grace is over", got)
				}
				after(20 * time.Second)
				if got := s.nodes(); !slices.Equal(got, []string{"n1", "n2", "n4"}) || !slices.Equal(s.members.Voters, []uint64{1, 2, 4}) {
					t.Errorf("the replicas are on %v, of the group %+v", got, s.members)
				}
				before := s.called("replica.add") + s.called("replica.remove")
				after(time.Hour)
				if now := s.called("replica.add") + s.called("replica.remove"); now != before {
					t.Errorf("the group was changed %d times more", now-before)
				}
			})
		})
	}
}

func TestADrainedNodesLeadAndReplicaGoWithinSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage()
		s.run(t)
		after(10 * time.Second)
		s.change(func() {
			s.state.Members = maps.Clone(s.state.Members)
			s.state.Members["n1"] = control.Member{Name: "n1", Address: address("n1"), Draining: true}
		})
		after(10 * time.Second)
		if got := s.nodes(); !slices.Equal(got, []string{"n2", "n3", "n4"}) || s.lead == 1 {
			t.Errorf("the replicas are on %v and replica %d leads", got, s.lead)
		}
		if n := s.called("replica.transfer"); n != 1 {
			t.Errorf("the lead was moved %d times", n)
		}
	})
}

func TestALeadThatDoesNotMoveIsNotAskedForAllTheTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage()
		s.stuck = true
		s.state.Members["n1"] = control.Member{Name: "n1", Address: address("n1"), Draining: true}
		s.run(t)
		after(time.Minute)
		if n := s.called("replica.transfer"); n < 8 || n > 12 {
			t.Errorf("the lead was asked for %d times in a minute", n)
		}
	})
}

func TestANodeThatComesBackHasNotLivedForLong(t *testing.T) {
	answer := &conductor.Status{}
	m := conductor.NewMemory(noon)
	look := func(after time.Duration, answer *conductor.Status) conductor.Node {
		return m.Look("n1", answer, noon.Add(after), 3*time.Second)
	}
	look(0, answer)
	if n := look(2*time.Second, nil); n.Since != noon || n.Seen != noon || n.Replicas != nil {
		t.Errorf("after two seconds of silence: %+v", n)
	}
	if n := look(3*time.Second, answer); n.Since != noon || n.Seen != noon.Add(3*time.Second) || n.Replicas == nil {
		t.Errorf("after an answer: %+v", n)
	}
	if n := look(6*time.Second, nil); !n.Since.IsZero() || n.Seen != noon.Add(3*time.Second) {
		t.Errorf("after three seconds of silence: %+v", n)
	}
	if n := look(8*time.Second, answer); n.Since != noon.Add(8*time.Second) {
		t.Errorf("back again: %+v", n)
	}
}

func TestANodeThatStoodStillDoesNotTakeTheOthersForDead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage()
		s.run(t)
		after(10 * time.Second)
		s.change(func() {
			goesOn := time.Now().Add(10 * time.Minute)
			s.fail = func(_ context.Context, node, _ string) error {
				<-time.After(time.Until(goesOn))
				if node == "n3" && time.Since(goesOn) < time.Minute {
					return errors.New("no")
				}
				return nil
			}
		})
		after(30 * time.Minute)
		if got := s.nodes(); !slices.Equal(got, []string{"n1", "n2", "n3"}) || s.called("replica.add") != 0 {
			t.Errorf("the replicas are on %v", got)
		}
	})
}

func TestOnlyTheNodeThatLeadsTheControlGroupConducts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage()
		s.leading = false
		s.run(t)
		after(time.Minute)
		if n := s.called("node.status"); n != 0 {
			t.Errorf("nodes were asked %d times by one that does not lead", n)
		}
		s.change(func() { s.leading = true })
		after(time.Minute)
		if n := s.called("node.status"); n < 4*55 || n > 4*65 {
			t.Errorf("four nodes were asked %d times in a minute", n)
		}
		if got := s.State().Settings[conductor.ReplicasKey]; got != "3" {
			t.Errorf("the cluster knows of %q replicas", got)
		}
		s.change(func() { s.leading = false })
		after(time.Second)
		before := s.called("node.status")
		after(time.Minute)
		if n := s.called("node.status"); n != before {
			t.Errorf("nodes were asked %d times by one that does not lead any more", n-before)
		}
	})
}

func TestAStepThatFailsIsTriedAgainEverMoreSeldom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage()
		s.fail = func(_ context.Context, node, method string) error {
			if node == "n3" && method == "node.status" || strings.HasPrefix(method, "replica.") {
				return errors.New("no")
			}
			return nil
		}
		s.run(t)
		after(15 * time.Minute) // five of them are the grace
		if n := s.called("replica.add"); n < 10 || n > 20 {
			t.Errorf("a step that fails was tried %d times in ten minutes", n)
		}
		s.change(func() {
			s.fail = func(_ context.Context, node, _ string) error {
				if node == "n3" {
					return errors.New("no")
				}
				return nil
			}
		})
		after(2 * time.Minute)
		if got := s.nodes(); !slices.Equal(got, []string{"n1", "n2", "n4"}) {
			t.Errorf("the replicas are on %v after steps no longer fail", got)
		}
	})
}

func TestAConductorWithoutWhatItNeedsIsRefused(t *testing.T) {
	_, err := conductor.New(conductor.Config{Settings: conductor.Settings{RebuildAfter: time.Second, DeadAfter: 2 * time.Second}})
	for _, says := range []string{"name", "way to call", "rebuild after 1s"} {
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("error %v does not tell of the %s", err, says)
		}
	}
}

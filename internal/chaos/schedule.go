package chaos

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// Kind is a kind of fault.
type Kind string

const (
	Kill      Kind = "kill"      // SIGKILL of a node, which comes back
	KillAll   Kind = "kill-all"  // of all nodes at once
	Stop      Kind = "stop"      // SIGTERM of a node, which comes back
	Rolling   Kind = "rolling"   // of one node after the other
	Pause     Kind = "pause"     // SIGSTOP of a node, which goes on
	FullDisk  Kind = "full-disk" // a node restarts and finds no room on its disk
	Clock     Kind = "clock"     // a node's clock is put forward or back
	Partition Kind = "partition" // a node and the others don't reach each other
	Refuse    Kind = "refuse"    // the same, but connections are reset
	OneWay    Kind = "one-way"   // what a node says does not arrive, or it hears nothing
	Bridge    Kind = "bridge"    // two nodes don't reach each other; another reaches both
	Loss      Kind = "loss"      // 1 to 30 % of packets are lost, between all nodes
	Latency   Kind = "latency"   // between all nodes
	Slow      Kind = "slow"      // little bandwidth from and to a node
	SlowDisk  Kind = "slow-disk" // each sync of a node takes long
	FailDisk  Kind = "fail-disk" // a sync of a node fails, so that it ends itself
	Member    Kind = "member"    // a node comes, another's replicas move, it leaves again
)

// Which kinds there are, by what they need.
var (
	AloneKinds   = []Kind{Kill, Stop, Pause, FullDisk, Clock}
	ClusterKinds = append(slices.Clone(AloneKinds), KillAll, Rolling, Partition, Refuse, OneWay, Bridge, Loss, Latency, Slow)
	DiskKinds    = []Kind{SlowDisk, FailDisk} // need strace
	MemberKinds  = []Kind{Member}
)

// Step is one fault of a schedule.
type Step struct {
	Kind Kind
	// Node is the subject, counted from 0; Other the second of a Bridge.
	Node, Other int
	Inbound     bool          // of OneWay: the node hears nothing; else it is not heard
	Lasts       time.Duration // until the fault is taken back
	Rest        time.Duration // after it, before the next
	// Amount is the share of Loss, the milliseconds of Latency and SlowDisk, the
	// KiB a second of Slow, and the seconds by which a Clock is wrong.
	Amount int
}

func (s Step) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%-9s", s.Kind)
	switch s.Kind {
	case KillAll, Rolling, Member:
	case Loss, Latency:
		fmt.Fprintf(&b, " amount %d", s.Amount)
	case Bridge:
		fmt.Fprintf(&b, " between n%d and n%d", s.Node+1, s.Other+1)
	case OneWay:
		fmt.Fprintf(&b, " n%d, inbound %v", s.Node+1, s.Inbound)
	case Slow, SlowDisk, Clock:
		fmt.Fprintf(&b, " n%d, amount %d", s.Node+1, s.Amount)
	default:
		fmt.Fprintf(&b, " n%d", s.Node+1)
	}
	fmt.Fprintf(&b, " for %v, then rest %v", s.Lasts, s.Rest)
	return b.String()
}

// Schedule draws faults that take about as long as lasts says. Equal arguments
// give equal schedules. All kinds come before one comes again.
func Schedule(random *rand.Rand, kinds []Kind, nodes int, lasts time.Duration) []Step {
	var steps []Step
	var deck []Kind
	for total := time.Duration(0); total < lasts; {
		if len(deck) == 0 {
			deck = slices.Clone(kinds)
			random.Shuffle(len(deck), func(i, j int) { deck[i], deck[j] = deck[j], deck[i] })
		}
		s := draw(random, deck[0], nodes)
		deck = deck[1:]
		steps = append(steps, s)
		total += s.Lasts + s.Rest
	}
	return steps
}

func draw(random *rand.Rand, kind Kind, nodes int) Step {
	between := func(low, high time.Duration) time.Duration {
		return (low + time.Duration(random.Int64N(int64(high-low)))).Round(10 * time.Millisecond)
	}
	s := Step{Kind: kind, Node: random.IntN(nodes), Rest: between(500*time.Millisecond, 2*time.Second)}
	s.Lasts = between(time.Second, 5*time.Second)
	switch kind {
	case OneWay:
		s.Inbound = random.IntN(2) == 0
	case Bridge:
		s.Other = (s.Node + 1 + random.IntN(max(nodes-1, 1))) % nodes
	case Loss:
		s.Amount = 1 + random.IntN(30)
	case Latency:
		s.Amount = 5 + random.IntN(60)
	case Slow:
		s.Amount = 64 << random.IntN(5)
	case SlowDisk:
		s.Amount = 10 + random.IntN(200)
	case Clock:
		s.Amount = random.IntN(80) - 40 // windows close as late as that
	}
	return s
}

// ParseKinds reads a list of kinds.
func ParseKinds(list string) ([]Kind, error) {
	known := slices.Concat(ClusterKinds, DiskKinds, MemberKinds)
	var kinds []Kind
	for name := range strings.SplitSeq(list, ",") {
		kind := Kind(strings.TrimSpace(name))
		if !slices.Contains(known, kind) {
			return nil, fmt.Errorf("there is no fault %q: use some of %v", name, known)
		}
		kinds = append(kinds, kind)
	}
	return kinds, nil
}

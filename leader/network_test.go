package leader_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"

	"github.com/pheromone-run/pheromone/leader"
	"github.com/pheromone-run/pheromone/spec"
)

// network joins the shards of a world as a bad one would: it loses messages and
// answers, delivers twice, late and in another order.
type network struct {
	*world
	mu   sync.Mutex
	rng  *rand.Rand
	calm bool
	down map[spec.ShardID]bool // receivers that can't be reached
	held []chan struct{}       // messages that wait until others have overtaken them
	late []lateMail
	now  map[spec.ShardID]int // deliveries on their way, by receiver
	most int                  // of them at once
}

// lateMail is a copy that comes long after its message, or after its sender's end.
type lateMail struct {
	to   spec.ShardID
	mail leader.Mail
}

var errNetwork = errors.New("the network has lost it")

const heldMost = 6 // so that there are others to overtake them

func (n *network) Deliver(ctx context.Context, to spec.ShardID, m leader.Mail) error {
	n.mu.Lock()
	n.now[to]++
	total := 0
	for _, some := range n.now {
		total += some
	}
	n.most = max(n.most, total)
	defer func() {
		n.mu.Lock()
		n.now[to]--
		n.mu.Unlock()
	}()
	dice := n.rng.IntN(100)
	if n.down[to] {
		n.mu.Unlock()
		return errNetwork
	}
	if n.calm {
		n.mu.Unlock()
		return n.world.Deliver(ctx, to, m)
	}
	if n.rng.IntN(2) == 0 {
		n.release(1)
	}
	var wait chan struct{}
	switch {
	case dice < 30:
		n.late = append(n.late, lateMail{to, m})
	case dice < 50 && len(n.held) < heldMost:
		wait = make(chan struct{})
		n.held = append(n.held, wait)
	}
	n.mu.Unlock()
	if wait != nil {
		select {
		case <-wait:
		case <-ctx.Done(): // the sender has ended, its message has not
			n.mu.Lock()
			n.late = append(n.late, lateMail{to, m})
			n.mu.Unlock()
			return ctx.Err()
		}
	}
	if dice%5 == 0 {
		return errNetwork
	}
	err := n.world.Deliver(ctx, to, m)
	if dice%5 == 1 {
		return errNetwork
	}
	return err
}

// release lets some of the messages go on that are held, the newest first.
func (n *network) release(some int) {
	for ; some > 0 && len(n.held) > 0; some-- {
		last := len(n.held) - 1
		close(n.held[last])
		n.held = n.held[:last]
	}
}

// overtaken lets all messages go on that are held.
func (n *network) overtaken() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.release(len(n.held))
}

// repeat delivers the late copy of a message.
func (n *network) repeat(which int) {
	n.mu.Lock()
	if len(n.late) == 0 {
		n.mu.Unlock()
		return
	}
	l := n.late[which%len(n.late)]
	n.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_ = n.world.Deliver(ctx, l.to, l.mail) // it may be refused: nobody waits for an answer
}

// cut makes a shard unreachable for mail, mend makes all reachable.
func (n *network) cut(to spec.ShardID) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.down[to] = true
}

func (n *network) mend() {
	n.mu.Lock()
	defer n.mu.Unlock()
	clear(n.down)
}

// calmDown ends all trouble.
func (n *network) calmDown() {
	n.mend()
	n.mu.Lock()
	defer n.mu.Unlock()
	n.calm = true
	n.release(len(n.held))
}

func newNetwork(w *world, seed uint64) *network {
	return &network{world: w, rng: rand.New(rand.NewPCG(seed, 2)), down: map[spec.ShardID]bool{}, now: map[spec.ShardID]int{}}
}

package spread

import (
	"context"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/pheromone-run/pheromone/exec"
	"github.com/pheromone-run/pheromone/spec"
)

const (
	// firstTrip and firstRate are taken for the cost of forwarding to a node before
	// it is measured: a round trip, and bytes a second.
	firstTrip = time.Millisecond
	firstRate = 200 << 20
	// rateFrom is from how many bytes on a transfer tells something of the rate.
	rateFrom = 64 << 10
	// weight is the part that a new measurement has in the mean, one in so many.
	weight = 4
	// askedAtOnce bounds the functions that one call asks for, and othersAsked the
	// nodes without a replica that are considered for an attempt at a time.
	askedAtOnce = 64
	othersAsked = 8
	// roomsKept bounds what is remembered of a node.
	roomsKept = 4096
	// unreachableFor is how long a node is left alone that could not be asked.
	unreachableFor = time.Second
)

// peers is what is known of the other nodes.
type peers struct {
	fresh time.Duration
	poll  time.Duration
	mu    struct {
		sync.Mutex
		nodes map[string]*peerNode
	}
}

type peerNode struct {
	trip  time.Duration // mean of what it took from asking it to run an attempt to its word that it does
	rate  float64       // bytes a second that inputs went there with
	rooms map[functionRef]news
	// coming counts the attempts that are on their way to an executor there: the node's
	// word on its room does not know all of them.
	coming map[functionRef]int
	asked  time.Time // when it was last asked for its room
	busy   bool      // it is being asked
	left   time.Time // until when it is left alone
}

// news is the room of a function on a node, and when it was told.
type news struct {
	room exec.Room
	at   time.Time
}

func (p *peers) init(cfg Config) {
	p.fresh, p.poll = cfg.Fresh, cfg.Poll
	p.mu.nodes = make(map[string]*peerNode)
}

// node finds or makes what is known of a node. p.mu is held.
func (p *peers) node(name string) *peerNode {
	n := p.mu.nodes[name]
	if n == nil {
		n = &peerNode{trip: firstTrip, rate: firstRate, rooms: make(map[functionRef]news), coming: make(map[functionRef]int)}
		p.mu.nodes[name] = n
	}
	return n
}

// cost is what forwarding an attempt would take, with so many bytes that the node
// has to read from here.
func (p *peers) cost(name string, bytes int64) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := p.node(name)
	return n.trip + time.Duration(float64(bytes)/n.rate*float64(time.Second))
}

// room is what is known of a function's room on a node, if that is not too old.
func (p *peers) room(name string, f functionRef, now time.Time) (room exec.Room, known bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := p.node(name)
	of, ok := n.rooms[f]
	of.room.Free -= n.coming[f]
	return of.room, ok && now.Sub(of.at) < p.fresh
}

// answering tells whether a node was asked so recently that its answer is worth
// waiting for.
func (p *peers) answering(name string, now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := p.node(name)
	return n.busy && now.Sub(n.asked) < p.poll
}

// told takes the news of a node.
func (p *peers) told(name string, f functionRef, room exec.Room, at time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := p.node(name)
	if len(n.rooms) >= roomsKept {
		maps.DeleteFunc(n.rooms, func(_ functionRef, of news) bool { return at.Sub(of.at) >= p.fresh })
		if len(n.rooms) >= roomsKept {
			clear(n.rooms)
		}
	}
	n.rooms[f] = news{room, at}
	n.left = time.Time{}
}

// took counts an attempt that goes to a node, arrived one that is there, or that
// will not come.
func (p *peers) took(name string, f functionRef) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.node(name).coming[f]++
}

func (p *peers) arrived(name string, f functionRef) {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := p.node(name)
	if n.coming[f]--; n.coming[f] <= 0 {
		delete(n.coming, f)
	}
}

// lost forgets the room of a node that could not be reached, and leaves it alone.
func (p *peers) lost(name string, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := p.node(name)
	clear(n.rooms)
	n.left = now.Add(unreachableFor)
}

// measured takes what a round trip took, and transferred what inputs did.
func (p *peers) measured(name string, trip time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := p.node(name)
	n.trip += (trip - n.trip) / weight
}

func (p *peers) transferred(name string, bytes int64, in time.Duration) {
	if bytes < rateFrom || in <= 0 {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	n := p.node(name)
	n.rate += (float64(bytes)/in.Seconds() - n.rate) / weight
}

// mayAsk tells whether a node is to be asked now. It is not until answered has been
// called.
func (p *peers) mayAsk(name string, now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := p.node(name)
	if n.busy || now.Before(n.left) || now.Sub(n.asked) < p.poll {
		return false
	}
	n.busy, n.asked = true, now
	return true
}

func (p *peers) answered(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.node(name).busy = false
}

// loadArgs asks a node for its room for functions, loadResult has it in the same
// order.
type loadArgs struct {
	Functions []loadFunction `json:"functions"`
}

type loadFunction struct {
	App      spec.AppName      `json:"app"`
	Version  uint64            `json:"version"`
	Function spec.FunctionName `json:"function"`
}

type loadResult struct {
	Rooms []exec.Room `json:"rooms"`
}

// ask asks a node for its room for what waits here, unless it was asked just now.
func (rt *Runtime) ask(node string) {
	if !rt.peers.mayAsk(node, time.Now()) {
		return
	}
	args := loadArgs{Functions: rt.waitingFunctions()}
	rt.wg.Go(func() {
		ctx, cancel := context.WithTimeout(rt.ctx, rt.cfg.Silence)
		defer cancel()
		var res loadResult
		body, err := rt.cfg.Call(ctx, node, MethodLoad, &args, nil, &res)
		if body != nil {
			_ = body.Close()
		}
		now := time.Now()
		rt.peers.answered(node)
		if err != nil || len(res.Rooms) != len(args.Functions) {
			rt.cfg.Log.Debug("a node did not tell its room", "node", node, "error", err)
			rt.peers.lost(node, now)
			rt.signal()
			return
		}
		for i, f := range args.Functions {
			rt.peers.told(node, functionRef{f.App, f.Function}, res.Rooms[i], now)
		}
		rt.signal()
	})
}

// waitingFunctions lists functions of which something waits.
func (rt *Runtime) waitingFunctions() []loadFunction {
	rt.mu.Lock()
	defer rt.mu.Unlock()
	var list []loadFunction
	for _, l := range rt.mu.lanes {
		if e := l.head(); e != nil && len(list) < askedAtOnce {
			list = append(list, loadFunction{e.task.App, e.task.Version, e.task.Function.Name})
		}
	}
	return list
}

// load answers what another node asks for.
func (rt *Runtime) load(args *loadArgs) (*loadResult, error) {
	if len(args.Functions) > askedAtOnce {
		return nil, spec.Errorf(spec.CodeInvalid, "room for %d functions: at most %d are asked for at once", len(args.Functions), askedAtOnce)
	}
	res := &loadResult{Rooms: make([]exec.Room, len(args.Functions))}
	for i, f := range args.Functions {
		app, version, ok := rt.cfg.Apps.App(f.App, f.Version)
		if ok && version == f.Version && app.Functions[f.Function] != nil {
			res.Rooms[i] = rt.room(&exec.Task{App: f.App, Artifact: app.Artifact, Function: app.Functions[f.Function]})
		}
	}
	return res, nil
}

// room is what this node has for attempts of others, those counted that are on
// their way to its executors.
func (rt *Runtime) room(t *exec.Task) exec.Room {
	room := rt.cfg.Local.Room(t)
	rt.mu.Lock()
	defer rt.mu.Unlock()
	if rt.mu.closed {
		return exec.Room{}
	}
	for _, g := range rt.mu.guests {
		if g.coming && g.function == functionOf(t) {
			room.Free--
		}
	}
	if room.Free = max(0, room.Free); len(rt.mu.guests) >= guestsMost {
		room.Free = 0
	}
	return room
}

// nodes names the other nodes that may run attempts of a shard. Unless all are
// wanted, it names a few of those without a replica, others each time.
func (rt *Runtime) nodes(shard spec.ShardID, all bool) (replicas, others []string) {
	replicas, others = rt.cfg.Nodes(shard)
	other := func(name string) bool { return name == rt.cfg.Node }
	replicas, others = slices.DeleteFunc(slices.Clone(replicas), other), slices.DeleteFunc(slices.Clone(others), other)
	if !all && len(others) > othersAsked {
		rand.Shuffle(len(others), func(i, j int) { others[i], others[j] = others[j], others[i] })
		others = others[:othersAsked]
	}
	return replicas, others
}

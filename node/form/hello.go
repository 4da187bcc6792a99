package form

import (
	"context"
	"time"

	"github.com/pheromone-run/pheromone/spec"
)

// The requests of this package between nodes.
const (
	MethodHello = "hello"
	MethodJoin  = "join"
)

// Hello is how a node presents itself, and answers another's.
type Hello struct {
	Node   Node `json:"node"`
	Expect int  `json:"expect,omitempty"`
	// Seeds are the addresses that the node was given, in order, its own among them;
	// none until it knows which one is its own.
	Seeds   []string      `json:"seeds,omitempty"`
	Up      time.Duration `json:"up"`
	Now     time.Time     `json:"now"`
	Cluster string        `json:"cluster,omitempty"`
}

// Answer is the answer to a Hello.
type Answer struct {
	Hello
	// Standing and Founding are told by a node that belongs to a cluster: what it
	// knows of the node that asks, and if that is a founder, of the founding.
	Standing Standing  `json:"standing,omitempty"`
	Founding *Founding `json:"founding,omitempty"`
}

// Standing is what a cluster knows of a node.
type Standing string

const (
	standingMember   Standing = "member"
	standingStranger Standing = "stranger"
	// standingTaken says that another data folder has the node's name.
	standingTaken Standing = "taken"
)

// limits of what a Hello may hold.
const maxSeeds = 1024

// hello presents this node.
func (f *Former) hello() Hello {
	id := f.record.Identity()
	f.mu.Lock()
	seeds := f.mu.seeds
	f.mu.Unlock()
	return Hello{
		Node: f.self(), Expect: f.cfg.Expect, Seeds: seeds,
		Up: time.Since(f.began), Now: f.cfg.Now(), Cluster: id.Cluster,
	}
}

func (f *Former) self() Node {
	n := f.cfg.Self
	n.Install = f.record.Identity().Install
	return n
}

// Hello answers another node.
func (f *Former) Hello(_ context.Context, h Hello) (Answer, error) {
	if len(h.Seeds) > maxSeeds {
		return Answer{}, spec.Errorf(spec.CodeInvalid, "%d addresses to join, at most %d are possible", len(h.Seeds), maxSeeds)
	}
	a := Answer{Hello: f.hello()}
	if a.Cluster == "" {
		f.heard(h)
		return a, nil
	}
	a.Standing, a.Founding = f.standing(h.Node)
	return a, nil
}

// standing tells what this node's cluster knows of another one. Until the shards
// are placed the founders are members whether or not the control group says so.
func (f *Former) standing(n Node) (Standing, *Founding) {
	founding := f.record.Identity().Founding
	founder, founded := founding.founder(n.Name)
	of := func(install string, founding *Founding) (Standing, *Founding) {
		if install != n.Install {
			return standingTaken, nil
		}
		return standingMember, founding
	}
	if group := f.group.Load(); group != nil {
		state := group.State()
		if m, ok := state.Members[n.Name]; ok {
			if founded && founder.Install == n.Install {
				return of(m.Install, founding)
			}
			return of(m.Install, nil)
		}
		if len(state.Placement.Slots) > 0 {
			return standingStranger, nil
		}
	}
	if founded {
		return of(founder.Install, founding)
	}
	return standingStranger, nil
}

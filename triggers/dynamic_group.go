package triggers

import (
	"iter"
	"strings"

	"github.com/pheromone-run/pheromone/spec"
)

// dynamicGroup sorts objects into groups and, when the stage is complete, fires
// once for each group, with the group's objects in order of arrival; the groups
// come in the order in which their first objects did. A stage without objects
// completes without a firing.
//
// The stage is complete when all control keys have come, or when the owner says
// that the functions are done. Control objects belong to no group; they are kept
// like the others until the stage is complete, and then rejected, since nothing
// takes them. In a session there is one stage, and what comes later is rejected,
// as is a second object of a control key. Across a bucket stages follow one
// another: a control object that comes early waits for the next stage in the line
// of its key.
type dynamicGroup struct {
	progress
	rounds    bool
	prefix    string // delimiter; "" groups by metadata
	control   lanes
	functions bool // until functions are done

	groups []*group // in order of arrival
	byName map[string]*group
	have   int  // objects in groups
	done   bool // in a session
}

type group struct {
	name    string
	objects []entry
}

func newDynamicGroup(t *spec.Trigger) (*dynamicGroup, error) {
	control, distinct := newLanes(t.Until.Keys)
	g := &dynamicGroup{
		rounds:    t.Scope == spec.ScopeBucket,
		prefix:    t.GroupBy.Prefix,
		control:   control,
		functions: len(t.Until.Functions) > 0,
		byName:    map[string]*group{},
	}
	switch {
	case (t.GroupBy.Prefix == "") == (t.GroupBy.Meta == ""):
		return nil, badOption(t, "group_by", "needs either prefix or meta")
	case g.functions == (len(t.Until.Keys) > 0):
		return nil, badOption(t, "until", "needs either keys or functions")
	case !distinct:
		return nil, badOption(t, "until.keys", "needs each key once")
	case g.functions && g.rounds:
		return nil, badOption(t, "until.functions", "functions are done in a session: scope bucket needs until.keys")
	}
	return g, nil
}

func (g *dynamicGroup) Step(ev Event) Outcome {
	var out Outcome
	g.completeByKeys(0, &out)
	switch {
	case ev.Kind == StageDone && g.functions && !g.done:
		g.complete(&out)
	case ev.Kind == ObjectArrived && g.take(ev.Object.Position):
		g.count(ev, &out)
	}
	g.finish(&out)
	return out
}

func (g *dynamicGroup) count(ev Event, out *Outcome) {
	o := ev.Object
	if !g.add(o) {
		out.Rejected = append(out.Rejected, o.Position)
		return
	}
	if g.completeByKeys(o.Position, out) {
		return // o was the control object that completed the stage
	}
	item := Item{Object: o, Time: timeOf(micros(ev.Now))}
	if g.prefix != "" {
		item.Group = "" // the key says it
	}
	out.Keep = append(out.Keep, item)
}

// add takes in an object, unless it is of no use.
func (g *dynamicGroup) add(o Object) bool {
	if g.done {
		return false
	}
	if lane, ok := g.control.lane(o.Key); ok {
		if !g.rounds && g.control.waiting[lane].len() > 0 {
			return false
		}
		g.control.push(lane, o.Position)
		return true
	}
	name := g.groupOf(o)
	in := g.byName[name]
	if in == nil {
		in = &group{name: name}
		g.byName[name] = in
		g.groups = append(g.groups, in)
	}
	in.objects = append(in.objects, entryOf(o))
	g.have++
	return true
}

func (g *dynamicGroup) groupOf(o Object) string {
	if g.prefix == "" {
		return o.Group
	}
	name, _, _ := strings.Cut(string(o.Key), g.prefix)
	return name
}

// completeByKeys completes the stage if all control keys are there, and reports
// whether it was so. The object at fresh was not kept.
func (g *dynamicGroup) completeByKeys(fresh uint64, out *Outcome) bool {
	completed := false
	for g.control.full() && !g.done {
		for _, e := range g.control.take() {
			out.Rejected = append(out.Rejected, e.position)
			if e.position != fresh {
				out.Drop = append(out.Drop, e.position)
			}
		}
		g.complete(out)
		completed = true
	}
	return completed
}

func (g *dynamicGroup) complete(out *Outcome) {
	for _, in := range g.groups {
		f := Firing{Group: in.name, Inputs: make([]Object, len(in.objects))}
		for i, e := range in.objects {
			f.Inputs[i] = e.object()
			if g.prefix == "" {
				f.Inputs[i].Group = in.name
			}
			out.Drop = append(out.Drop, e.position)
		}
		out.Firings = append(out.Firings, f)
	}
	g.groups, g.byName, g.have = nil, map[string]*group{}, 0
	g.done = !g.rounds
	out.Changed = true
}

func (g *dynamicGroup) Header(dst []byte) []byte {
	if g.written == 0 && !g.done {
		return dst
	}
	return appendFlag(g.appendHead(dst), g.done)
}

func (g *dynamicGroup) restore(h *headerReader, items iter.Seq[Item]) error {
	g.restoreFrom(h)
	if !h.empty {
		g.done = h.flag()
	}
	for it := range items {
		if err := g.restoreItem(it); err != nil {
			return err
		}
		if !g.add(it.Object) {
			g.orphans = append(g.orphans, it.Position)
		}
	}
	return g.restored(h)
}

func (g *dynamicGroup) Waiting() Waiting {
	if g.done {
		return Waiting{Done: true}
	}
	return Waiting{
		Have:    g.have,
		Need:    g.control.empty,
		Missing: g.control.missing(),
		Armed:   g.have > 0 || g.control.size > 0,
	}
}

package triggers

import (
	"encoding/binary"
	"iter"
	"sort"
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
//
// The groups of a complete stage fire as many at a time as a step may fire, and
// are dropped as they do. Objects that come meanwhile belong to a later stage. A
// group fires whole; one that is larger than what a step may drop fires, and is
// then dropped over several steps.
type dynamicGroup struct {
	progress
	rounds    bool
	prefix    string // delimiter; "" groups by metadata
	control   lanes
	functions bool // until functions are done

	open     *stage   // the one that is not complete
	complete []*stage // those that have not fired all their groups, in order
	gone     *group   // of the first complete stage: has fired and is not dropped whole
	have     int      // objects in groups
	done     bool     // in a session: its stage is complete
}

// stage is a time between two completions.
type stage struct {
	last   uint64   // position of the last object counted before it was complete
	groups []*group // in order of arrival
	byName map[string]*group
}

type group struct {
	name    string
	objects []entry
}

func newStage() *stage { return &stage{byName: map[string]*group{}} }

func newDynamicGroup(t *spec.Trigger) (*dynamicGroup, error) {
	control, distinct := newLanes(t.Until.Keys)
	g := &dynamicGroup{
		rounds:    t.Scope == spec.ScopeBucket,
		prefix:    t.GroupBy.Prefix,
		control:   control,
		functions: len(t.Until.Functions) > 0,
		open:      newStage(),
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
	left := ev.Limit.budget()
	g.completeByKeys(0, left, &out)
	switch {
	case ev.Kind == StageDone && g.functions && !g.done:
		g.completeStage(&out)
	case ev.Kind == ObjectArrived && g.take(ev.Object.Position):
		g.count(ev, left, &out)
	}
	g.fire(left, &out)
	g.finish(ev.Limit, &out)
	out.Timer = atOnce(len(g.complete) > 0 || len(g.orphans) > 0 || g.control.full() && !g.done, ev.Now)
	return out
}

func (g *dynamicGroup) count(ev Event, left *budget, out *Outcome) {
	o := ev.Object
	if !g.add(o, g.open) {
		out.Rejected = append(out.Rejected, o.Position)
		return
	}
	if g.completeByKeys(o.Position, left, out) {
		return // o was the control object that completed the stage
	}
	item := Item{Object: o, Time: timeOf(micros(ev.Now))}
	if g.prefix != "" {
		item.Group = "" // the key says it
	}
	out.Keep = append(out.Keep, item)
}

// add takes an object into a stage, unless it is of no use.
func (g *dynamicGroup) add(o Object, to *stage) bool {
	if g.done && to == g.open {
		return false
	}
	if lane, ok := g.control.lane(o.Key); ok {
		if !g.rounds && (g.done || g.control.waiting[lane].len() > 0) {
			return false
		}
		g.control.push(lane, o.Position)
		return true
	}
	name := g.groupOf(o)
	in := to.byName[name]
	if in == nil {
		in = &group{name: name}
		to.byName[name] = in
		to.groups = append(to.groups, in)
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
// whether the object at fresh, which was not kept, has done so.
func (g *dynamicGroup) completeByKeys(fresh uint64, left *budget, out *Outcome) bool {
	used := false
	for g.control.full() && !g.done && len(out.Drop) < left.limit.objects() {
		for _, e := range g.control.take() {
			out.Rejected = append(out.Rejected, e.position)
			if e.position == fresh {
				used = true
			} else {
				out.Drop = append(out.Drop, e.position)
			}
		}
		g.completeStage(out)
	}
	return used
}

func (g *dynamicGroup) completeStage(out *Outcome) {
	if len(g.open.groups) > 0 {
		g.open.last = g.last
		g.complete = append(g.complete, g.open)
		g.open = newStage()
	}
	g.done = !g.rounds
	out.Changed = true
}

// fire fires groups of complete stages, as many as the step may.
func (g *dynamicGroup) fire(left *budget, out *Outcome) {
	named := g.gone // by the header
	for len(g.complete) > 0 && !left.limit.Full {
		s := g.complete[0]
		if g.gone == nil && len(s.groups) == 0 {
			g.complete = g.complete[1:]
			out.Changed = true
			continue
		}
		if g.gone == nil {
			in := s.groups[0]
			if !left.take(len(in.objects), len(in.name)+keyBytes(in.objects)) {
				break
			}
			out.Firings = append(out.Firings, g.firing(in))
			s.groups, g.gone = s.groups[1:], in
			g.have -= len(in.objects)
			left.objects += len(in.objects) // letting go of them counts below
		} else if left.objects <= 0 {
			break
		}
		n := min(len(g.gone.objects), left.limit.objects())
		for _, e := range g.gone.objects[:n] {
			out.Drop = append(out.Drop, e.position)
		}
		left.objects -= n
		left.spent = true
		if g.gone.objects = g.gone.objects[n:]; len(g.gone.objects) > 0 {
			break
		}
		g.gone = nil
	}
	out.Changed = out.Changed || g.gone != named
	if len(g.complete) == 0 {
		g.complete = nil
	}
}

func (g *dynamicGroup) firing(in *group) Firing {
	f := Firing{Group: in.name, Inputs: make([]Object, len(in.objects))}
	for i, e := range in.objects {
		f.Inputs[i] = e.object()
		if g.prefix == "" {
			f.Inputs[i].Group = in.name
		}
	}
	return f
}

// Header of a machine that is under way has the last position of each complete
// stage, by which a restore finds the stage of an object, and the group that is
// let go of. The groups that have fired need no mention: they are dropped.
func (g *dynamicGroup) Header(dst []byte) []byte {
	if g.written == 0 && !g.done {
		return dst
	}
	if len(g.complete) == 0 {
		return appendFlag(g.appendHead(dst), g.done)
	}
	dst = appendFlag(g.appendVersion(dst, headerUnderWay), g.done)
	dst = binary.AppendUvarint(dst, uint64(len(g.complete)))
	for _, s := range g.complete {
		dst = binary.AppendUvarint(dst, s.last)
	}
	if dst = appendFlag(dst, g.gone != nil); g.gone != nil {
		dst = binary.AppendUvarint(dst, uint64(len(g.gone.name)))
		dst = append(dst, g.gone.name...)
	}
	return dst
}

func (g *dynamicGroup) restore(h *headerReader, items iter.Seq[Item]) error {
	g.restoreFrom(h)
	if !h.empty {
		g.done = h.flag()
	}
	if h.underWay {
		g.restoreStages(h)
	}
	for it := range items {
		if err := g.restoreItem(it); err != nil {
			return err
		}
		i := sort.Search(len(g.complete), func(i int) bool { return g.complete[i].last >= it.Position })
		to := g.open
		if i < len(g.complete) {
			to = g.complete[i]
		}
		_, control := g.control.lane(it.Key)
		if i == 0 && g.gone != nil && !control && g.groupOf(it.Object) == g.gone.name {
			g.gone.objects = append(g.gone.objects, entryOf(it.Object))
		} else if !g.add(it.Object, to) {
			g.orphans = append(g.orphans, it.Position)
		}
	}
	return g.restored(h)
}

func (g *dynamicGroup) restoreStages(h *headerReader) {
	last := uint64(0)
	for range h.count() {
		s := newStage()
		if s.last = h.uvarint(); s.last <= last {
			h.fail()
			return
		}
		last = s.last
		g.complete = append(g.complete, s)
	}
	if h.flag() {
		g.gone = &group{name: h.text()}
	}
	if len(g.complete) == 0 {
		h.fail()
	}
}

func (g *dynamicGroup) Waiting() Waiting {
	switch {
	case g.done && len(g.complete) == 0:
		return Waiting{Done: true}
	case g.done:
		return Waiting{Have: g.have, Armed: true}
	}
	return Waiting{
		Have:    g.have,
		Need:    g.control.empty,
		Missing: g.control.missing(),
		Armed:   g.have > 0 || g.control.size > 0,
	}
}

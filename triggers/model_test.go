package triggers_test

import (
	"slices"
	"strings"
	"time"

	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/triggers"
)

// expected is what should have come of a whole history of events.
type expected struct {
	firings  []triggers.Firing
	rejected []uint64
	kept     []uint64
	cancels  int
	timer    time.Time
	have     int
}

// arrival is an object with the number of its event.
type arrival struct {
	triggers.Object
	event int
}

func arrivals(history []triggers.Event) (all []arrival) {
	for i, ev := range history {
		if ev.Kind == triggers.ObjectArrived {
			all = append(all, arrival{ev.Object, i})
		}
	}
	return all
}

func ofKey(all []arrival, key spec.Key) (some []arrival) {
	for _, a := range all {
		if a.Key == key {
			some = append(some, a)
		}
	}
	return some
}

// rest fills in kept from what was neither used nor rejected.
func (e *expected) rest(all []arrival, used map[uint64]bool) {
	for _, a := range all {
		if !used[a.Position] && !slices.Contains(e.rejected, a.Position) {
			e.kept = append(e.kept, a.Position)
		}
	}
	e.have = len(e.kept)
}

// models say from the table of primitives what a history comes to, looking at all
// of it each time.
var models = map[spec.Primitive]func(t *spec.Trigger, history []triggers.Event) expected{
	spec.Immediate: func(_ *spec.Trigger, history []triggers.Event) (e expected) {
		for _, a := range arrivals(history) {
			e.firings = append(e.firings, triggers.Firing{Inputs: []triggers.Object{a.Object}})
		}
		return e
	},
	spec.ByName: func(t *spec.Trigger, history []triggers.Event) (e expected) {
		for _, a := range arrivals(history) {
			named := slices.Contains(t.Keys, a.Key)
			if t.Match != "" {
				named = strings.HasPrefix(string(a.Key), strings.TrimSuffix(t.Match, "*"))
			}
			if named {
				e.firings = append(e.firings, triggers.Firing{Inputs: []triggers.Object{a.Object}})
			} else {
				e.rejected = append(e.rejected, a.Position)
			}
		}
		return e
	},
	spec.BySet:        modelSet,
	spec.ByBatchSize:  modelBatch,
	spec.ByTime:       modelTime,
	spec.Redundant:    modelRedundant,
	spec.DynamicJoin:  modelJoin,
	spec.DynamicGroup: modelGroup,
}

func modelSet(t *spec.Trigger, history []triggers.Event) (e expected) {
	all := arrivals(history)
	rounds, complete := len(all), 0
	for _, k := range t.Keys {
		mine := ofKey(all, k)
		rounds = min(rounds, len(mine))
		if len(mine) > 0 {
			complete = max(complete, mine[0].event)
		}
	}
	if t.Scope == spec.ScopeSession {
		rounds = min(rounds, 1)
	}
	used := map[uint64]bool{}
	for r := range rounds {
		var f triggers.Firing
		for _, k := range t.Keys {
			o := ofKey(all, k)[r].Object
			f.Inputs = append(f.Inputs, o)
			used[o.Position] = true
		}
		e.firings = append(e.firings, f)
	}
	for _, a := range all {
		again := ofKey(all, a.Key)[0].Position != a.Position
		late := rounds == 1 && a.event > complete
		if !slices.Contains(t.Keys, a.Key) || t.Scope == spec.ScopeSession && (again || late) {
			e.rejected = append(e.rejected, a.Position)
		}
	}
	e.rest(all, used)
	return e
}

func modelBatch(t *spec.Trigger, history []triggers.Event) (e expected) {
	var batch []arrival
	fire := func() {
		var f triggers.Firing
		for _, a := range batch {
			f.Inputs = append(f.Inputs, a.Object)
		}
		e.firings = append(e.firings, f)
		batch = nil
	}
	due := func() time.Time { return history[batch[0].event].Now.Add(t.MaxWait) }
	for i, ev := range history {
		if len(batch) > 0 && t.MaxWait > 0 && !ev.Now.Before(due()) {
			fire()
		}
		if ev.Kind != triggers.ObjectArrived {
			continue
		}
		if batch = append(batch, arrival{ev.Object, i}); len(batch) == t.Count {
			fire()
		}
	}
	if len(batch) > 0 && t.MaxWait > 0 {
		e.timer = due()
	}
	e.rest(batch, nil)
	return e
}

// floor counts from 1970; time.Truncate counts from the year 1.
func floor(t time.Time, d time.Duration) time.Time {
	return time.Unix(0, t.UnixNano()/int64(d)*int64(d)).UTC()
}

func modelTime(t *spec.Trigger, history []triggers.Event) (e expected) {
	type counted struct {
		triggers.Object
		time time.Time
	}
	var all []counted
	var closed time.Time // zero: no window has closed, none is open
	within := func(end time.Time) (in []triggers.Object) {
		for _, c := range all {
			if !c.time.Before(end.Add(-t.Every)) && c.time.Before(end) {
				in = append(in, c.Object)
			}
		}
		return in
	}
	empties := t.AllowEmpty && t.Scope == spec.ScopeBucket
	for _, ev := range history {
		if closed.IsZero() && empties {
			closed = floor(ev.Now, t.Slide)
		}
		var newestEmpty time.Time
		for end := closed.Add(t.Slide); !closed.IsZero() && !end.After(ev.Now); end = end.Add(t.Slide) {
			if in := within(end); len(in) > 0 {
				e.firings = append(e.firings, triggers.Firing{Inputs: in, Window: end})
				closed = end
			} else {
				newestEmpty = end
			}
		}
		if empties && !newestEmpty.IsZero() {
			e.firings = append(e.firings, triggers.Firing{Window: newestEmpty})
			closed = newestEmpty
		}
		if ev.Kind != triggers.ObjectArrived {
			continue
		}
		at := ev.Now
		if closed.After(at) {
			at = closed
		}
		if start := floor(at, t.Slide); start.After(closed) {
			closed = start
		}
		all = append(all, counted{ev.Object, at})
	}
	for _, c := range all {
		if last := floor(c.time, t.Slide).Add(t.Every); last.After(closed) {
			e.kept = append(e.kept, c.Position)
		}
	}
	if e.have = len(e.kept); e.have > 0 || empties && !closed.IsZero() {
		e.timer = closed.Add(t.Slide)
	}
	return e
}

func modelRedundant(t *spec.Trigger, history []triggers.Event) (e expected) {
	all := arrivals(history)
	used := map[uint64]bool{}
	for i, a := range all {
		in := i
		if t.Scope == spec.ScopeBucket {
			in = i % t.N
		}
		switch {
		case in >= t.K:
			e.rejected = append(e.rejected, a.Position)
		case in == t.K-1:
			var f triggers.Firing
			for _, b := range all[i-t.K+1 : i+1] {
				f.Inputs = append(f.Inputs, b.Object)
				used[b.Position] = true
			}
			e.firings = append(e.firings, f)
			if t.CancelRest {
				e.cancels++
			}
		}
	}
	e.rest(all, used)
	return e
}

func modelJoin(t *spec.Trigger, history []triggers.Event) (e expected) {
	type firing struct {
		complete int
		triggers.Firing
	}
	all := arrivals(history)
	if t.Scope == spec.ScopeSession {
		for _, a := range all {
			if ofKey(all, a.Key)[0].Position != a.Position {
				e.rejected = append(e.rejected, a.Position)
			}
		}
	}
	var firings []firing
	named := map[spec.Key]int{} // by earlier sets
	used := map[uint64]bool{}
	for i, ev := range history {
		if ev.Kind != triggers.SetNamed {
			continue
		}
		f, seen, missing := firing{complete: i}, map[spec.Key]bool{}, false
		for _, k := range ev.Keys {
			if seen[k] {
				continue
			}
			seen[k] = true
			mine, nth := ofKey(all, k), 0
			if t.Scope == spec.ScopeBucket {
				nth = named[k]
				named[k]++
			}
			if nth >= len(mine) {
				missing = true
				continue
			}
			f.Inputs = append(f.Inputs, mine[nth].Object)
			f.complete = max(f.complete, mine[nth].event)
		}
		if missing {
			continue
		}
		firings = append(firings, f)
		for _, o := range f.Inputs {
			used[o.Position] = true
		}
	}
	slices.SortStableFunc(firings, func(a, b firing) int { return a.complete - b.complete })
	for _, f := range firings {
		e.firings = append(e.firings, f.Firing)
	}
	e.rest(all, used)
	if t.Scope == spec.ScopeSession {
		e.kept = nil
		for _, a := range all {
			if !slices.Contains(e.rejected, a.Position) {
				e.kept = append(e.kept, a.Position)
			}
		}
	}
	return e
}

func modelGroup(t *spec.Trigger, history []triggers.Event) (e expected) {
	all := arrivals(history)
	var completions []int // numbers of the events that completed a stage
	rounds := len(all)
	for _, k := range t.Until.Keys {
		rounds = min(rounds, len(ofKey(all, k)))
	}
	for r := range rounds {
		at := 0
		for _, k := range t.Until.Keys {
			at = max(at, ofKey(all, k)[r].event)
		}
		completions = append(completions, at)
	}
	if len(t.Until.Functions) > 0 {
		completions = nil
		for i, ev := range history {
			if ev.Kind == triggers.StageDone {
				completions = append(completions, i)
			}
		}
	}
	if t.Scope == spec.ScopeSession && len(completions) > 0 {
		completions = completions[:1]
	}
	used := map[uint64]bool{}
	from := -1
	for _, to := range completions {
		var order []string
		groups := map[string][]triggers.Object{}
		for _, a := range all {
			if a.event <= from || a.event > to || slices.Contains(t.Until.Keys, a.Key) {
				continue
			}
			name := a.Group
			if t.GroupBy.Prefix != "" {
				name = strings.Split(string(a.Key), t.GroupBy.Prefix)[0]
			}
			if groups[name] == nil {
				order = append(order, name)
			}
			groups[name] = append(groups[name], a.Object)
			used[a.Position] = true
		}
		for _, name := range order {
			e.firings = append(e.firings, triggers.Firing{Group: name, Inputs: groups[name]})
		}
		from = to
	}
	controls := 0
	for _, a := range all {
		nth := slices.IndexFunc(ofKey(all, a.Key), func(b arrival) bool { return b.Position == a.Position })
		control := slices.Contains(t.Until.Keys, a.Key)
		late := t.Scope == spec.ScopeSession && len(completions) > 0 && a.event > completions[0]
		switch {
		case late, control && nth < len(completions), control && t.Scope == spec.ScopeSession && nth > 0:
			e.rejected = append(e.rejected, a.Position)
		case control:
			controls++
		}
	}
	e.rest(all, used)
	e.have -= controls
	return e
}

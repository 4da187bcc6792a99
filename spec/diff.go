package spec

import "strings"

// Change is one difference between two versions of an app.
type Change struct {
	Action string `json:"action"` // add, change, remove
	Path   string `json:"path"`   // functions.split.timeout; a trigger is buckets.parts.triggers.count-part
	From   string `json:"from,omitempty"`
	To     string `json:"to,omitempty"`
}

// Diff tells what changes from old to updated, either of which may be nil: the
// app's own fields first, then functions and buckets by name. What is there on
// one side alone is one change for each function, bucket and trigger. Without a
// change, the apps are the same.
func Diff(old, updated *App) []Change {
	var d differ
	before, after := manifestNode(old), manifestNode(updated)
	if old != nil && updated != nil {
		for _, f := range appObject.fields {
			if f.name != "functions" && f.name != "buckets" {
				d.value(f.name, before.get(f.name), after.get(f.name))
			}
		}
		d.value("artifact", textOrNil(old.Artifact), textOrNil(updated.Artifact))
	}
	d.each("functions", before.get("functions"), after.get("functions"), d.value)
	d.each("buckets", before.get("buckets"), after.get("buckets"), d.bucket)
	return d.changes
}

type differ struct{ changes []Change }

func (d *differ) add(action, path string, from, to *node) {
	d.changes = append(d.changes, Change{Action: action, Path: path, From: from.plain(), To: to.plain()})
}

// each compares the entries of two mappings, in the order of their names.
func (d *differ) each(path string, before, after *node, compare func(path string, before, after *node)) {
	for _, name := range mergedKeys(before, after) {
		compare(join(path, name), before.get(name), after.get(name))
	}
}

// value compares two values field by field. A function that is there on one
// side alone is one change, without what is in it.
func (d *differ) value(path string, before, after *node) {
	switch {
	case before == nil && after == nil:
	case before == nil:
		d.add("add", path, nil, summary(after))
	case after == nil:
		d.add("remove", path, summary(before), nil)
	case before.kind == mapNode && after.kind == mapNode:
		d.each(path, before, after, d.value)
	case before.plain() != after.plain():
		d.add("change", path, before, after)
	}
}

func (d *differ) bucket(path string, before, after *node) {
	switch {
	case before == nil:
		d.add("add", path, nil, nil)
	case after == nil:
		d.add("remove", path, nil, nil)
	default:
		d.value(join(path, "durability"), before.get("durability"), after.get("durability"))
	}
	path = join(path, "triggers")
	olds, oldOrder := triggersByName(before)
	news, newOrder := triggersByName(after)
	d.each(path, olds, news, d.value)
	if o, n := common(oldOrder, news), common(newOrder, olds); o != n {
		d.changes = append(d.changes, Change{Action: "change", Path: path, From: o, To: n})
	}
}

// triggersByName turns the list of triggers into a mapping.
func triggersByName(bucket *node) (byName *node, order []string) {
	byName = mapOf()
	if list := bucket.get("triggers"); list != nil {
		for _, t := range list.items {
			name := t.get("name").text
			byName.set(name, t)
			order = append(order, name)
		}
	}
	return byName, order
}

// common returns those of names that are in other too, in their order.
func common(names []string, other *node) string {
	var both []string
	for _, name := range names {
		if other.has(name) {
			both = append(both, name)
		}
	}
	return strings.Join(both, ", ")
}

// summary leaves out what is in a function or trigger that comes or goes as a whole.
func summary(n *node) *node {
	if n.kind == mapNode {
		return nil
	}
	return n
}

func mergedKeys(a, b *node) []string {
	all := make(map[string]bool)
	for _, n := range []*node{a, b} {
		for _, e := range mapping(n) {
			all[e.key] = true
		}
	}
	return sortedKeys(all)
}

func manifestNode(a *App) *node {
	if a == nil {
		return mapOf()
	}
	return appObject.print(*a)
}

func textOrNil(s string) *node {
	if s == "" {
		return nil
	}
	return textOf(s)
}

package spec

import "strconv"

// condition is a kind of text that is compiled: the when of a trigger.
type condition struct{}

var conditionText = text[string]{what: "a condition", most: MaxConditionBytes}

func (condition) read(r *reader, path string, n *node) (*Condition, bool) {
	if n.kind == boolNode || n.kind == numberNode {
		r.fault(n.at, path, "must be a condition, as text: write %s in quotes", strconv.Quote(clip(n.text)))
		return nil, false
	}
	source, ok := conditionText.read(r, path, n)
	if !ok {
		return nil, false
	}
	if !r.affords(source) {
		r.fault(n.at, path, "an app has at most %d conditions, with %s of text in all", MaxConditions, FormatSize(MaxConditionsBytes))
		return nil, false
	}
	c, faults := compileCondition(source, &r.suggest)
	for _, f := range faults {
		r.fault(r.placeWithin(n, f.offset), path, "%s", f.message)
	}
	return c, len(faults) == 0
}

func (condition) print(c *Condition) *node {
	if c == nil {
		return nil
	}
	return textOf(c.source)
}

func (condition) schema() *node { return conditionText.schema().set("minLength", numberOf(1)) }

// affords reports whether a condition is within the bounds of an app. A text that
// was there before costs nothing.
func (r *reader) affords(source string) bool {
	if !r.conditions[source] {
		r.conditions[source] = true
		r.conditionBytes += len(source)
	}
	return len(r.conditions) <= MaxConditions && r.conditionBytes <= MaxConditionsBytes
}

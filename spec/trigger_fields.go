package spec

import (
	"slices"
	"strings"
	"time"
)

// primitive is what a manifest may say of a primitive.
type primitive struct {
	name    Primitive
	options []string // besides those that every trigger has
	scope   Scope    // the default
	fires   string
}

var primitives = []primitive{
	{Immediate, nil, ScopeSession, "for every object, with that object"},
	{ByName, []string{"keys", "match"}, ScopeSession, "for every object whose key is one of keys, or matches match"},
	{BySet, []string{"keys"}, ScopeSession, "once per scope, when all keys are there, in the order of keys"},
	{ByBatchSize, []string{"count", "max_wait"}, ScopeBucket, "with count objects in the order they came, with fewer after max_wait"},
	{ByTime, []string{"every", "slide", "cron", "timezone", "allow_empty"}, ScopeBucket, "when a window closes, with the objects of the window"},
	{Redundant, []string{"k", "n", "cancel_rest"}, ScopeSession, "with the first k of n objects"},
	{DynamicJoin, nil, ScopeSession, "once all objects of a set that a function names at run time are there"},
	{DynamicGroup, []string{"group_by", "until"}, ScopeSession, "once per group when the stage is complete, with the objects of the group"},
}

// Primitives lists the built-in rules that a trigger may have.
func Primitives() []Primitive {
	words := make([]Primitive, len(primitives))
	for i := range primitives {
		words[i] = primitives[i].name
	}
	return words
}

// commonOptions are the fields of every trigger.
var commonOptions = []string{"name", "primitive", "target", "scope", "on", "when", "rerun"}

// owners returns the primitives that take option.
func owners(option string) []string {
	var names []string
	for _, p := range primitives {
		if slices.Contains(p.options, option) {
			names = append(names, string(p.name))
		}
	}
	return names
}

func primitiveWords() (words []Primitive, names []string, doc string) {
	var lines []string
	for _, p := range primitives {
		words, names = append(words, p.name), append(names, string(p.name))
		lines = append(lines, string(p.name)+" fires "+p.fires)
	}
	return words, names, "The rule: " + strings.Join(lines, "; ") + "; a name with a dot is a custom primitive of the program that runs the node."
}

var triggerObject = func() object[Trigger] {
	words, names, primitiveDoc := primitiveWords()
	wait := duration{least: MinWait, most: MaxWait, zero: true}
	window := duration{least: MinWindow, most: MaxWindow}
	return object[Trigger]{
		what: "a trigger",
		fields: []field[Trigger]{
			required("name", kind[TriggerName](nameKind[TriggerName]("a trigger", ValidTriggerName)),
				func(t *Trigger) *TriggerName { return &t.Name },
				"the trigger's name", "The trigger's name, once in its bucket."),
			required("primitive", kind[Primitive](primitiveKind{choice[Primitive]{words: words}}),
				func(t *Trigger) *Primitive { return &t.Primitive },
				oneOf(names), primitiveDoc),
			required("target", kind[[]FunctionName](list[FunctionName]{
				item: functionName, what: "functions", least: 1, most: MaxTargets, single: true,
			}), func(t *Trigger) *[]FunctionName { return &t.Target },
				"the function to fire, or a list of them", "The function that is fired, or a list of them: each fires once per firing."),
			optional("scope", kind[Scope](choice[Scope]{words: []Scope{ScopeSession, ScopeBucket}}),
				func(t *Trigger) *Scope { return &t.Scope },
				"Whether the trigger counts per session or across the bucket. Default: bucket for by_batch_size and by_time, session for the others."),
			defaulted("on", kind[On](choice[On]{words: []On{OnPut, OnDelete}}), OnPut, func(t *Trigger) *On { return &t.On },
				"What the trigger counts: put, objects that are put; delete, key-value objects that are deleted or whose time to live is over, with the bytes that they had."),
			optional("when", kind[*Condition](condition{}), func(t *Trigger) **Condition { return &t.When },
				"Which objects count: a CEL expression over object.key, size, content_type, meta, bucket, session and value (its JSON). The trigger does not see an object for which it is false."),
			optional("keys", kind[[]Key](keyList(1)), func(t *Trigger) *[]Key { return &t.Keys },
				"by_name, by_set: the keys that count, 1 to 10000, each once."),
			optional("match", kind[string](text[string]{what: "a glob", check: ValidPattern}),
				func(t *Trigger) *string { return &t.Match },
				"by_name, instead of keys: a glob over the whole key. * stands for any characters (also /), ? for one, [a-z] for one of a class, \\ takes the next character as it is."),
			optional("count", kind[int](count{1, MaxBatchCount}), func(t *Trigger) *int { return &t.Count },
				"by_batch_size: the number of objects of a firing."),
			defaulted("max_wait", kind[time.Duration](wait), 0, func(t *Trigger) *time.Duration { return &t.MaxWait },
				"by_batch_size: how long the first object waits before fewer than count are passed on, from 1ms to 720h; 0 waits for ever."),
			optional("every", kind[time.Duration](window), func(t *Trigger) *time.Duration { return &t.Every },
				"by_time: the length of a window, from 10ms to 720h."),
			optional("slide", kind[time.Duration](window), func(t *Trigger) *time.Duration { return &t.Slide },
				"by_time: the distance between the starts of windows; it divides every, at most a thousandfold. Default: every, so that each object is in one window."),
			optional("cron", kind[string](text[string]{what: "five cron fields", check: ValidCron}),
				func(t *Trigger) *string { return &t.Cron },
				"by_time, instead of every: when windows close, as minute, hour, day of month, month and day of week."),
			optional("timezone", kind[string](text[string]{what: "a time zone", most: suggestMaxBytes}),
				func(t *Trigger) *string { return &t.Timezone },
				"by_time with cron: the IANA time zone that cron is read in, such as Europe/Paris. Default: UTC."),
			defaulted("allow_empty", kind[bool](flag{}), false, func(t *Trigger) *bool { return &t.AllowEmpty },
				"by_time: whether a window without objects fires. Only with scope bucket: such a session would never end."),
			optional("k", kind[int](count{1, MaxRedundant}), func(t *Trigger) *int { return &t.K },
				"redundant: how many objects are passed on, at most n."),
			optional("n", kind[int](count{1, MaxRedundant}), func(t *Trigger) *int { return &t.N },
				"redundant: how many objects are expected."),
			defaulted("cancel_rest", kind[bool](flag{}), false, func(t *Trigger) *bool { return &t.CancelRest },
				"redundant: whether the work whose objects come too late is cancelled. Only with scope session."),
			optional("group_by", kind[GroupBy](groupByObject), func(t *Trigger) *GroupBy { return &t.GroupBy },
				"dynamic_group: what tells the group of an object; prefix or meta."),
			optional("until", kind[Until](untilObject), func(t *Trigger) *Until { return &t.Until },
				"dynamic_group: when the stage is complete; keys or functions."),
			optional(optionsField, kind[Options](options{}), func(t *Trigger) *Options { return &t.Options },
				"The options of a custom primitive: names with a text, number, true or false, or a list of these. Durations are texts such as 500ms."),
			optional("rerun", kind[[]Rerun](list[Rerun]{item: rerunObject, what: "rules", least: 1, most: MaxRerunRules}),
				func(t *Trigger) *[]Rerun { return &t.Rerun },
				"Re-execution rules: the functions that the objects come from, and when one that has put none into the bucket is run again."),
		},
		check: checkTrigger,
		skip: func(t *Trigger, name string) bool {
			p := primitiveNamed(t.Primitive)
			return !slices.Contains(commonOptions, name) && (p == nil || !slices.Contains(p.options, name))
		},
		constrain: constrainTrigger,
	}
}()

var rerunObject = object[Rerun]{
	what: "a rule",
	fields: []field[Rerun]{
		required("source", kind[FunctionName](functionName), func(r *Rerun) *FunctionName { return &r.Source },
			"the function that puts the objects", "The function whose invocations are expected to put an object into the bucket."),
		required("timeout", kind[time.Duration](duration{least: MinWait, most: MaxWait}), func(r *Rerun) *time.Duration { return &r.Timeout },
			"how long to wait for its object", "How long after an invocation of source was fired its object is waited for, from 1ms to 720h."),
		defaulted("max", kind[int](count{1, MaxReruns}), DefaultReruns, func(r *Rerun) *int { return &r.Max },
			"How often an invocation is run again. After that the session fails."),
	},
}

var groupByObject = object[GroupBy]{
	what: "group_by",
	fields: []field[GroupBy]{
		optional("prefix", kind[string](text[string]{what: "text", most: MaxGroupPrefixBytes, check: notEmpty}),
			func(g *GroupBy) *string { return &g.Prefix },
			"A delimiter: the group is what stands before it in the key, the whole key if it is not there."),
		optional("meta", kind[string](text[string]{what: "text", most: MaxMetaNameBytes, check: notEmpty}),
			func(g *GroupBy) *string { return &g.Meta },
			"A metadata field: the group is its value."),
	},
	check: func(r *reader, path string, n *node, _ *GroupBy) { exactlyOne(r, path, n, "prefix", "meta") },
}

var untilObject = object[Until]{
	what: "until",
	fields: []field[Until]{
		optional("keys", kind[[]Key](keyList(1)), func(u *Until) *[]Key { return &u.Keys },
			"Control keys: the stage is complete once objects with all of them are there. They belong to no group."),
		optional("functions", kind[[]FunctionName](list[FunctionName]{
			item: functionName, what: "functions", least: 1, most: MaxTargets,
		}), func(u *Until) *[]FunctionName { return &u.Functions },
			"Functions: the stage is complete once all their invocations in the session are done. Only with scope session."),
	},
	check: func(r *reader, path string, n *node, u *Until) {
		exactlyOne(r, path, n, "keys", "functions")
		noneTwice(r, join(path, "keys"), n.get("keys"))
		noneTwice(r, join(path, "functions"), n.get("functions"))
	},
}

func notEmpty(s string) error {
	if s == "" {
		return Errorf(CodeInvalid, "must not be empty")
	}
	return nil
}

// constrainTrigger tells the schema which options belong to which primitive.
func constrainTrigger(schema *node) {
	rules := listOf()
	for _, p := range primitives {
		others := mapOf()
		for _, e := range schema.get("properties").entries {
			if !slices.Contains(commonOptions, e.key) && !slices.Contains(p.options, e.key) {
				others.set(e.key, boolOf(false))
			}
		}
		isThis := mapOf().set("properties", mapOf().set("primitive", mapOf().set("const", textOf(string(p.name)))))
		rules.items = append(rules.items,
			mapOf().set("if", isThis).set("then", mapOf().set("properties", others)))
	}
	others := mapOf()
	for _, e := range schema.get("properties").entries {
		if !slices.Contains(commonOptions, e.key) && e.key != optionsField {
			others.set(e.key, boolOf(false))
		}
	}
	isCustom := mapOf().set("properties", mapOf().set("primitive", mapOf().set("pattern", textOf(customPattern))))
	rules.items = append(rules.items, mapOf().set("if", isCustom).set("then", mapOf().set("properties", others)))
	schema.set("allOf", rules)
}

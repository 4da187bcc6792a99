package spec

import (
	"slices"
	"strings"
)

func checkFunction(r *reader, path string, n *node, f *Function) {
	switch command := n.get("command"); {
	case command == nil:
		if f.Runtime == RuntimeProcess && !refused(n, "runtime", f.Runtime) {
			r.fault(n.at, join(path, "command"), "missing: runtime process needs the command to start, such as [python3, app.py]")
		}
	case f.Runtime == RuntimeInproc:
		r.fault(command.at, join(path, "command"), "runtime inproc has no command: it is a Go function of the program that embeds the node")
	case f.Runtime == RuntimeWasm:
		r.fault(command.at, join(path, "command"), "runtime wasm has no command: name the module in file")
	case len(f.Command) > 0 && f.Command[0] == "":
		r.fault(command.at, index(join(path, "command"), 0), "must be the program to start, not empty")
	}
	checkModule(r, path, n, f)
}

// checkModule looks at what belongs to runtime wasm, or does not.
func checkModule(r *reader, path string, n *node, f *Function) {
	if f.Runtime != RuntimeWasm {
		for _, field := range []string{"file", "memory"} {
			if n.has(field) && !refused(n, "runtime", f.Runtime) {
				r.fault(keyPlace(n, field), join(path, field), "belongs to runtime wasm, not to %s", f.Runtime)
			}
		}
		return
	}
	if !n.has("file") {
		r.fault(n.at, join(path, "file"), "missing: runtime wasm needs the module to run, such as app.wasm")
	}
	if n.has("env") {
		r.fault(keyPlace(n, "env"), join(path, "env"), "runtime wasm has no environment: a module gets what it needs as objects")
	}
	if !n.has("memory") {
		f.Memory = DefaultMemory
	}
}

// refused reports whether the field was set to something that was not taken, so
// that v is the default in its stead and tells nothing.
func refused[S ~string](n *node, field string, v S) bool {
	set := n.get(field)
	return set != nil && set.text != string(v)
}

func checkTriggerNames(r *reader, path string, n *node, _ *Bucket) {
	triggers := n.get("triggers")
	if triggers == nil {
		return
	}
	first := make(map[string]int)
	for i, item := range triggers.items {
		name := item.get("name")
		if name == nil || name.kind != textNode {
			continue
		}
		if j, twice := first[name.text]; twice {
			at := index(join(path, "triggers"), i)
			r.fault(name.at, join(at, "name"), "duplicate: triggers[%d] is named %q already", j, clip(name.text))
			continue
		}
		first[name.text] = i
	}
}

// checkTrigger looks at the options of a trigger together, and fills in the
// defaults that depend on its primitive.
func checkTrigger(r *reader, path string, n *node, t *Trigger) {
	p := primitiveNamed(t.Primitive)
	if p == nil {
		return // told already, and nothing more can be known
	}
	for _, e := range n.entries {
		if known := owners(e.key); len(known) > 0 && !slices.Contains(known, string(p.name)) {
			r.fault(e.keyAt, join(path, e.key), "%s is an option of %s, not of %s", e.key, andAll(known), p.name)
		}
	}
	if n.has(optionsField) && !p.name.Custom() {
		r.fault(keyPlace(n, optionsField), join(path, optionsField), "options is for custom primitives: those of %s stand beside its name", p.name)
	}
	noneTwice(r, join(path, "target"), n.get("target"))
	if !n.has("scope") {
		t.Scope = p.scope
	}
	c := triggerCheck{r: r, path: path, n: n}
	if t.On == OnDelete && n.has("rerun") {
		c.fault("rerun", "does not go with on: delete: no function puts what is deleted")
	}
	switch t.Primitive {
	case ByName:
		exactlyOne(r, path, n, "keys", "match")
		noneTwice(r, join(path, "keys"), n.get("keys"))
	case BySet:
		c.needs("keys", "the keys to wait for")
		noneTwice(r, join(path, "keys"), n.get("keys"))
	case ByBatchSize:
		c.needs("count", "how many objects make a batch")
	case ByTime:
		c.byTime(t)
	case Redundant:
		c.needs("k", "how many objects are passed on")
		c.needs("n", "how many objects are expected")
		if t.K > 0 && t.N > 0 && t.K > t.N {
			c.fault("k", "%d of %d can never be there: k is at most n", t.K, t.N)
		}
		if t.CancelRest && t.Scope == ScopeBucket {
			c.fault("cancel_rest", "needs scope session: with scope bucket it would cancel the work of others")
		}
	case DynamicGroup:
		c.needs("group_by", "{prefix: \":\"} or {meta: field}")
		c.needs("until", "{functions: [name]} or {keys: [key]}")
		if len(t.Until.Functions) > 0 && t.Scope == ScopeBucket {
			c.r.fault(n.get("until").at, join(join(path, "until"), "functions"),
				"needs scope session: across a bucket there is no end of a function's invocations; use until: {keys: [key]}")
		}
	}
	r.runCheck(path, n, t)
}

func keyPlace(n *node, key string) place {
	i := slices.IndexFunc(n.entries, func(e entry) bool { return e.key == key })
	return n.entries[i].keyAt
}

type triggerCheck struct {
	r    *reader
	path string
	n    *node
}

// fault tells a fault of an option that is set.
func (c triggerCheck) fault(option, format string, args ...any) {
	c.r.fault(c.n.get(option).at, join(c.path, option), format, args...)
}

func (c triggerCheck) needs(option, what string) {
	if !c.n.has(option) {
		c.r.fault(c.n.at, join(c.path, option), "missing: %s needs %s, %s", c.n.get("primitive").text, option, what)
	}
}

func (c triggerCheck) byTime(t *Trigger) {
	exactlyOne(c.r, c.path, c.n, "every", "cron")
	if c.n.has("cron") {
		if c.n.has("slide") {
			c.fault("slide", "belongs to every: windows of cron follow each other")
		}
		switch {
		case !c.n.has("timezone"):
			t.Timezone = DefaultTimezone
		case t.Timezone != "" && !c.r.validZone(t.Timezone):
			c.fault("timezone", "unknown time zone %q: use an IANA name such as Europe/Paris or UTC", clip(t.Timezone))
		}
	} else if c.n.has("timezone") {
		c.fault("timezone", "belongs to cron: windows of every have no time of day")
	}
	switch {
	case t.Every == 0:
	case !c.n.has("slide"):
		t.Slide = t.Every
	case t.Slide == 0: // told already
	case t.Slide > t.Every:
		c.fault("slide", "%s is longer than every (%s): objects in between would be in no window",
			FormatDuration(t.Slide), FormatDuration(t.Every))
	case t.Every%t.Slide != 0:
		c.fault("slide", "%s does not divide every (%s) into equal parts", FormatDuration(t.Slide), FormatDuration(t.Every))
	case t.Every/t.Slide > MaxWindowsAtOnce:
		c.fault("slide", "%s puts each object into %d windows, %d are allowed: use at least %s", FormatDuration(t.Slide),
			t.Every/t.Slide, MaxWindowsAtOnce, FormatDuration(t.Every/MaxWindowsAtOnce))
	}
	if t.AllowEmpty && t.Scope == ScopeSession {
		c.fault("allow_empty", "needs scope bucket: a session in which empty windows fire would never end")
	}
}

func exactlyOne(r *reader, path string, n *node, a, b string) {
	switch {
	case n.has(a) && n.has(b):
		r.fault(n.get(b).at, join(path, b), "there is %s already: use one of %s and %s", a, a, b)
	case !n.has(a) && !n.has(b):
		r.fault(n.at, path, "needs %s or %s", a, b)
	}
}

// noneTwice tells items of a list that are there twice.
func noneTwice(r *reader, path string, n *node) {
	if n == nil || n.kind != listNode {
		return
	}
	first := make(map[string]int, len(n.items))
	for i, item := range n.items {
		if item.kind != textNode {
			continue
		}
		if j, twice := first[item.text]; twice {
			r.fault(item.at, index(path, i), "%q is in the list twice, at [%d] too", clip(item.text), j)
			continue
		}
		first[item.text] = i
	}
}

// checkReferences looks for names of functions and buckets that are not there,
// and warns of functions that nothing fires. It goes by the text, not by the
// App: what has a fault of its own is declared all the same.
func checkReferences(r *reader, root *node) {
	if len(mapping(root.get("functions"))) > MaxFunctions || len(mapping(root.get("buckets"))) > MaxBuckets {
		return // told already, and not worth the comparisons
	}
	functions, buckets := declared(root, "functions"), declared(root, "buckets")
	targeted := make(map[string]bool)
	for _, b := range mapping(root.get("buckets")) {
		triggers := b.value.get("triggers")
		if triggers == nil {
			continue
		}
		for i, t := range triggers.items {
			path := index(join(join("buckets", b.key), "triggers"), i)
			for _, name := range checkNames(r, join(path, "target"), t.get("target"), "function", functions) {
				targeted[name] = true
			}
			checkNames(r, join(join(path, "until"), "functions"), t.get("until").get("functions"), "function", functions)
			for j, rule := range listItems(t.get("rerun")) {
				checkNames(r, join(index(join(path, "rerun"), j), "source"), rule.get("source"), "function", functions)
			}
		}
	}
	for _, f := range mapping(root.get("functions")) {
		path := join("functions", f.key)
		dead := f.value.get("dead_letter")
		checkNames(r, join(path, "dead_letter"), dead, "bucket", buckets)
		if dead != nil && dead.kind == textNode && fires(root.get("buckets").get(dead.text), f.key) {
			r.warn(dead.at, join(path, "dead_letter"), "its own failures fire it again: a session that always fails never ends")
		}
		if !targeted[f.key] {
			r.warn(f.keyAt, path, "no trigger targets it: it runs only when it is invoked, sent to or started")
		}
	}
}

func listItems(n *node) []*node {
	if n == nil || n.kind != listNode {
		return nil
	}
	return n.items
}

// checkNames tells the names in n, one or a list, that are not declared, and
// returns all of them.
func checkNames(r *reader, path string, n *node, what string, declared []string) []string {
	if n == nil {
		return nil
	}
	if n.kind == listNode {
		var all []string
		for i, item := range n.items {
			if item.kind == textNode {
				all = append(all, checkNames(r, index(path, i), item, what, declared)...)
			}
		}
		return all
	}
	if n.kind != textNode || !isName(n.text) {
		return nil // told already
	}
	if _, ok := slices.BinarySearch(declared, n.text); !ok {
		hint := r.suggest.didYouMean(n.text, declared)
		if hint == "" {
			hint = ": declare it under " + what + "s"
		}
		r.fault(n.at, path, "unknown %s %q%s", what, n.text, hint)
	}
	return []string{n.text}
}

// fires reports whether a trigger of the bucket that fires for any object
// targets function.
func fires(bucket *node, function string) bool {
	triggers := bucket.get("triggers")
	if triggers == nil {
		return false
	}
	return slices.ContainsFunc(triggers.items, func(t *node) bool {
		p, target := t.get("primitive"), t.get("target")
		return p != nil && p.text == string(Immediate) && target != nil &&
			(target.text == function || slices.ContainsFunc(target.items, func(n *node) bool { return n.text == function }))
	})
}

// declared returns the sorted names in a mapping of the manifest.
func declared(root *node, field string) []string {
	var names []string
	for _, e := range mapping(root.get(field)) {
		names = append(names, e.key)
	}
	slices.Sort(names)
	return names
}

func mapping(n *node) []entry {
	if n == nil {
		return nil
	}
	return n.entries
}

// andAll lists all of them: `a, b and c`.
func andAll(all []string) string {
	if len(all) < 2 {
		return strings.Join(all, "")
	}
	return strings.Join(all[:len(all)-1], ", ") + " and " + all[len(all)-1]
}

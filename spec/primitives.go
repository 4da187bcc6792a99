package spec

import (
	"fmt"
	"slices"
	"strings"
	"sync"
)

// CustomPrimitive is what a program that registers a primitive of its own tells
// of it, besides how it works.
type CustomPrimitive struct {
	// Name has a dot, as in acme.debounce, which no built-in one ever has.
	Name Primitive
	// Scope is the default scope. Empty is session.
	Scope Scope
	// Fires completes "fires …" in the schema of manifests.
	Fires string
}

// MaxPrimitiveBytes bounds the name of a custom primitive.
const MaxPrimitiveBytes = 255

// customs holds the custom primitives of this program.
var customs = struct {
	sync.RWMutex
	byName map[Primitive]primitive
}{byName: map[Primitive]primitive{}}

// RegisterPrimitive makes a custom primitive known to manifests. Package triggers
// calls it for what is registered there. It panics on a name that is taken or is
// none, which is a mistake of the program.
func RegisterPrimitive(c CustomPrimitive) {
	if err := ValidPrimitive(string(c.Name)); err != nil {
		panic("spec: " + err.Error())
	}
	if c.Scope == "" {
		c.Scope = ScopeSession
	}
	if c.Scope != ScopeSession && c.Scope != ScopeBucket {
		panic(fmt.Sprintf("spec: primitive %q has the unknown scope %q", c.Name, c.Scope))
	}
	customs.Lock()
	defer customs.Unlock()
	if _, ok := customs.byName[c.Name]; ok {
		panic(fmt.Sprintf("spec: primitive %q is registered twice", c.Name))
	}
	customs.byName[c.Name] = primitive{name: c.Name, options: []string{optionsField}, scope: c.Scope, fires: c.Fires}
}

// Custom tells whether p is the name of a custom primitive, registered or not.
func (p Primitive) Custom() bool { return strings.Contains(string(p), ".") }

// ValidPrimitive returns an error that says how a custom primitive is named.
func ValidPrimitive(s string) error {
	parts := strings.Split(s, ".")
	if len(parts) > 1 && len(s) <= MaxPrimitiveBytes && !slices.ContainsFunc(parts, func(part string) bool { return !isName(part) }) {
		return nil
	}
	return Errorf(CodeInvalid, "bad primitive %q: the name of a custom primitive is two or more names joined by dots, such as acme.debounce, with at most %d bytes; a name has %s",
		clip(s), MaxPrimitiveBytes, nameRule)
}

// primitiveNamed returns what is known of a primitive, nil if it can't be one. Of
// a custom one that is not registered here nothing is known but that it has options.
func primitiveNamed(name Primitive) *primitive {
	if i := slices.IndexFunc(primitives, func(p primitive) bool { return p.name == name }); i >= 0 {
		return &primitives[i]
	}
	if !name.Custom() {
		return nil
	}
	customs.RLock()
	defer customs.RUnlock()
	if p, ok := customs.byName[name]; ok {
		return &p
	}
	return &primitive{name: name, options: []string{optionsField}, scope: ScopeSession}
}

// registered returns the custom primitives of this program, by name.
func registered() []primitive {
	customs.RLock()
	defer customs.RUnlock()
	var all []primitive
	for _, name := range sortedKeys(customs.byName) {
		all = append(all, customs.byName[name])
	}
	return all
}

// primitiveKind is the name of a primitive: a built-in one, or a custom one, which
// need not be registered here. Whoever runs the trigger has to know it.
type primitiveKind struct{ builtIn choice[Primitive] }

func (k primitiveKind) read(r *reader, path string, n *node) (Primitive, bool) {
	if n.kind != textNode || !Primitive(n.text).Custom() {
		return k.builtIn.read(r, path, n)
	}
	if err := ValidPrimitive(n.text); err != nil {
		r.fault(n.at, path, "%s", err)
		return "", false
	}
	var known []string
	for _, p := range registered() {
		known = append(known, string(p.name))
	}
	if r.check == nil && !slices.Contains(known, n.text) {
		r.warn(n.at, path, "custom primitive %q is not part of this program: it is known only to nodes that have it compiled in, and they check its options%s",
			n.text, r.suggest.didYouMean(n.text, known))
	}
	return Primitive(n.text), true
}

func (k primitiveKind) print(v Primitive) *node { return k.builtIn.print(v) }

func (k primitiveKind) schema() *node {
	some := listOf(k.builtIn.schema())
	for _, p := range registered() {
		some.items = append(some.items, mapOf().set("const", textOf(string(p.name))).set("description", textOf("fires "+p.fires)))
	}
	some.items = append(some.items, mapOf().set("type", textOf("string")).
		set("pattern", textOf(customPattern)).set("maxLength", numberOf(MaxPrimitiveBytes)))
	return mapOf().set("anyOf", some)
}

const customPattern = `^[a-z][a-z0-9_-]{0,62}(\.[a-z][a-z0-9_-]{0,62})+$`

// TriggerCheck tells what is wrong with a trigger that spec alone can't tell of:
// that its primitive is not known, or what its options mean. An *Error names the
// field within the trigger, or lists Faults with paths within it.
type TriggerCheck func(*Trigger) error

// runCheck tells what the caller of Parse has to say to a trigger that has no
// fault of its own.
func (r *reader) runCheck(path string, n *node, t *Trigger) {
	if r.check == nil || r.more > 0 || r.faulty(path) {
		return
	}
	err := r.check(t)
	if err == nil {
		return
	}
	e, ok := err.(*Error)
	if !ok {
		r.fault(n.at, path, "%s", err)
		return
	}
	faults := e.Faults
	if len(faults) == 0 {
		message := e.Message
		if e.Hint != "" {
			message += ": " + e.Hint
		}
		faults = []Fault{{Path: e.Field, Message: message}}
	}
	for _, f := range faults {
		at, within := n.find(f.Path)
		r.fault(at, path+within, "%s", f.Message)
	}
}

// faulty tells whether the last fault is of what stands at path: while a trigger
// is read, its faults are the last ones.
func (r *reader) faulty(path string) bool {
	for i := len(r.faults) - 1; i >= 0; i-- {
		if f := &r.faults[i]; !f.Warning {
			rest, ok := strings.CutPrefix(f.Path, path)
			return ok && (rest == "" || rest[0] == '.' || rest[0] == '[')
		}
	}
	return false
}

// find returns where a field within the mapping n stands, and its path from n on.
// Fields are separated by dots; of what is not there, it is where it is missing.
func (n *node) find(field string) (at place, path string) {
	at = n.at
	for field != "" {
		var name string
		name, field, _ = strings.Cut(field, ".")
		if path = path + "." + name; n.has(name) {
			at = n.get(name).at
		}
		n = n.get(name)
	}
	return at, path
}

package spec

import (
	"reflect"
	"slices"
)

// object is a mapping with known fields.
type object[T any] struct {
	what   string // the fields of what, for faults
	fields []field[T]
	// later names fields that are known and refused, with what to use instead.
	later map[string]string
	// check looks at what no field can tell by itself. It runs even if a field has
	// a fault, and asks n whether a field was set at all.
	check func(r *reader, path string, n *node, v *T)
	// skip leaves fields out of the canonical manifest that mean nothing for v.
	skip func(v *T, name string) bool
	// constrain adds what no field can tell by itself to the schema.
	constrain func(schema *node)
}

// field is one field of an object: its name, what it is for, and how it is read
// from, printed to and described in a manifest.
type field[T any] struct {
	name, doc string
	required  bool
	missing   string // for the fault of a required field: what to write
	read      func(r *reader, path string, n *node, v *T) bool
	fill      func(v *T)
	print     func(v *T) *node
	schema    func() *node
}

// optional makes a field that is zero if it is not there, and then not printed.
func optional[T, V any](name string, k kind[V], at func(*T) *V, doc string) field[T] {
	return field[T]{
		name: name, doc: doc,
		read: func(r *reader, path string, n *node, v *T) bool {
			got, ok := k.read(r, path, n)
			if ok {
				*at(v) = got
			}
			return ok
		},
		fill: func(*T) {},
		print: func(v *T) *node {
			if reflect.ValueOf(at(v)).Elem().IsZero() {
				return nil
			}
			return k.print(*at(v))
		},
		schema: k.schema,
	}
}

// required makes a field that must be there.
func required[T, V any](name string, k kind[V], at func(*T) *V, missing, doc string) field[T] {
	f := optional(name, k, at, doc)
	f.required, f.missing = true, missing
	f.print = func(v *T) *node { return k.print(*at(v)) }
	return f
}

// defaulted makes a field that is dflt if it is not there.
func defaulted[T, V any](name string, k kind[V], dflt V, at func(*T) *V, doc string) field[T] {
	f := optional(name, k, at, doc)
	f.fill = func(v *T) { *at(v) = dflt }
	f.print = func(v *T) *node { return k.print(*at(v)) }
	f.schema = func() *node { return k.schema().set("default", k.print(dflt)) }
	return f
}

// nested makes a field that holds an object; if it is not there, each field of
// the object has its default.
func nested[T, V any](name string, o object[V], at func(*T) *V, doc string) field[T] {
	f := optional(name, kind[V](o), at, doc)
	f.fill = func(v *T) { *at(v) = o.defaults() }
	f.print = func(v *T) *node { return o.print(*at(v)) }
	return f
}

func (o object[T]) defaults() T {
	var v T
	for _, f := range o.fields {
		f.fill(&v)
	}
	return v
}

func (o object[T]) read(r *reader, path string, n *node) (T, bool) {
	v := o.defaults()
	entries, ok := r.entries(path, n, "a mapping with the fields of "+o.what)
	if !ok {
		return v, false
	}
	for _, e := range entries {
		at := join(path, e.key)
		i := slices.IndexFunc(o.fields, func(f field[T]) bool { return f.name == e.key })
		if i < 0 {
			o.unknown(r, at, e)
			ok = false
			continue
		}
		ok = o.fields[i].read(r, at, e.value, &v) && ok
	}
	for _, f := range o.fields {
		if f.required && !n.has(f.name) {
			r.fault(n.at, join(path, f.name), "missing: %s", f.missing)
			ok = false
		}
	}
	if o.check != nil {
		o.check(r, path, n, &v)
	}
	return v, ok
}

func (o object[T]) unknown(r *reader, path string, e entry) {
	if instead, ok := o.later[e.key]; ok {
		r.fault(e.keyAt, path, "%q is not available in this version; %s", e.key, instead)
		return
	}
	names := o.names()
	hint := r.suggest.didYouMean(e.key, names)
	if hint == "" {
		hint = ": the fields of " + o.what + " are " + andAll(names)
	}
	r.fault(e.keyAt, path, "unknown field %q%s", clip(e.key), hint)
}

func (o object[T]) names() []string {
	var names []string
	for _, f := range o.fields {
		names = append(names, f.name)
	}
	return names
}

func (o object[T]) print(v T) *node {
	out := mapOf()
	for _, f := range o.fields {
		if o.skip == nil || !o.skip(&v, f.name) {
			out.set(f.name, f.print(&v))
		}
	}
	return out
}

func (o object[T]) schema() *node {
	properties, needed := mapOf(), []string(nil)
	for _, f := range o.fields {
		// The description comes first: it is what people read.
		s := mapOf().set("description", textOf(f.doc))
		s.entries = append(s.entries, f.schema().entries...)
		properties.set(f.name, s)
		if f.required {
			needed = append(needed, f.name)
		}
	}
	s := mapOf()
	if needed == nil {
		s.set("type", listOf(textOf("object"), textOf("null")))
	} else {
		s.set("type", textOf("object"))
	}
	s.set("properties", properties).set("additionalProperties", boolOf(false))
	if needed != nil {
		s.set("required", textsOf(needed))
	}
	if o.constrain != nil {
		o.constrain(s)
	}
	return s
}

// pointer makes a kind of *T of a kind of T.
type pointer[T any] struct{ kind[T] }

func (k pointer[T]) read(r *reader, path string, n *node) (*T, bool) {
	v, ok := k.kind.read(r, path, n)
	return &v, ok
}

func (k pointer[T]) print(v *T) *node { return k.kind.print(*v) }

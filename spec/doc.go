// Package spec holds what users declare and the words everything else speaks:
// apps, functions, buckets, triggers, limits, identifiers and errors.
//
// A manifest (YAML or JSON) goes in, a validated App comes out, or every fault
// of the manifest at once, each with its place and what would be right. Parse
// takes three steps: the text becomes a tree of nodes that remember their
// places (read_yaml.go, read_json.go); the tree is read by tables that list
// each field with its kind, default and bounds (fields.go, trigger_fields.go);
// what spans fields is checked last (check.go). The conditions of triggers are
// compiled on the way (condition_compile.go), and evaluated by whoever evaluates
// triggers. The same tables print the canonical manifest, compare two apps and
// make the JSON Schema, so a field is added in one place.
//
// Nothing here does I/O beyond the bytes it is given, save that a time zone may
// be read from the system's tables, and nothing here knows how apps are run.
// Whatever is in a manifest, reading it takes bounded time and memory and never
// panics. The identifiers are types of their own, so that a session is never
// taken for a key; the slot of a thing, which decides the shard that owns it,
// is computed here and nowhere else.
//
// Imports nothing of ours. Package spec/wire holds the messages of the HTTP API.
package spec

// Package spec holds what users declare and the words everything else speaks:
// apps, functions, buckets, triggers, limits, identifiers and errors.
//
// A manifest (YAML or JSON) goes in, a validated App comes out, or every fault
// of the manifest at once, each with its place and what would be right. Nothing
// here does I/O beyond the bytes it is given, and nothing here knows how apps
// are run. The identifiers are types of their own, so that a session is never
// taken for a key; the slot of a thing, which decides the shard that owns it,
// is computed here and nowhere else.
//
// Imports nothing of ours. Package spec/wire holds the messages of the HTTP API.
package spec

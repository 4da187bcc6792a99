// Package bytelog keeps large bytes on a disk, each written once.
//
// Records are appended to segments, files of some ten MiB that are never changed. Who
// appends one gets its Place, which is all that is needed to read it, and keeps it
// durably himself once Sync has made the bytes durable. What no place refers to any more
// is garbage: the owner goes over the sealed segments (Each), moves what is left of one
// to the end of the log, and removes it.
//
// A record is a head of 16 bytes, its name and its bytes:
//
//	magic    4 bytes
//	name     4 bytes, its length
//	bytes    4 bytes, their length
//	checksum 4 bytes, CRC-32C of the twelve before and of the name
//
// The bytes have no checksum here: their owner has one of the whole object. The log does
// not know what is in it after a crash: the end of the last segment may be cut short or
// never have reached the disk. Nothing there was ever synced, so nothing refers to it,
// and a new process begins a new segment.
//
// Imports nothing of the project.
package bytelog

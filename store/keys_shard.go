package store

import (
	"encoding/binary"

	"github.com/pheromone-run/pheromone/spec"
)

// appendMetaKey appends the key of a shard's ShardMeta. Only Apply and
// ReadSnapshot write it.
func appendMetaKey(dst []byte, shard spec.ShardID) []byte { return appendTable(dst, shard, tableMeta) }

// appendRestoringKey appends the key that is there while a snapshot is restored.
func appendRestoringKey(dst []byte, shard spec.ShardID) []byte {
	return appendTable(dst, shard, tableRestoring)
}

// AppendCountersKey appends the key of a shard's Counters.
func AppendCountersKey(dst []byte, shard spec.ShardID) []byte {
	return appendTable(dst, shard, tableCounters)
}

// AppendDeployedKey appends the key under which a shard keeps which state of the
// control group it has taken the deployed apps from (AppendCount).
func AppendDeployedKey(dst []byte, shard spec.ShardID) []byte {
	return appendTable(dst, shard, tableDeployed)
}

// AppendTimerKey appends the key of a timer that is due at deadline. Deadline and
// subject determine the key, and the key says everything: its value is empty.
func AppendTimerKey(dst []byte, shard spec.ShardID, deadline Micros, t *Timer) []byte {
	dst = append(appendMicros(AppendTimersPrefix(dst, shard), deadline), byte(t.Kind))
	dst = appendPart(appendPart(dst, t.App), t.Session)
	dst = appendPart(appendPart(appendPart(dst, t.Bucket), t.Trigger), t.Key)
	return appendUint64(dst, t.Number)
}

// AppendTimersPrefix appends the prefix of all timers of a shard, in order of
// their deadlines.
func AppendTimersPrefix(dst []byte, shard spec.ShardID) []byte {
	return appendTable(dst, shard, tableTimer)
}

// AppendTimersUntil appends the upper bound of the timers due at or before t.
func AppendTimersUntil(dst []byte, shard spec.ShardID, t Micros) []byte {
	return appendMicros(AppendTimersPrefix(dst, shard), t+1)
}

// DecodeTimer takes the key of a timer apart.
func DecodeTimer(key []byte) (Micros, Timer, error) {
	_, r := openKey(key, tableTimer)
	deadline := r.micros()
	t := Timer{
		Kind: TimerKind(r.byte()), App: spec.AppName(r.part()), Session: spec.SessionID(r.part()),
		Bucket: spec.BucketName(r.part()), Trigger: spec.TriggerName(r.part()), Key: spec.Key(r.part()),
		Number: r.uint64(),
	}
	return deadline, t, r.done()
}

// AppendOutboxKey appends the key of a message that waits for its receiver.
func AppendOutboxKey(dst []byte, shard spec.ShardID, sequence uint64) []byte {
	return appendUint64(AppendOutboxPrefix(dst, shard), sequence)
}

// AppendOutboxPrefix appends the prefix of a shard's outbox, in sequence.
func AppendOutboxPrefix(dst []byte, shard spec.ShardID) []byte {
	return appendTable(dst, shard, tableOutbox)
}

// DecodeOutboxKey returns the sequence number of a message.
func DecodeOutboxKey(key []byte) (uint64, error) {
	_, r := openKey(key, tableOutbox)
	sequence := r.uint64()
	return sequence, r.done()
}

// AppendInboxKey appends the key of the sequence number (AppendCount) of the last
// message that shard took from sender.
func AppendInboxKey(dst []byte, shard, sender spec.ShardID) []byte {
	return AppendShardPrefix(AppendInboxPrefix(dst, shard), sender)
}

// AppendInboxPrefix appends the prefix of a shard's inbox marks.
func AppendInboxPrefix(dst []byte, shard spec.ShardID) []byte {
	return appendTable(dst, shard, tableInbox)
}

// DecodeInboxKey returns the sender of an inbox mark.
func DecodeInboxKey(key []byte) (spec.ShardID, error) {
	_, r := openKey(key, tableInbox)
	sender := spec.ShardID(r.uint32())
	return sender, r.done()
}

// AppendEventKey appends the key of an entry of the change log.
func AppendEventKey(dst []byte, shard spec.ShardID, revision spec.Revision) []byte {
	return appendUint64(AppendEventsPrefix(dst, shard), uint64(revision))
}

// AppendEventsPrefix appends the prefix of a shard's change log.
func AppendEventsPrefix(dst []byte, shard spec.ShardID) []byte {
	return appendTable(dst, shard, tableEvents)
}

// DecodeEventKey returns the revision of an entry of the change log.
func DecodeEventKey(key []byte) (spec.Revision, error) {
	_, r := openKey(key, tableEvents)
	revision := spec.Revision(r.uint64())
	return revision, r.done()
}

// NodeShard is the shard of keys that belong to the node, not to a raft group.
const NodeShard spec.ShardID = 0

// AppendNodeKey appends a key of the node itself, in a space named by owner, such
// as the control group's log. What follows owner orders as its bytes do.
func AppendNodeKey(dst []byte, owner string, key []byte) []byte {
	return append(appendPart(appendTable(dst, NodeShard, tableNode), owner), key...)
}

// keyInShard says whether key belongs to shard.
func keyInShard(key []byte, shard spec.ShardID) bool {
	return len(key) > 4 && uint64(binary.BigEndian.Uint32(key)) == uint64(shard)
}

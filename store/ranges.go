package store

import "github.com/pheromone-run/pheromone/spec"

// Range is the keys in [Lower, Upper).
type Range struct{ Lower, Upper []byte }

func prefixRange(prefix []byte) Range {
	lower, upper := Bounds(prefix)
	return Range{lower, upper}
}

// appTables are the tables whose keys have the app after the table.
var appTables = [...]table{
	tableIncarnation, tableObjects, tableHeld, tableHeldInput, tableSession, tableSessionIndex, tableChild, tableTriggerState, tableTriggerItem, tableTriggerSet,
	tablePending, tableHistory, tableRequest, tableBlob, tableBlobHere, tableStaged, tableBlobRefs, tableBlobChunk,
}

// AppRanges returns everything that an app has on a shard, for an app that is
// deleted, apart from what stands in the order of time: its timers, which their
// leader drops when they are due and their subject is gone; its events, which go
// as the log is compacted; its messages in the outbox, which their receiver
// acknowledges without an app to count them for.
func AppRanges(shard spec.ShardID, app spec.AppName) []Range {
	ranges := make([]Range, 0, len(appTables))
	for _, t := range appTables {
		ranges = append(ranges, prefixRange(appendApp(nil, shard, t, app)))
	}
	return ranges
}

// DeleteRanges removes all keys of all ranges.
func (b *Batch) DeleteRanges(ranges []Range) {
	for _, r := range ranges {
		b.DeleteRange(r.Lower, r.Upper)
	}
}

package store

import (
	"encoding/binary"
	"fmt"

	"github.com/pheromone-run/pheromone/spec"
)

// AppendHeldInputsPrefix appends the prefix of all objects moved to invocations
// of a session.
func AppendHeldInputsPrefix(dst []byte, shard spec.ShardID, app spec.AppName, session spec.SessionID) []byte {
	return appendSession(dst, shard, tableHeldInput, app, session)
}

// AppendSessionItemsPrefix appends the prefix of all items that the triggers of a
// session keep.
func AppendSessionItemsPrefix(dst []byte, shard spec.ShardID, app spec.AppName, session spec.SessionID) []byte {
	return appendSession(dst, shard, tableTriggerItem, app, session)
}

// AppendInboxMarkKey appends the key that says that shard has taken a message of
// sender. Below the number under AppendInboxKey there are no marks: all of those
// messages have been taken.
func AppendInboxMarkKey(dst []byte, shard, sender spec.ShardID, sequence uint64) []byte {
	return binary.BigEndian.AppendUint64(AppendInboxKey(dst, shard, sender), sequence)
}

// Apps lists the apps that have anything on a shard. It looks at one key of each
// in each table.
func Apps(db *DB, shard spec.ShardID) (map[spec.AppName]bool, error) {
	found := map[spec.AppName]bool{}
	for _, t := range appTables {
		lower, upper := Bounds(appendTable(nil, shard, t))
		for {
			first, err := firstKey(db, lower, upper)
			if err != nil {
				return nil, err
			}
			if first == nil {
				break
			}
			_, r := openKey(first, t)
			app := spec.AppName(r.part())
			if r.fault != "" {
				return nil, fmt.Errorf("store: key %x: %s", first, r.fault)
			}
			found[app] = true
			_, lower = Bounds(appendApp(nil, shard, t, app))
		}
	}
	return found, nil
}

// firstKey returns the first key in [lower, upper), nil if there is none.
func firstKey(db *DB, lower, upper []byte) (first []byte, err error) {
	err = db.Scan(lower, upper, func(k, _ []byte) bool {
		first = append([]byte(nil), k...)
		return false
	})
	return first, err
}

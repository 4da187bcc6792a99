package store_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"testing"

	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/store"
)

func TestApplyTakesEntriesInOrderWithTheirMeta(t *testing.T) {
	db := inMemory(t)
	key := store.AppendCountersKey(nil, 1)
	first, second := db.NewBatch(), db.NewBatch()
	first.Set(key, []byte("first"))
	first.Set(store.AppendEventKey(nil, 1, 1), []byte("event"))
	second.Set(key, []byte("second"))
	second.DeleteRange(store.Bounds(store.AppendEventsPrefix(nil, 1)))
	bodies := [][]byte{first.AppendRepr(nil), second.AppendRepr(nil)}
	before := bytes.Clone(slices.Concat(bodies...))
	meta := store.ShardMeta{Applied: 10, Epoch: 1, Seq: 2}
	if err := db.Apply(1, bodies, meta); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(slices.Concat(bodies...), before) {
		t.Error("the entries' bytes were written to")
	}
	if got, err := db.Get(key); err != nil || string(got) != "second" {
		t.Errorf("got %q, %v", got, err)
	}
	if _, err := db.Get(store.AppendEventKey(nil, 1, 1)); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("error %v, want not found", err)
	}
	if got, err := db.Meta(1); err != nil || got != meta {
		t.Errorf("meta %+v, %v", got, err)
	}
	if got, err := db.Meta(2); err != nil || got != (store.ShardMeta{}) {
		t.Errorf("meta of a new shard %+v, %v", got, err)
	}
}

func TestApplyRefusesWhatIsNotOfTheShard(t *testing.T) {
	set := func(key []byte) []byte {
		var b store.Batch
		b.Set(store.AppendCountersKey(nil, 2), []byte("fine"))
		b.Set(key, []byte("bad"))
		return b.Repr()
	}
	deletion := func(lower, upper []byte) []byte {
		var b store.Batch
		b.DeleteRange(lower, upper)
		return b.Repr()
	}
	lower, upper := store.ShardRange(2)
	miscounted := set(store.AppendOutboxKey(nil, 2, 1))
	binary.LittleEndian.PutUint32(miscounted[8:], 7)
	foreignKind := set(store.AppendOutboxKey(nil, 2, 1))
	foreignKind[12] = 2 // a merge
	for name, body := range map[string][]byte{
		"a key of the shard before":             set(store.AppendCountersKey(nil, 1)),
		"a key of the shard after":              set(store.AppendCountersKey(nil, 3)),
		"a key that is only the shard":          set(lower),
		"an empty key":                          set(nil),
		"a range that begins before":            deletion(store.AppendCountersKey(nil, 1), upper),
		"a range that ends behind":              deletion(lower, append(slices.Clone(upper), 0)),
		"nothing at all":                        nil,
		"a header that is cut short":            {0, 0, 0},
		"a write that is cut short":             set(store.AppendOutboxKey(nil, 2, 1))[:20],
		"a number of writes that is not so":     miscounted,
		"a kind of write that is not ours":      foreignKind,
		"a length beyond the end of the batch":  append(make([]byte, 8), 1, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff, 0x0f),
		"a length beyond all numbers":           append(make([]byte, 8), append([]byte{1, 0, 0, 0, 1}, bytes.Repeat([]byte{0xff}, 12)...)...),
		"a write that ends before its key does": append(make([]byte, 8), 1, 0, 0, 0, 1),
	} {
		t.Run(name, func(t *testing.T) {
			db := inMemory(t)
			if err := db.Apply(2, [][]byte{body}, store.ShardMeta{Applied: 1}); err == nil {
				t.Fatal("it was applied")
			}
			if meta, err := db.Meta(2); err != nil || meta.Applied != 0 {
				t.Errorf("meta %+v, %v", meta, err)
			}
		})
	}
	whole := deletion(lower, upper)
	if err := inMemory(t).Apply(2, [][]byte{whole}, store.ShardMeta{Applied: 1}); err != nil {
		t.Errorf("the whole range of the shard: %v", err)
	}
}

func FuzzBodiesFromAnywhereAreRefusedOrApplied(f *testing.F) {
	var b store.Batch
	b.Set(store.AppendCountersKey(nil, 2), []byte("value"))
	b.Delete(store.AppendOutboxKey(nil, 2, 7))
	b.DeleteRange(store.Bounds(store.AppendEventsPrefix(nil, 2)))
	f.Add(b.AppendRepr(nil))
	f.Add([]byte{})
	db := inMemory(f)
	f.Fuzz(func(t *testing.T, body []byte) {
		checked := store.CheckBody(2, body)
		if err := db.Apply(2, [][]byte{body}, store.ShardMeta{}); (err == nil) != (checked == nil) {
			t.Fatalf("the check says %v, apply says %v", checked, err)
		}
		if err := db.Err(); err != nil {
			t.Fatal(err)
		}
	})
}

func TestScansGoBothWaysAndStopWhenTold(t *testing.T) {
	db := inMemory(t)
	b := db.NewBatch()
	for i := range 10 {
		b.Set(store.AppendEventKey(nil, 1, spec.Revision(i)), []byte{byte(i)})
		b.Set(store.AppendEventKey(nil, 2, spec.Revision(i)), []byte{byte(100 + i)})
	}
	if err := db.Commit(b, false); err != nil {
		t.Fatal(err)
	}
	lower, upper := store.Bounds(store.AppendEventsPrefix(nil, 1))
	collect := func(scan func(lower, upper []byte, fn func(k, v []byte) bool) error, most int) string {
		var out []byte
		if err := scan(lower, upper, func(_, v []byte) bool {
			out = append(out, v...)
			return len(out) < most
		}); err != nil {
			t.Fatal(err)
		}
		return fmt.Sprint(out)
	}
	snapshot := db.Snapshot()
	defer snapshot.Close()
	later := db.NewBatch()
	later.DeleteRange(lower, upper)
	if err := db.Commit(later, false); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ got, want string }{
		{collect(snapshot.Scan, 100), "[0 1 2 3 4 5 6 7 8 9]"},
		{collect(snapshot.ScanReverse, 100), "[9 8 7 6 5 4 3 2 1 0]"},
		{collect(snapshot.Scan, 3), "[0 1 2]"},
		{collect(snapshot.ScanReverse, 3), "[9 8 7]"},
		{collect(db.Scan, 100), "[]"},
	} {
		if c.got != c.want {
			t.Errorf("got %s, want %s", c.got, c.want)
		}
	}
}

func TestAppRangesHoldAllOfAnAppAndNothingElse(t *testing.T) {
	ranges := store.AppRanges(1, "mine")
	id := [16]byte{1}
	keys := func(app spec.AppName) [][]byte {
		return [][]byte{
			store.AppendKVKey(nil, 1, app, "b", "k"), store.AppendSessionObjectKey(nil, 1, app, "b", "s", "k"),
			store.AppendHeldKey(nil, 1, app, "b", "t", 1), store.AppendHeldInputKey(nil, 1, app, "s", 1, 1),
			store.AppendSessionKey(nil, 1, app, "s"), store.AppendSessionIndexKey(nil, 1, app, 1, "s"),
			store.AppendTriggerStateKey(nil, 1, app, "s", "b", "t"), store.AppendTriggerItemKey(nil, 1, app, "s", "b", "t", 1),
			store.AppendPendingKey(nil, 1, app, "s", math.MaxUint64), store.AppendHistoryKey(nil, 1, app, "s", 1),
			store.AppendRequestKey(nil, 1, app, "r"), store.AppendStagedKey(nil, 1, app, id),
			store.AppendBlobRefsKey(nil, 1, app, id), store.AppendBlobChunkKey(nil, 1, app, id, 1),
		}
	}
	for i, key := range keys("mine") {
		if !within(ranges, key) {
			t.Errorf("key %d of the app is in no range", i)
		}
	}
	for _, other := range []spec.AppName{"min", "mine2", "mine\x00", ""} {
		for i, key := range keys(other) {
			if within(ranges, key) {
				t.Errorf("key %d of app %q is in a range", i, other)
			}
		}
	}
}

func within(ranges []store.Range, key []byte) bool {
	return slices.ContainsFunc(ranges, func(r store.Range) bool {
		return bytes.Compare(key, r.Lower) >= 0 && bytes.Compare(key, r.Upper) < 0
	})
}

func TestDropShardLeavesTheOthers(t *testing.T) {
	db := inMemory(t)
	for shard := range spec.ShardID(4) {
		if err := db.Apply(shard, nil, store.ShardMeta{Applied: 1}); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.DropShard(2); err != nil {
		t.Fatal(err)
	}
	for shard, want := range map[spec.ShardID]uint64{0: 1, 1: 1, 2: 0, 3: 1} {
		if meta, err := db.Meta(shard); err != nil || meta.Applied != want {
			t.Errorf("shard %d: meta %+v, %v", shard, meta, err)
		}
	}
}

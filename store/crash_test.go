package store_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/store"
)

// What a power cut leaves has to be a prefix of what was applied, shard by shard
// and all shards together, with everything that was synced.
func TestAfterAPowerCutAPrefixOfTheBatchesIsThere(t *testing.T) {
	for seed := range uint64(12) {
		rng := rand.New(rand.NewPCG(seed, 1))
		fs := vfs.NewCrashableMem()
		db := open(t, "data", store.Options{FS: fs, MemTableBytes: 128 << 10})
		applied, synced := make([]uint64, 4), make([]uint64, 4)
		var order []int // the shard of each batch
		steps := 50 + rng.IntN(400)
		for range steps {
			shard := rng.IntN(len(applied))
			applied[shard]++
			order = append(order, shard)
			applyNumbered(t, db, spec.ShardID(shard+1), applied[shard], rng.IntN(2000))
			if rng.IntN(60) == 0 {
				if err := db.Sync(); err != nil {
					t.Fatal(err)
				}
				copy(synced, applied)
			}
		}
		unsynced := []int{0, 20, 50, 90}[rng.IntN(4)]
		after := fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: unsynced, RNG: rng})
		closeDB(t, db)

		db = open(t, "data", store.Options{FS: after})
		found := make([]uint64, len(applied))
		for i := range applied {
			found[i] = checkNumbered(t, db, spec.ShardID(i+1))
			if found[i] < synced[i] {
				t.Errorf("seed %d: shard %d has %d batches, %d were synced", seed, i+1, found[i], synced[i])
			}
		}
		checkPrefix(t, seed, order, found)
		closeDB(t, db)
	}
}

// applyNumbered applies two entries that say their number in three places.
func applyNumbered(t *testing.T, db *store.DB, shard spec.ShardID, number uint64, size int) {
	t.Helper()
	var a, b store.Batch
	value := binary.BigEndian.AppendUint64(nil, number)
	a.Set(store.AppendCountersKey(nil, shard), value)
	a.Set(store.AppendEventKey(nil, shard, spec.Revision(number)), append(value, make([]byte, size)...))
	b.Set(store.AppendOutboxKey(nil, shard, 1), value)
	if number > 10 {
		b.Delete(store.AppendEventKey(nil, shard, spec.Revision(number-10)))
	}
	if err := db.Apply(shard, [][]byte{a.Repr(), b.Repr()}, store.ShardMeta{Applied: number * 10, Seq: number}); err != nil {
		t.Fatal(err)
	}
}

// checkNumbered checks that all places agree and returns the number.
func checkNumbered(t *testing.T, db *store.DB, shard spec.ShardID) uint64 {
	t.Helper()
	meta, err := db.Meta(shard)
	if err != nil {
		t.Fatal(err)
	}
	number := meta.Seq
	if meta.Applied != number*10 {
		t.Errorf("shard %d: meta %+v", shard, meta)
	}
	want := binary.BigEndian.AppendUint64(nil, number)
	for _, key := range [][]byte{store.AppendCountersKey(nil, shard), store.AppendOutboxKey(nil, shard, 1)} {
		got, err := db.Get(key)
		if number == 0 && errors.Is(err, store.ErrNotFound) {
			continue
		}
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("shard %d: key %x is %x, %v, the meta says %d", shard, key, got, err, number)
		}
	}
	var events uint64
	lower, upper := store.Bounds(store.AppendEventsPrefix(nil, shard))
	if err := db.Scan(lower, upper, func(_, _ []byte) bool { events++; return true }); err != nil {
		t.Fatal(err)
	}
	if events != min(number, 10) {
		t.Errorf("shard %d: %d events after %d batches", shard, events, number)
	}
	return number
}

// checkPrefix checks that the batches found are the first ones of the order in
// which they were applied across shards.
func checkPrefix(t *testing.T, seed uint64, order []int, found []uint64) {
	t.Helper()
	var total uint64
	for _, n := range found {
		total += n
	}
	seen := make([]uint64, len(found))
	for _, shard := range order[:total] {
		seen[shard]++
	}
	for i := range found {
		if seen[i] != found[i] {
			t.Errorf("seed %d: shard %d has %d batches where a prefix of %d would have %d", seed, i+1, found[i], total, seen[i])
		}
	}
}

func TestAStagedBlobSurvivesAPowerCut(t *testing.T) {
	for seed := range uint64(8) {
		rng := rand.New(rand.NewPCG(seed, 2))
		fs := vfs.NewCrashableMem()
		db := open(t, "data", store.Options{FS: fs})
		data := noise(int(seed)*mib/3 + 1)
		blob, err := db.StageBlob(context.Background(), 1, "a", bytes.NewReader(data), 1<<30)
		if err != nil {
			t.Fatal(err)
		}
		var b store.Batch
		store.AdoptBlob(&b, 1, "a", blob)
		if err := db.Apply(1, [][]byte{b.Repr()}, store.ShardMeta{Applied: 1}); err != nil {
			t.Fatal(err)
		}
		unsynced := []int{0, 30, 70, 100}[rng.IntN(4)]
		after := fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: unsynced, RNG: rng})
		closeDB(t, db)

		db = open(t, "data", store.Options{FS: after})
		if got, err := db.ReadBlob(1, "a", blob); err != nil || !bytes.Equal(got, data) {
			t.Errorf("seed %d: %d bytes, %v", seed, len(got), err)
		}
		meta, err := db.Meta(1)
		if err != nil {
			t.Fatal(err)
		}
		staged, err := db.Has(store.AppendStagedKey(nil, 1, "a", blob.ID))
		if err != nil {
			t.Fatal(err)
		}
		if staged != (meta.Applied == 0) {
			t.Errorf("seed %d: meta %+v, and the mark is there: %v", seed, meta, staged)
		}
		closeDB(t, db)
	}
}

func TestAPowerCutDuringARestoreLeavesTheOldTheNewOrAShardThatSaysSo(t *testing.T) {
	source := inMemory(t)
	var b store.Batch
	random := noise(3000 * 1000)
	for i := range uint64(3000) {
		b.Set(store.AppendEventKey(nil, 1, spec.Revision(i)), random[i*1000:(i+1)*1000])
	}
	if err := source.Apply(1, [][]byte{b.Repr()}, store.ShardMeta{Applied: 77}); err != nil {
		t.Fatal(err)
	}
	stream := rangeSnapshot(t, source)
	wantHash, wantMeta := hashOf(t, source)
	seen := map[string]bool{}
	for seed := range uint64(24) {
		rng := rand.New(rand.NewPCG(seed, 3))
		fs := vfs.NewCrashableMem()
		db := open(t, "data", store.Options{FS: fs, MemTableBytes: 128 << 10})
		applyNumbered(t, db, 1, 1, 10)
		if err := db.Sync(); err != nil {
			t.Fatal(err)
		}
		var after *vfs.MemFS
		cut := &atByte{r: bytes.NewReader(stream), at: rng.IntN(len(stream) + 1000), do: func() {
			after = fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: int(seed%4) * 33, RNG: rng})
		}}
		if _, err := db.ReadSnapshot(cut, 1); err != nil {
			t.Fatal(err)
		}
		if after == nil { // after its end
			cut.do()
		}
		closeDB(t, db)

		db = open(t, "data", store.Options{FS: after})
		hash, meta, err := db.HashRange(1)
		switch {
		case errors.Is(err, store.ErrRestoring):
			seen["half"] = true
		case err != nil:
			t.Errorf("seed %d: %v", seed, err)
		case meta == wantMeta && hash == wantHash:
			seen["new"] = true
		case meta.Applied == 10:
			seen["old"] = true
			checkNumbered(t, db, 1)
		default:
			t.Errorf("seed %d: meta %+v, hash %s", seed, meta, hash)
		}
		if _, err := db.ReadSnapshot(bytes.NewReader(stream), 1); err != nil {
			t.Errorf("seed %d: restored again: %v", seed, err)
		}
		closeDB(t, db)
	}
	if !seen["half"] || !seen["old"] {
		t.Errorf("saw only %v: the cuts are in the wrong places", seen)
	}
}

// atByte calls do once when the bytes up to at have been read.
type atByte struct {
	r  *bytes.Reader
	at int
	do func()
}

func (a *atByte) Read(p []byte) (int, error) {
	n, err := a.r.Read(p[:min(len(p), 4096)])
	if a.at -= n; a.at < 0 && a.at+n >= 0 {
		a.do()
	}
	return n, err
}

package store_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/store"
)

// sample fills shard 1 with a bit of everything, and its neighbours with a key.
func sample(t testing.TB, db *store.DB) {
	t.Helper()
	var b store.Batch
	for i := range uint64(500) {
		b.Set(store.AppendEventKey(nil, 1, spec.Revision(i)), text(int(i)))
	}
	b.Set(store.AppendCountersKey(nil, 1), nil)
	blob := stage(t, db, noise(mib+100))
	store.AdoptBlob(&b, 1, "a", blob)
	if err := db.Apply(1, [][]byte{b.Repr()}, store.ShardMeta{Applied: 77, Epoch: 3, Seq: 9}); err != nil {
		t.Fatal(err)
	}
	for _, neighbour := range []spec.ShardID{0, 2} {
		if err := db.Apply(neighbour, nil, store.ShardMeta{Applied: 5}); err != nil {
			t.Fatal(err)
		}
	}
}

func rangeSnapshot(t testing.TB, db *store.DB) []byte {
	t.Helper()
	s := db.Snapshot()
	defer s.Close()
	var out bytes.Buffer
	if err := s.WriteSnapshot(&out, 1); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func hashOf(t testing.TB, db *store.DB) (store.RangeHash, store.ShardMeta) {
	t.Helper()
	hash, meta, err := db.HashRange(1)
	if err != nil {
		t.Fatal(err)
	}
	return hash, meta
}

func TestARestoredShardIsTheSameAsItsSource(t *testing.T) {
	source, target := inMemory(t), inMemory(t)
	sample(t, source)
	var b store.Batch // what was there before must go
	b.Set(store.AppendOutboxKey(nil, 1, 1), []byte("old"))
	b.Set(store.AppendBlobChunkKey(nil, 1, "a", [16]byte{9}, 0), []byte("old"))
	if err := target.Apply(1, [][]byte{b.Repr()}, store.ShardMeta{Applied: 1}); err != nil {
		t.Fatal(err)
	}
	if err := target.Apply(2, nil, store.ShardMeta{Applied: 6}); err != nil {
		t.Fatal(err)
	}
	meta, err := target.ReadSnapshot(bytes.NewReader(rangeSnapshot(t, source)), 1)
	if err != nil {
		t.Fatal(err)
	}
	wantHash, wantMeta := hashOf(t, source)
	if hash, stored := hashOf(t, target); hash != wantHash || stored != wantMeta || meta != wantMeta {
		t.Errorf("hash %s and meta %+v (%+v), want %s and %+v", hash, stored, meta, wantHash, wantMeta)
	}
	if got, want := keysOf(t, target, 1), keysOf(t, source, 1); got != want {
		t.Errorf("%d keys, want %d", got, want)
	}
	if meta, err := target.Meta(2); err != nil || meta.Applied != 6 {
		t.Errorf("the neighbour's meta is %+v, %v", meta, err)
	}
}

func TestASnapshotThatIsDamagedOrCutShortLeavesTheShardHalfRestored(t *testing.T) {
	source := inMemory(t)
	sample(t, source)
	whole := rangeSnapshot(t, source)
	cases := map[string][]byte{
		"empty": {}, "a byte too many": append(bytes.Clone(whole), 0), "not a snapshot": []byte("PK\x03\x04 something else altogether"),
		"another version": append([]byte("PHRANGE\x02"), whole[8:]...),
	}
	for _, at := range []int{4, 8, 9, 40, len(whole) / 3, len(whole) / 2, len(whole) - 9, len(whole) - 1} {
		cases["cut at "+string(rune('0'+at%10))+"/"+strings.Repeat("i", at%7)] = whole[:at]
	}
	for at := 0; at < len(whole); at += len(whole)/40 + 1 {
		flipped := bytes.Clone(whole)
		flipped[at] ^= 0x10
		cases["flipped "+string(rune('a'+at%26))+strings.Repeat("i", at%11)] = flipped
	}
	good := inMemory(t)
	for name, stream := range cases {
		before, err := good.Meta(1)
		if err != nil {
			t.Fatal(err)
		}
		_, err = good.ReadSnapshot(bytes.NewReader(stream), 1)
		if err == nil {
			t.Errorf("%s: it was restored", name)
		}
		// What is refused before anything was deleted leaves the shard as it was.
		if meta, metaErr := good.Meta(1); !errors.Is(metaErr, store.ErrRestoring) && meta != before {
			t.Errorf("%s: meta %+v, %v", name, meta, metaErr)
		}
		if _, err := good.ReadSnapshot(bytes.NewReader(whole), 1); err != nil {
			t.Fatalf("%s: a good snapshot afterwards: %v", name, err)
		}
	}
	if _, err := good.ReadSnapshot(bytes.NewReader(whole[:len(whole)/2]), 1); err == nil {
		t.Fatal("half a snapshot was restored")
	}
	if _, err := good.Meta(1); !errors.Is(err, store.ErrRestoring) {
		t.Errorf("meta of a half restored shard: %v", err)
	}
	if _, _, err := good.HashRange(1); !errors.Is(err, store.ErrRestoring) {
		t.Errorf("hash of a half restored shard: %v", err)
	}
	s := good.Snapshot()
	defer s.Close()
	if err := s.WriteSnapshot(&bytes.Buffer{}, 1); !errors.Is(err, store.ErrRestoring) {
		t.Errorf("snapshot of a half restored shard: %v", err)
	}
}

func TestASnapshotOfAnotherShardIsRefused(t *testing.T) {
	db := inMemory(t)
	sample(t, db)
	if _, err := db.ReadSnapshot(bytes.NewReader(rangeSnapshot(t, db)), 2); err == nil || !strings.Contains(err.Error(), "is of shard 1") {
		t.Errorf("error %v", err)
	}
	if meta, err := db.Meta(2); err != nil || meta.Applied != 5 {
		t.Errorf("meta %+v, %v", meta, err)
	}
}

func TestAWriterThatFailsFailsTheSnapshot(t *testing.T) {
	db := inMemory(t)
	sample(t, db)
	size := len(rangeSnapshot(t, db))
	for at := 0; at < size; at += size/20 + 1 {
		s := db.Snapshot()
		if err := s.WriteSnapshot(&failingWriter{left: at}, 1); !errors.Is(err, errLineCut) {
			t.Errorf("after %d bytes: error %v", at, err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

var errLineCut = errors.New("line cut")

type failingWriter struct{ left int }

func (w *failingWriter) Write(p []byte) (int, error) {
	if len(p) > w.left {
		return 0, errLineCut
	}
	w.left -= len(p)
	return len(p), nil
}

func TestBlobsStagedHereSurviveARestore(t *testing.T) {
	source, target := inMemory(t), inMemory(t)
	// The same blob on both: pushed to the target before its entry was applied there.
	blob := stage(t, source, text(mib+1))
	copyBlob(t, source, target, blob)
	waiting := stage(t, target, text(mib+2))
	stillStaged := stage(t, source, text(mib+3))
	var b store.Batch
	store.AdoptBlob(&b, 1, "a", blob)
	if err := source.Apply(1, [][]byte{b.Repr()}, store.ShardMeta{Applied: 1}); err != nil {
		t.Fatal(err)
	}
	if _, err := target.ReadSnapshot(bytes.NewReader(rangeSnapshot(t, source)), 1); err != nil {
		t.Fatal(err)
	}
	for name, blob := range map[string]store.Blob{"adopted": blob, "staged here": waiting, "staged there": stillStaged} {
		if _, err := target.ReadBlob(1, "a", blob); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	source.ReleaseBlob(stillStaged)
	target.ReleaseBlob(waiting)
	if hash, _ := hashOf(t, target); hash != first(hashOf(t, source)) {
		t.Error("staged blobs make the hashes differ")
	}
	if err := target.SweepStaged(1); err != nil {
		t.Fatal(err)
	}
	if _, err := target.ReadBlob(1, "a", blob); err != nil {
		t.Errorf("adopted, after the sweep: %v", err)
	}
	if _, err := target.ReadBlob(1, "a", waiting); err == nil {
		t.Error("staged here, after the sweep: still there")
	}
}

func first[A, B any](a A, _ B) A { return a }

func copyBlob(t *testing.T, from, to *store.DB, blob store.Blob) {
	t.Helper()
	b := to.NewBatch()
	b.Set(store.AppendStagedKey(nil, 1, "a", blob.ID), nil)
	for chunk := range blob.Chunks {
		key := store.AppendBlobChunkKey(nil, 1, "a", blob.ID, chunk)
		value, err := from.StoredChunk(1, "a", blob, chunk)
		if err != nil {
			t.Fatal(err)
		}
		b.Set(key, value)
	}
	if err := to.Commit(b, true); err != nil {
		t.Fatal(err)
	}
}

func TestTheHashTellsEveryDifferenceButTheMeta(t *testing.T) {
	db := inMemory(t)
	sample(t, db)
	before, _ := hashOf(t, db)
	if err := db.Apply(1, nil, store.ShardMeta{Applied: 78}); err != nil {
		t.Fatal(err)
	}
	if hash, meta := hashOf(t, db); hash != before || meta.Applied != 78 {
		t.Errorf("the meta is in the hash, or not beside it: %+v", meta)
	}
	var b store.Batch
	b.Set(store.AppendEventKey(nil, 1, 3), []byte("other"))
	if err := db.Apply(1, [][]byte{b.Repr()}, store.ShardMeta{Applied: 79}); err != nil {
		t.Fatal(err)
	}
	if hash, _ := hashOf(t, db); hash == before {
		t.Error("a changed value has the same hash")
	}
}

func FuzzSnapshotsFromAnywhereGiveAnErrorOrARestoredShard(f *testing.F) {
	db := inMemory(f)
	if err := db.Apply(1, nil, store.ShardMeta{Applied: 3}); err != nil {
		f.Fatal(err)
	}
	f.Add(rangeSnapshot(f, db))
	f.Add([]byte("PHRANGE\x01"))
	f.Fuzz(func(t *testing.T, stream []byte) {
		if meta, err := db.ReadSnapshot(bytes.NewReader(stream), 1); err == nil {
			if stored, err := db.Meta(1); err != nil || stored != meta {
				t.Fatalf("meta %+v, %v, want %+v", stored, err, meta)
			}
		}
		if err := db.Err(); err != nil {
			t.Fatal(err)
		}
	})
}

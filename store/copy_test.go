package store_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"testing"
	"testing/iotest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/store"
)

func export(t testing.TB, db *store.DB, blob store.Blob) []byte {
	t.Helper()
	r, err := db.ExportBlob(1, "a", blob)
	if err != nil {
		t.Fatal(err)
	}
	out, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func mustCopy(t testing.TB, from, to *store.DB, blob store.Blob) {
	t.Helper()
	if err := to.StageCopy(context.Background(), 1, "a", blob, "other", bytes.NewReader(export(t, from, blob))); err != nil {
		t.Fatal(err)
	}
}

// adopt applies an entry that refers to blobs on each of the stores.
func adopt(t testing.TB, applied uint64, blobs []store.Blob, dbs ...*store.DB) {
	t.Helper()
	var b store.Batch
	for _, blob := range blobs {
		store.AdoptBlob(&b, 1, "a", blob)
	}
	apply(t, &b, applied, dbs...)
}

func apply(t testing.TB, b *store.Batch, applied uint64, dbs ...*store.DB) {
	t.Helper()
	for _, db := range dbs {
		if err := db.Apply(1, [][]byte{b.Repr()}, store.ShardMeta{Applied: applied}); err != nil {
			t.Fatal(err)
		}
	}
}

func lacking(t testing.TB, db *store.DB) (names [][16]byte) {
	t.Helper()
	err := db.EachLacking(context.Background(), 1, func(l store.LackingBlob) bool {
		names = append(names, l.Blob.ID)
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func staged(t testing.TB, db *store.DB, blob store.Blob) bool {
	t.Helper()
	there, err := db.Has(store.AppendStagedKey(nil, 1, "a", blob.ID))
	if err != nil {
		t.Fatal(err)
	}
	return there
}

func TestACopiedBlobIsTheSame(t *testing.T) {
	for name, data := range map[string][]byte{
		"empty": nil, "a byte": {1}, "text": text(300 << 10), "noise": noise(3*mib + 7), "exactly two chunks": text(2 * mib), "text, then noise": append(text(mib), noise(mib)...),
	} {
		t.Run(name, func(t *testing.T) {
			from, to := inMemory(t), inMemory(t)
			blob := stage(t, from, data)
			r, err := from.ExportBlob(1, "a", blob)
			if err != nil {
				t.Fatal(err)
			}
			if err := to.StageCopy(context.Background(), 1, "a", blob, "other", iotest.HalfReader(r)); err != nil {
				t.Fatal(err)
			}
			if got, err := to.ReadBlob(1, "a", blob); err != nil || !bytes.Equal(got, data) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
			if marks, err := to.Staged(1); err != nil || len(marks) != 1 || marks[0].Node != "other" || marks[0].ID != blob.ID || marks[0].Time == 0 {
				t.Errorf("marks %+v, %v", marks, err)
			}
			mustCopy(t, from, to, blob) // again
			adopt(t, 1, []store.Blob{blob}, from, to)
			if first(hashOf(t, from)) != first(hashOf(t, to)) {
				t.Error("the hashes differ")
			}
			if a, b := blobsOf(t, from), blobsOf(t, to); a != b || a.lacking != 0 {
				t.Errorf("the bytes differ: %+v and %+v", a, b)
			}
		})
	}
}

type blobHash struct {
	hash    store.RangeHash
	lacking int
}

func blobsOf(t testing.TB, db *store.DB) blobHash {
	t.Helper()
	hash, n, err := db.HashBlobs(1)
	if err != nil {
		t.Fatal(err)
	}
	return blobHash{hash, n}
}

func TestNothingStaysOfAStreamThatIsNotTheBlob(t *testing.T) {
	from := inMemory(t)
	blob := stage(t, from, append(text(2*mib), noise(99)...))
	whole := export(t, from, blob)
	lie := func(change func(*store.Blob)) store.Blob {
		b := blob
		change(&b)
		return b
	}
	flip := func(at int) []byte {
		out := bytes.Clone(whole)
		out[at] ^= 4
		return out
	}
	huge := binary.BigEndian.AppendUint32([]byte("PHBLOB\x01"), 1<<31)
	for _, c := range []struct {
		name   string
		blob   store.Blob
		stream []byte
	}{
		{"empty", blob, nil},
		{"something else", blob, []byte("GET / HTTP/1.1\r\n\r\n")},
		{"another version", blob, append([]byte("PHBLOB\x02"), whole[7:]...)},
		{"cut in its head", blob, whole[:9]},
		{"cut behind a head", blob, whole[:11]},
		{"cut in a chunk", blob, whole[:len(whole)/2]},
		{"without its last byte", blob, whole[:len(whole)-1]},
		{"with a byte more", blob, append(bytes.Clone(whole), 0)},
		{"a bit flipped at the end", blob, flip(len(whole) - 1)},
		{"a bit flipped in the middle", blob, flip(len(whole) / 2)},
		{"a bit flipped in a length", blob, flip(8)},
		{"a chunk of two gigabytes", blob, huge},
		{"a chunk of no bytes", blob, append([]byte("PHBLOB\x01"), 0, 0, 0, 0)},
		{"another checksum", lie(func(b *store.Blob) { b.CRC++ }), whole},
		{"another digest", lie(func(b *store.Blob) { b.Sum[3]++ }), whole},
		{"another codec", lie(func(b *store.Blob) { b.Codec = store.CodecNone }), whole},
		{"a codec that is none", lie(func(b *store.Blob) { b.Codec = 77 }), whole},
		{"a size that is less", lie(func(b *store.Blob) { b.Size-- }), whole},
		{"a size that does not fit its chunks", lie(func(b *store.Blob) { b.Chunks = 1 << 31 }), whole},
		{"a negative size", lie(func(b *store.Blob) { b.Size, b.Chunks = -1, 0 }), whole},
		{"a size beyond all limits", lie(func(b *store.Blob) { b.Size, b.Chunks = 1<<50, 1<<30 }), whole},
	} {
		t.Run(c.name, func(t *testing.T) {
			to := inMemory(t)
			if err := to.StageCopy(context.Background(), 1, "a", c.blob, "other", bytes.NewReader(c.stream)); err == nil {
				t.Error("it was taken")
			}
			if n := keysOf(t, to, 1); n != 0 {
				t.Errorf("%d keys are left", n)
			}
			mustCopy(t, from, to, blob)
		})
	}
	gone := errors.New("the caller has gone")
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(gone)
	to := inMemory(t)
	if err := to.StageCopy(ctx, 1, "a", blob, "other", bytes.NewReader(whole)); !errors.Is(err, gone) {
		t.Errorf("a call that was given up: %v", err)
	}
	if err := to.StageCopy(context.Background(), 1, "a", blob, "other", io.MultiReader(bytes.NewReader(whole[:100]), iotest.ErrReader(gone))); !errors.Is(err, gone) {
		t.Errorf("a source that fails: %v", err)
	}
	if n := keysOf(t, to, 1); n != 0 {
		t.Errorf("%d keys are left", n)
	}
}

func FuzzStreamsOfChunksFromAnywhereAreTheBlobOrRefused(f *testing.F) {
	from := inMemory(f)
	blob := stage(f, from, text(2000))
	whole := export(f, from, blob)
	f.Add(whole, int64(2000), uint32(1), byte(store.CodecS2))
	f.Add(whole[:20], int64(2000), uint32(1), byte(store.CodecNone))
	f.Add([]byte("PHBLOB\x01\xff\xff\xff\xff"), int64(1<<40), uint32(1<<20), byte(9))
	to := inMemory(f)
	f.Fuzz(func(t *testing.T, stream []byte, size int64, chunks uint32, codec byte) {
		b := blob
		b.Size, b.Chunks, b.Codec = size, chunks, store.Codec(codec)
		if err := to.StageCopy(context.Background(), 1, "a", b, "other", bytes.NewReader(stream)); err == nil {
			if got, err := to.ReadBlob(1, "a", b); err != nil || int64(len(got)) != size {
				t.Fatalf("it was taken, and reads as %d bytes, %v", len(got), err)
			}
			if err := to.DiscardBlob(1, "a", b); err != nil {
				t.Fatal(err)
			}
		}
		if n := keysOf(t, to, 1); n != 0 || to.Err() != nil {
			t.Fatalf("%d keys are left, %v", n, to.Err())
		}
	})
}

// during calls do when some bytes of a stream have been read.
func during(stream []byte, do func()) io.Reader {
	return &atByte{r: bytes.NewReader(stream), at: len(stream) / 2, do: do}
}

func TestEntriesMayOvertakeTheBytesOfACopy(t *testing.T) {
	from := inMemory(t)
	blob := stage(t, from, noise(3*mib))
	stream := export(t, from, blob)
	var deletion store.Batch
	store.DeleteBlob(&deletion, 1, "a", blob)

	to := inMemory(t)
	if err := to.StageCopy(context.Background(), 1, "a", blob, "other", during(stream, func() { adopt(t, 1, []store.Blob{blob}, to) })); err != nil {
		t.Fatal(err)
	}
	if staged(t, to, blob) || len(lacking(t, to)) != 0 {
		t.Error("adopted while it came in: it is marked, or lacking")
	}
	if _, err := to.ReadBlob(1, "a", blob); err != nil {
		t.Errorf("adopted while it came in: %v", err)
	}

	to = inMemory(t)
	adopt(t, 1, []store.Blob{blob}, to)
	mustCopy(t, from, to, blob)
	if staged(t, to, blob) || len(lacking(t, to)) != 0 {
		t.Error("adopted before it came in: it is marked, or lacking")
	}

	to = inMemory(t)
	err := to.StageCopy(context.Background(), 1, "a", blob, "other", during(stream, func() {
		adopt(t, 1, []store.Blob{blob}, to)
		apply(t, &deletion, 2, to)
	}))
	if err == nil {
		t.Error("adopted and deleted while it came in: it is there")
	}
	if n := keysOf(t, to, 1); n != 1 { // the meta
		t.Errorf("adopted and deleted while it came in: %d keys are left", n)
	}

	to = inMemory(t)
	adopt(t, 1, []store.Blob{blob}, to)
	if err := to.RestoreBlob(context.Background(), 1, "a", blob, during(stream, func() { apply(t, &deletion, 2, to) })); err == nil {
		t.Error("deleted while it was repaired: it is there")
	}
	if n := keysOf(t, to, 1); n != 1 {
		t.Errorf("deleted while it was repaired: %d keys are left", n)
	}
	if err := to.RestoreBlob(context.Background(), 1, "a", blob, bytes.NewReader(stream)); err != nil {
		t.Errorf("repaired when it was deleted: %v", err)
	}
	if n := keysOf(t, to, 1); n != 1 {
		t.Errorf("repaired when it was deleted: %d keys are left", n)
	}
}

func TestABlobThatIsAtWorkIsNotTakenTwiceAtOnce(t *testing.T) {
	from, to := inMemory(t), inMemory(t)
	blob := stage(t, from, noise(2*mib))
	stream := export(t, from, blob)
	err := to.StageCopy(context.Background(), 1, "a", blob, "other", during(stream, func() {
		if err := to.StageCopy(context.Background(), 1, "a", blob, "other", bytes.NewReader(stream)); spec.CodeOf(err) != spec.CodeUnavailable {
			t.Errorf("a second copy at the same time: %v", err)
		}
		if err := to.SweepLoose(1); err != nil {
			t.Error(err)
		}
	}))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := to.ReadBlob(1, "a", blob); err != nil {
		t.Error(err)
	}
	to = inMemory(t)
	err = to.StageCopy(context.Background(), 1, "a", blob, "other", during(stream, func() {
		if err := to.DropStaged(1, []store.StagedBlob{{BlobName: store.BlobName{App: "a", ID: blob.ID}}}); err != nil {
			t.Error(err)
		}
	}))
	if n := keysOf(t, to, 1); n != 0 || err != nil {
		t.Errorf("not wanted any more when it was there: %d keys, %v", n, err)
	}
	to = inMemory(t)
	err = to.StageCopy(context.Background(), 1, "a", blob, "other", bytes.NewReader(stream))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := to.ReadBlob(1, "a", blob); err != nil {
		t.Error(err)
	}
}

func TestACopySurvivesAPowerCutOnceItIsTaken(t *testing.T) {
	from := inMemory(t)
	data := noise(2*mib + 5)
	blob, second := stage(t, from, data), stage(t, from, data)
	stream := export(t, from, second)
	for seed := range uint64(8) {
		rng := rand.New(rand.NewPCG(seed, 5))
		fs := vfs.NewCrashableMem()
		db := open(t, "data", store.Options{FS: fs})
		mustCopy(t, from, db, blob)
		var after *vfs.MemFS
		if err := db.StageCopy(context.Background(), 1, "a", second, "other", &atByte{r: bytes.NewReader(stream), at: rng.IntN(len(stream)), do: func() {
			after = fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: int(seed%4) * 33, RNG: rng})
		}}); err != nil {
			t.Fatal(err)
		}
		closeDB(t, db)

		db = open(t, "data", store.Options{FS: after})
		if got, err := db.ReadBlob(1, "a", blob); err != nil || !bytes.Equal(got, data) || !staged(t, db, blob) {
			t.Errorf("seed %d: %d bytes, %v", seed, len(got), err)
		}
		if staged(t, db, second) {
			t.Errorf("seed %d: half a copy is marked as staged", seed)
		}
		if _, err := db.ExportBlob(1, "a", second); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("seed %d: half a copy is given to others: %v", seed, err)
		}
		if seed%2 == 0 { // its entry was applied elsewhere, and comes
			adopt(t, 1, []store.Blob{second}, db)
			if names := lacking(t, db); len(names) != 1 || names[0] != second.ID {
				t.Errorf("seed %d: %x are lacking", seed, names)
			}
		}
		if err := db.SweepLoose(1); err != nil {
			t.Fatal(err)
		}
		switch n := keysOf(t, db, 1); {
		case seed%2 == 0: // it is lacking, and what is there of it is written over
			if err := db.RestoreBlob(context.Background(), 1, "a", second, bytes.NewReader(stream)); err != nil {
				t.Error(err)
			}
			if got, err := db.ReadBlob(1, "a", second); err != nil || !bytes.Equal(got, data) {
				t.Errorf("seed %d: %d bytes, %v", seed, len(got), err)
			}
		case n != 2: // where the chunks are, the mark
			t.Errorf("seed %d: %d keys are left", seed, n)
		}
		closeDB(t, db)
	}
}

func TestANewLeaderSweepsOnlyWhatItsOwnNodeHasStaged(t *testing.T) {
	from, db := inMemory(t), inMemory(t)
	own, live, theirs, adopted, old := stage(t, db, text(mib)), stage(t, db, text(mib)), stage(t, from, text(mib)), stage(t, db, text(mib)), stage(t, db, text(mib))
	mustCopy(t, from, db, theirs)
	for _, blob := range []store.Blob{own, adopted, old} {
		db.ReleaseBlob(blob)
	}
	b := db.NewBatch()
	b.Set(store.AppendStagedKey(nil, 1, "a", old.ID), nil) // as earlier versions wrote it
	if err := db.Commit(b, false); err != nil {
		t.Fatal(err)
	}
	adopt(t, 1, []store.Blob{adopted}, db)
	remark(t, db, adopted) // as if its bytes had come late
	if err := db.SweepStaged(1); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name          string
		blob          store.Blob
		there, marked bool
	}{{"its own", own, false, false}, {"of an earlier version", old, false, false}, {"at work", live, true, true}, {"of another node", theirs, true, true}, {"adopted", adopted, true, false}} {
		if _, err := db.ReadBlob(1, "a", c.blob); (err == nil) != c.there || staged(t, db, c.blob) != c.marked {
			t.Errorf("%s: %v, marked %v", c.name, err, staged(t, db, c.blob))
		}
	}
}

// remark gives a blob a mark as a copy has it that came after its entry.
func remark(t testing.TB, db *store.DB, blob store.Blob) {
	t.Helper()
	any := stage(t, db, nil)
	value, err := db.Get(store.AppendStagedKey(nil, 1, "a", any.ID))
	if err != nil {
		t.Fatal(err)
	}
	b := db.NewBatch()
	b.Set(store.AppendStagedKey(nil, 1, "a", blob.ID), value)
	if err := errors.Join(db.Commit(b, false), db.DiscardBlob(1, "a", any)); err != nil {
		t.Fatal(err)
	}
}

func TestMarksAreDroppedByAgeAndTellWhoStaged(t *testing.T) {
	now := time.Unix(1000, 0)
	from, to := inMemory(t), open(t, "data", store.Options{FS: vfs.NewMem(), Now: func() time.Time { return now }})
	defer closeDB(t, to)
	old, young, adopted := stage(t, from, text(10)), stage(t, from, text(11)), stage(t, from, text(12))
	mustCopy(t, from, to, old)
	mustCopy(t, from, to, adopted)
	now = now.Add(time.Minute)
	mustCopy(t, from, to, young)
	aged, err := to.StagedBefore(1, now)
	if err != nil || len(aged) != 2 {
		t.Fatalf("%+v are old, %v", aged, err)
	}
	// One of them is adopted before it is dropped: then its bytes are referred to.
	adopt(t, 1, []store.Blob{adopted}, to)
	remark(t, to, adopted)
	if err := to.DropStaged(1, aged); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		blob  store.Blob
		there bool
	}{"old": {old, false}, "young": {young, true}, "adopted": {adopted, true}} {
		if _, err := to.ReadBlob(1, "a", c.blob); (err == nil) != c.there {
			t.Errorf("%s: %v", name, err)
		}
	}
	if here, err := to.StagedHere(1, []store.BlobName{{App: "a", ID: old.ID}, {App: "a", ID: young.ID}, {App: "a", ID: adopted.ID}}); err != nil || len(here) != 1 || here[0].ID != young.ID {
		t.Errorf("undecided here: %+v, %v", here, err)
	}
}

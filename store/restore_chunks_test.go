package store_test

import (
	"bytes"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/cespare/xxhash/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/klauspost/compress/zstd"

	"github.com/pheromone-run/pheromone/store"
	"github.com/pheromone-run/pheromone/store/bytelog"
)

// half stores the first of two blobs as versions before the log of bytes did.
func half(t testing.TB, db *store.DB, data []byte) []store.Blob {
	t.Helper()
	blobs := []store.Blob{stage(t, db, data), stage(t, db, data)}
	if err := db.StoreAsBefore(1, "a", blobs[0]); err != nil {
		t.Fatal(err)
	}
	return blobs
}

func TestBlobsOfEarlierVersionsAreReadAndCopied(t *testing.T) {
	fs := vfs.NewMem()
	db := open(t, "data", eager(fs))
	data := append(text(2*mib), noise(mib+9)...)
	blobs := half(t, db, data)
	logged := db.LogBytes()
	adopt(t, 1, blobs, db)
	sweepLog(t, db)
	if n := db.LogBytes(); n > logged*3/4 {
		t.Errorf("of %d bytes %d are left though half of them are in the database", logged, n)
	}
	closeDB(t, db)
	db = open(t, "data", eager(fs))
	defer closeDB(t, db)
	wantBlobs(t, db, "started again", blobs, data)
	if names := lacking(t, db); len(names) != 0 {
		t.Errorf("%x are lacking", names)
	}
	other := inMemory(t)
	for _, blob := range blobs {
		if got, err := io.ReadAll(db.Snapshot().OpenBlob(1, "a", blob)); err != nil || !bytes.Equal(got, data) {
			t.Errorf("%d bytes are read from a snapshot, %v", len(got), err)
		}
		mustCopy(t, db, other, blob)
	}
	adopt(t, 1, blobs, other)
	wantBlobs(t, other, "copied", blobs, data)
	restored := inMemory(t)
	restoreFrom(t, db, restored)
	wantBlobs(t, restored, "restored", blobs, data)
	for name, replica := range map[string]*store.DB{"copied": other, "restored": restored} {
		if a, b := blobsOf(t, db), blobsOf(t, replica); a != b || a.lacking != 0 {
			t.Errorf("%s: the bytes are %+v, want %+v", name, b, a)
		}
	}
	discard(t, db, blobs...)
	sweepLog(t, db)
	if n := db.LogBytes(); n != 0 {
		t.Errorf("%d bytes are left of nothing", n)
	}
}

func TestARestorePutsTheBytesIntoTheLog(t *testing.T) {
	source, target := inMemory(t), inMemory(t)
	data := noise(2*mib + 9)
	blobs := append(half(t, source, data), stage(t, source, nil))
	adopt(t, 1, blobs, source)
	unadopted := stage(t, source, data)
	restoreFrom(t, source, target)
	wantBlobs(t, target, "restored", append(blobs[:2:2], unadopted), data)
	wantBlobs(t, target, "restored", blobs[2:], nil)
	logged := target.LogBytes()
	if least := int64(3 * len(data)); logged < least || logged > least+4096 {
		t.Errorf("%d bytes are in the log, want %d", logged, least)
	}
	restoreFrom(t, source, target)
	wantBlobs(t, target, "restored again", append(blobs[:2:2], unadopted), data)
	if n := target.LogBytes(); n != logged {
		t.Errorf("bytes that are here were written again: %d are in the log", n)
	}
	if n := blobsOf(t, target).lacking; n != 0 || !staged(t, target, unadopted) {
		t.Errorf("%d are lacking, or the mark is", n)
	}
}

// What says that a blob is here must never be true of bytes that a power cut has taken.
func TestAPowerCutDuringARestoreLeavesBlobsWholeOrLacking(t *testing.T) {
	source := inMemory(t)
	data := noise(mib + 9)
	blobs := []store.Blob{stage(t, source, data), stage(t, source, data), stage(t, source, data), stage(t, source, data), stage(t, source, nil)}
	adopt(t, 1, blobs, source)
	unadopted := stage(t, source, data)
	stream := rangeSnapshot(t, source)
	seen := map[bool]int{}
	for seed := range uint64(10) {
		rng := rand.New(rand.NewPCG(seed, 6))
		fs := vfs.NewCrashableMem()
		db := open(t, "data", store.Options{FS: fs, SegmentBytes: 1})
		var after *vfs.MemFS
		cut := &atByte{r: bytes.NewReader(stream), at: rng.IntN(len(stream) + 1000), do: func() {
			if seed%2 == 0 { // as another shard may
				if err := db.Sync(); err != nil {
					t.Error(err)
				}
			}
			after = fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: int(seed%3) * 50, RNG: rng})
		}}
		if _, err := db.ReadSnapshot(cut, 1); err != nil {
			t.Fatal(err)
		}
		if after == nil { // after its end
			cut.do()
		}
		closeDB(t, db)

		db = open(t, "data", store.Options{FS: after, SegmentBytes: 1})
		for i, blob := range blobs[:4] {
			r, err := db.ExportBlob(1, "a", blob)
			if err != nil {
				continue // it is not here
			}
			if out, err := io.ReadAll(r); err != nil || !bytes.Equal(out, export(t, source, blob)) {
				t.Errorf("seed %d: blob %d is said to be here and has %d bytes, %v", seed, i, len(out), err)
			}
		}
		// It is restored from a replica that lacks all of them. What was here stays.
		empty := inMemory(t)
		adopt(t, 1, blobs, empty)
		restoreFrom(t, empty, db)
		adopt(t, 2, []store.Blob{unadopted}, db)
		names := map[[16]byte]bool{}
		for _, id := range lacking(t, db) {
			names[id] = true
		}
		for i, blob := range append(blobs[:4:4], unadopted) {
			seen[names[blob.ID]]++
			if got, err := db.ReadBlob(1, "a", blob); (err == nil && bytes.Equal(got, data)) == names[blob.ID] {
				t.Errorf("seed %d: blob %d lacks %v and is read as %d bytes, %v", seed, i, names[blob.ID], len(got), err)
			}
		}
		restoreFrom(t, source, db)
		wantBlobs(t, db, "restored again", blobs[:4], data)
		wantBlobs(t, db, "restored again", blobs[4:], nil)
		closeDB(t, db)
	}
	if seen[true] == 0 || seen[false] == 0 {
		t.Errorf("%d were lacking and %d were not: the cuts are in the wrong places", seen[true], seen[false])
	}
}

// frame is a key of shard 1 and its value in a snapshot.
type frame struct{ key, value []byte }

func streamOf(t testing.TB, frames ...frame) []byte {
	t.Helper()
	body := []byte{0, 0, 0, 1}
	for _, f := range frames {
		body = append(binary.AppendUvarint(body, uint64(len(f.key)-4)+1), f.key[4:]...)
		body = append(binary.AppendUvarint(body, uint64(len(f.value))), f.value...)
	}
	body = append(body, 0)
	body = binary.BigEndian.AppendUint64(body, xxhash.Sum64(body))
	z, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return z.EncodeAll(body, []byte("PHRANGE\x01"))
}

func TestASnapshotWhoseBlobsMakeNoSenseIsRefused(t *testing.T) {
	blob := store.Blob{ID: [16]byte{7}, Size: 2 * mib, Chunks: 2}
	chunk := func(n uint32, size int) frame {
		return frame{store.AppendBlobChunkKey(nil, 1, "a", blob.ID, n), noise(size)}
	}
	here := func(value ...byte) frame { return frame{store.HereKey(1, "a", blob), value} }
	places := store.AppendPlaces([]bytelog.Place{{Segment: 1, Offset: 50, Length: 5}, {Segment: 1, Offset: 99, Length: 5}})
	for name, c := range map[string]struct {
		frames []frame
		fine   bool
	}{
		"as it should be":                  {[]frame{here(2), chunk(0, mib), chunk(1, mib)}, true},
		"with places on another replica":   {[]frame{here(places...)}, false},
		"arriving":                         {[]frame{here(1), chunk(0, mib)}, false},
		"nothing said":                     {[]frame{here(), chunk(0, mib)}, false},
		"without its first chunk":          {[]frame{here(2), chunk(1, mib)}, false},
		"with its first chunk twice":       {[]frame{here(2), chunk(0, mib), chunk(0, mib)}, false},
		"with a chunk of several chunks":   {[]frame{here(2), chunk(0, 2*mib)}, false},
		"without here, as entries have it": {[]frame{chunk(0, 2*mib)}, true},
	} {
		db := inMemory(t)
		_, err := db.ReadSnapshot(bytes.NewReader(streamOf(t, c.frames...)), 1)
		if (err == nil) != c.fine {
			t.Errorf("%s: %v", name, err)
		}
		if err := db.Err(); err != nil {
			t.Error(err)
		}
	}
}

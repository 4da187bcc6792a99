package store_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/store"
	"github.com/pheromone-run/pheromone/store/bytelog"
)

const mib = 1 << 20

func noise(n int) []byte {
	out := make([]byte, n)
	rng := rand.NewChaCha8([32]byte{1})
	_, _ = rng.Read(out)
	return out
}

func text(n int) []byte {
	return bytes.Repeat([]byte("the quick brown fox jumps over the lazy dog. "), n/45+1)[:n]
}

func stage(t testing.TB, db *store.DB, data []byte) store.Blob {
	t.Helper()
	blob, err := db.StageBlob(context.Background(), 1, "a", bytes.NewReader(data), 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	return blob
}

func keysOf(t testing.TB, db *store.DB, shard spec.ShardID) int {
	t.Helper()
	n := 0
	lower, upper := store.ShardRange(shard)
	if err := db.Scan(lower, upper, func(_, _ []byte) bool { n++; return true }); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestABlobComesBackWhole(t *testing.T) {
	db := inMemory(t)
	for _, c := range []struct {
		name   string
		data   []byte
		chunks uint32
		codec  store.Codec
	}{
		{"empty", nil, 0, store.CodecNone},
		{"one byte", []byte("x"), 1, store.CodecNone},
		{"text", text(300 << 10), 1, store.CodecS2},
		{"noise", noise(300 << 10), 1, store.CodecNone},
		{"exactly a chunk", text(mib), 1, store.CodecS2},
		{"a chunk and a byte", text(mib + 1), 2, store.CodecS2},
		{"exactly two chunks of noise", noise(2 * mib), 2, store.CodecNone},
		{"text, then noise", append(text(mib), noise(mib+5)...), 3, store.CodecS2},
	} {
		t.Run(c.name, func(t *testing.T) {
			blob := stage(t, db, c.data)
			if blob.Size != int64(len(c.data)) || blob.Chunks != c.chunks || blob.Codec != c.codec {
				t.Errorf("blob %+v", blob)
			}
			got, err := db.ReadBlob(1, "a", blob)
			if err != nil || !bytes.Equal(got, c.data) {
				t.Errorf("read %d bytes, %v", len(got), err)
			}
			r := db.OpenBlob(1, "a", blob)
			if err := iotest.TestReader(struct{ io.Reader }{r}, c.data); err != nil {
				t.Error(err)
			}
			if err := r.Close(); err != nil {
				t.Error(err)
			}
			if _, err := r.Read(make([]byte, 1)); err == nil || err == io.EOF {
				t.Errorf("reading a closed blob: %v", err)
			}
			var out bytes.Buffer
			if _, err := io.Copy(&out, db.OpenBlob(1, "a", blob)); err != nil || !bytes.Equal(out.Bytes(), c.data) {
				t.Errorf("copied %d bytes, %v", out.Len(), err)
			}
		})
	}
}

func TestNothingStaysOfABlobThatWasNotStored(t *testing.T) {
	cancelled, cancel := context.WithCancelCause(context.Background())
	cancel(errors.New("the client has gone"))
	for _, c := range []struct {
		name string
		ctx  context.Context
		data io.Reader
		max  int64
		code spec.Code
		says string
	}{
		{"too large", context.Background(), bytes.NewReader(text(3*mib + 1)), 3 * mib, spec.CodeTooLarge, "more than 3145728 bytes"},
		{"without end", context.Background(), neverEnds{}, 5 * mib, spec.CodeTooLarge, "more than"},
		{"a source that fails", context.Background(), io.MultiReader(bytes.NewReader(text(2*mib+7)), iotest.ErrReader(errors.New("line cut"))), 1 << 30, spec.CodeInternal, "line cut"},
		{"a body that is cut short", context.Background(), io.MultiReader(bytes.NewReader(text(mib+7)), iotest.ErrReader(io.ErrUnexpectedEOF)), 1 << 30, spec.CodeInternal, "unexpected EOF"},
		{"given up", cancelled, bytes.NewReader(text(mib)), 1 << 30, spec.CodeInternal, "the client has gone"},
	} {
		t.Run(c.name, func(t *testing.T) {
			db := inMemory(t)
			_, err := db.StageBlob(c.ctx, 1, "a", c.data, c.max)
			if spec.CodeOf(err) != c.code || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%s: %v", spec.CodeOf(err), err)
			}
			if n := keysOf(t, db, 1); n != 0 {
				t.Errorf("%d keys are left", n)
			}
		})
	}
	if _, err := inMemory(t).StageBlob(context.Background(), 1, "a", bytes.NewReader(text(3*mib)), 3*mib); err != nil {
		t.Errorf("exactly as much as is allowed: %v", err)
	}
}

type neverEnds struct{}

func (neverEnds) Read(p []byte) (int, error) { return len(p), nil }

func TestStagedBlobsAreSweptUnlessAdoptedOrStillOfInterest(t *testing.T) {
	db := inMemory(t)
	adopted, lost, waiting := stage(t, db, text(mib+1)), stage(t, db, text(mib+2)), stage(t, db, text(mib+3))
	elsewhere, err := db.StageBlob(context.Background(), 2, "a", bytes.NewReader(text(10)), mib)
	if err != nil {
		t.Fatal(err)
	}
	var b store.Batch
	store.AdoptBlob(&b, 1, "a", adopted)
	if err := db.Apply(1, [][]byte{b.Repr()}, store.ShardMeta{Applied: 1}); err != nil {
		t.Fatal(err)
	}
	for _, blob := range []store.Blob{adopted, lost, elsewhere} {
		db.ReleaseBlob(blob)
	}
	if err := db.SweepStaged(1); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name  string
		shard spec.ShardID
		blob  store.Blob
		stays bool
	}{{"adopted", 1, adopted, true}, {"released", 1, lost, false}, {"not released", 1, waiting, true}, {"of another shard", 2, elsewhere, true}} {
		if _, err := db.ReadBlob(c.shard, "a", c.blob); (err == nil) != c.stays {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	if err := db.DiscardBlob(1, "a", waiting); err != nil {
		t.Fatal(err)
	}
	if _, err := db.ReadBlob(1, "a", waiting); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("discarded: %v", err)
	}
	b.Reset()
	b.Set(store.AppendBlobRefsKey(nil, 1, "a", adopted.ID), store.AppendCount(nil, 2))
	store.DeleteBlob(&b, 1, "a", adopted)
	if err := db.Apply(1, [][]byte{b.Repr()}, store.ShardMeta{}); err != nil {
		t.Fatal(err)
	}
	if n := keysOf(t, db, 1); n != 1 { // the meta
		t.Errorf("%d keys are left", n)
	}
}

func TestDamagedBlobsAreNoticed(t *testing.T) {
	for _, data := range [][]byte{text(2*mib + 9), noise(2*mib + 9)} {
		db := inMemory(t)
		blob := stage(t, db, data)
		if err := db.StoreAsBefore(1, "a", blob); err != nil {
			t.Fatal(err)
		}
		key := store.AppendBlobChunkKey(nil, 1, "a", blob.ID, 1)
		chunk, err := db.Get(key)
		if err != nil {
			t.Fatal(err)
		}
		flipped := bytes.Clone(chunk)
		flipped[len(chunk)/2] ^= 1
		for name, damaged := range map[string][]byte{"a bit flipped": flipped, "cut short": chunk[:len(chunk)-1], "empty": nil, "gone": nil} {
			b := db.NewBatch()
			b.Set(key, damaged)
			if name == "gone" {
				b.Delete(key)
			}
			if err := db.Commit(b, false); err != nil {
				t.Fatal(err)
			}
			wantDamaged(t, db, blob, name)
		}
	}
}

func TestDamageInTheLogOfBytesIsNoticed(t *testing.T) {
	for _, data := range [][]byte{text(2*mib + 9), noise(2*mib + 9)} {
		db := inMemory(t)
		blob := stage(t, db, data)
		key := store.HereKey(1, "a", blob)
		here, err := db.Get(key)
		if err != nil {
			t.Fatal(err)
		}
		for name, change := range map[string]func(p []bytelog.Place) []bytelog.Place{
			"other bytes":         func(p []bytelog.Place) []bytelog.Place { p[1].Offset--; return p },
			"a chunk cut short":   func(p []bytelog.Place) []bytelog.Place { p[1].Length--; return p },
			"an empty chunk":      func(p []bytelog.Place) []bytelog.Place { p[1].Length = 0; return p },
			"behind its segment":  func(p []bytelog.Place) []bytelog.Place { p[2].Offset += 9 * mib; return p },
			"a segment that went": func(p []bytelog.Place) []bytelog.Place { p[1].Segment = 77; return p },
			"a chunk less":        func(p []bytelog.Place) []bytelog.Place { return p[:2] },
		} {
			places, logged, err := store.DecodePlaces(here)
			if err != nil || !logged || len(places) != 3 {
				t.Fatalf("%d places, %v", len(places), err)
			}
			b := db.NewBatch()
			b.Set(key, store.AppendPlaces(change(places)))
			if err := db.Commit(b, false); err != nil {
				t.Fatal(err)
			}
			wantDamaged(t, db, blob, name)
		}
	}
}

func wantDamaged(t *testing.T, db *store.DB, blob store.Blob, damage string) {
	t.Helper()
	if _, err := db.ReadBlob(1, "a", blob); err == nil {
		t.Errorf("codec %d: %s: it was read whole", blob.Codec, damage)
	}
	if _, err := io.Copy(io.Discard, db.OpenBlob(1, "a", blob)); err == nil {
		t.Errorf("codec %d: %s: it was copied whole", blob.Codec, damage)
	}
}

func TestABlobWhoseSizeIsALieIsRefused(t *testing.T) {
	db := inMemory(t)
	blob := stage(t, db, text(mib))
	for _, lie := range []int64{-1, 1 << 60, mib + 1, mib - 1, 0} {
		blob.Size = lie
		if _, err := db.ReadBlob(1, "a", blob); err == nil {
			t.Errorf("a size of %d was believed", lie)
		}
		if _, err := io.Copy(io.Discard, db.OpenBlob(1, "a", blob)); err == nil {
			t.Errorf("a size of %d was believed by the reader", lie)
		}
	}
}

func TestBlobsAreNamedInTheOrderInWhichTheyCome(t *testing.T) {
	const start = store.Micros(1_700_000_000_000_000)
	seen := make(map[[16]byte]bool)
	var before [16]byte
	for i := range store.Micros(1000) {
		id := store.NewBlobID(start + 1000*i)
		if bytes.Compare(before[:], id[:]) >= 0 {
			t.Fatalf("%x of a millisecond later is not behind %x", id, before)
		}
		before = id
		same := store.NewBlobID(start)
		if seen[same] {
			t.Fatalf("%x names two blobs", same)
		}
		seen[same] = true
	}
}

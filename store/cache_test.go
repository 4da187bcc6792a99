package store_test

import (
	"encoding/binary"
	"math/rand/v2"
	"runtime"
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/store"
)

// Pebble takes the memory of memtables from the cache: one that is as large as two of
// them holds no block.
func TestWhatWasReadStaysInMemoryUnderWrites(t *testing.T) {
	const memTable, value = 8 << 20, 8 << 10
	db := open(t, t.TempDir(), store.Options{MemTableBytes: memTable})
	defer closeDB(t, db)
	random := rand.NewChaCha8([32]byte{1})
	key := func(i int) []byte {
		return binary.BigEndian.AppendUint32(store.AppendEventsPrefix(nil, 1), uint32(i))
	}
	data := make([]byte, value)
	for i := range 4 * memTable / value {
		_, _ = random.Read(data)
		var b store.Batch
		b.Set(key(i), data)
		if err := db.Commit(&b, false); err != nil {
			t.Fatal(err)
		}
	}
	for deadline := time.Now().Add(time.Minute); db.Metrics().Flush.Count == 0; { // on a slow disk
		if time.Now().After(deadline) {
			t.Fatal("nothing is flushed")
		}
		runtime.Gosched()
	}
	for range 2 { // the first time from the disk
		if _, err := db.Get(key(0)); err != nil {
			t.Fatal(err)
		}
	}
	before := db.Metrics().BlockCache
	for range 100 {
		if _, err := db.Get(key(0)); err != nil {
			t.Fatal(err)
		}
	}
	after := db.Metrics().BlockCache
	if hits, misses := after.Hits-before.Hits, after.Misses-before.Misses; hits == 0 || misses > hits/2 {
		t.Errorf("100 reads of one key met %d blocks in memory and %d that were not, want nearly all in memory", hits, misses)
	}
}

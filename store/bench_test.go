package store_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/store"
)

// BenchmarkApply applies the writes of one small step of a workflow: an object, an
// event, an invocation, the session and the counters.
func BenchmarkApply(b *testing.B) {
	db := open(b, b.TempDir(), store.Options{})
	defer closeDB(b, db)
	var batch store.Batch
	var key, value []byte
	object := store.Object{Revision: 1, Created: 1_700_000_000_000_000, Size: 100, ContentType: "application/json", Inline: make([]byte, 100)}
	session := store.Session{State: store.SessionRunning, Created: 1_700_000_000_000_000, Invocations: 2, Pending: 1}
	invocation := store.Invocation{Function: "count", State: store.InvocationQueued, Bucket: "words", Trigger: "each", Queued: 1_700_000_000_000_000}
	b.ReportAllocs()
	for n := uint64(0); b.Loop(); n++ {
		batch.Reset()
		key = store.AppendSessionObjectKey(key[:0], 1, "wordcount", "words", "s0123456789", "part-1")
		value = store.AppendObject(value[:0], &object)
		batch.Set(key, value)
		batch.Set(store.AppendEventKey(key[:0], 1, spec.Revision(n)), value)
		batch.Set(store.AppendPendingKey(key[:0], 1, "wordcount", "s0123456789", n), store.AppendInvocation(value[:0], &invocation))
		batch.Set(store.AppendSessionKey(key[:0], 1, "wordcount", "s0123456789"), store.AppendSession(value[:0], &session))
		if err := db.Apply(1, [][]byte{batch.Repr()}, store.ShardMeta{Applied: n, Epoch: 1, Seq: n}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkGet(b *testing.B) {
	db := inMemory(b)
	sample(b, db)
	key, dst := store.AppendEventKey(nil, 1, 77), make([]byte, 0, 1024)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := db.GetTo(dst, key); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkRecords(b *testing.B) {
	for _, r := range records() {
		src := r.encode(r.full)
		b.Run("decode "+r.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := r.decode(src); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	session := store.Session{State: store.SessionRunning, Created: 1_700_000_000_000_000, Invocations: 2, Pending: 1}
	dst := make([]byte, 0, 256)
	b.Run("encode session", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			dst = store.AppendSession(dst[:0], &session)
		}
	})
}

func BenchmarkStageBlob(b *testing.B) {
	for name, data := range map[string][]byte{"text": text(8 * mib), "noise": noise(8 * mib)} {
		b.Run(name, func(b *testing.B) {
			db := open(b, b.TempDir(), store.Options{})
			defer closeDB(b, db)
			b.SetBytes(int64(len(data)))
			for b.Loop() {
				blob, err := db.StageBlob(context.Background(), 1, "a", bytes.NewReader(data), 1<<30)
				if err != nil {
					b.Fatal(err)
				}
				if err := db.DiscardBlob(1, "a", blob); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkBlobsComeAndGo tells how often the bytes of blobs are written to the disk that
// are deleted after some others have come, and how much of it is taken by 200 of them.
func BenchmarkBlobsComeAndGo(b *testing.B) {
	data := noise(mib)
	db := open(b, b.TempDir(), store.Options{})
	defer closeDB(b, db)
	var kept []store.Blob
	before := bytesWritten(b)
	for b.Loop() {
		blob, err := db.StageBlob(context.Background(), 1, "a", bytes.NewReader(data), mib)
		if err != nil {
			b.Fatal(err)
		}
		var batch store.Batch
		store.AdoptBlob(&batch, 1, "a", blob)
		if kept = append(kept, blob); len(kept) > 200 {
			store.DeleteBlob(&batch, 1, "a", kept[0])
			kept = kept[1:]
		}
		if err := db.Commit(&batch, false); err != nil {
			b.Fatal(err)
		}
		db.ReleaseBlob(blob)
	}
	b.ReportMetric(float64(bytesWritten(b)-before)/float64(b.N)/mib, "times-written")
	b.ReportMetric(float64(db.DiskBytes())/mib, "MiB-on-disk")
}

// bytesWritten is what this process has had written to disks.
func bytesWritten(b *testing.B) (n int64) {
	b.Helper()
	status, err := os.ReadFile("/proc/self/io")
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if _, err := fmt.Sscanf(line, "write_bytes: %d", &n); err == nil {
			return n
		}
	}
	b.Fatal("/proc/self/io does not tell write_bytes")
	return 0
}

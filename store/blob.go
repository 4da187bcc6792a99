package store

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
	"sync"

	"github.com/pheromone-run/pheromone/spec"
)

// blobChunkBytes is the size of a blob's chunks before compression; the last one
// may be shorter.
const blobChunkBytes = 1 << 20

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// staging holds the blobs that this process has at work: those it has staged and
// not released, and those whose chunks are coming in. Sweeps leave them alone.
type staging struct {
	mu struct {
		sync.Mutex
		live map[[16]byte]*work
	}
}

type work struct {
	is   atWork
	over chan struct{} // closed when it is at work no more
}

// atWork is what a blob is at work for.
type atWork byte

const (
	workStaged atWork = iota + 1
	workReceived
	workDoomed // it is being received, and is not wanted any more
)

// add returns false if the blob is at work already.
func (s *staging) add(id [16]byte, is atWork) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.mu.live[id]; ok {
		return false
	}
	if s.mu.live == nil {
		s.mu.live = make(map[[16]byte]*work)
	}
	s.mu.live[id] = &work{is, make(chan struct{})}
	return true
}

// doom has a blob removed that is being received, once it is there.
func (s *staging) doom(id [16]byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if w := s.mu.live[id]; w != nil && w.is == workReceived {
		w.is = workDoomed
	}
}

func (s *staging) doomed(id [16]byte) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := s.mu.live[id]
	return w != nil && w.is == workDoomed
}

func (s *staging) remove(id [16]byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if w := s.mu.live[id]; w != nil {
		close(w.over)
		delete(s.mu.live, id)
	}
}

// wait returns once a blob is not at work.
func (s *staging) wait(ctx context.Context, id [16]byte) error {
	s.mu.Lock()
	w := s.mu.live[id]
	s.mu.Unlock()
	if w == nil {
		return nil
	}
	select {
	case <-w.over:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for the bytes of blob %x, which are coming in: %w", id, context.Cause(ctx))
	}
}

func (s *staging) has(id [16]byte) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.mu.live[id]
	return ok
}

// NewBlobID names a blob that is made at a time: its first six bytes are the time in
// milliseconds, the others are random. So what is known of blobs lies in the store in the
// order in which they came, and tables of it need not be merged.
func NewBlobID(at Micros) (id [16]byte) {
	const timeBytes = 6
	var ms [8]byte
	binary.BigEndian.PutUint64(ms[:], uint64(at/1000))
	copy(id[:timeBytes], ms[len(ms)-timeBytes:])
	_, _ = rand.Read(id[timeBytes:]) // which does not fail
	return id
}

// StageBlob reads r to its end and stores what it says in chunks, outside of the
// raft log, compressed if that pays. When it returns, the bytes are on disk and
// marked as staged: an entry that refers to them has to take the mark away
// (AdoptBlob) in the same batch. More than max bytes are an error with
// CodeTooLarge; of a blob that was not stored whole nothing stays.
//
// Who stages a blob calls ReleaseBlob once the fate of the entry is known to him
// or of no interest, or DiscardBlob if there will be no entry.
func (db *DB) StageBlob(ctx context.Context, shard spec.ShardID, app spec.AppName, r io.Reader, max int64) (Blob, error) {
	blob := Blob{ID: NewBlobID(Micros(db.now().UnixMicro()))}
	db.staging.add(blob.ID, workStaged)
	err := db.stage(ctx, shard, app, r, max, &blob)
	if err != nil {
		if discardErr := db.DiscardBlob(shard, app, blob); discardErr != nil && db.Err() == nil {
			err = errors.Join(err, discardErr)
		}
		return Blob{}, err
	}
	return blob, nil
}

func (db *DB) stage(ctx context.Context, shard spec.ShardID, app spec.AppName, r io.Reader, max int64, blob *Blob) error {
	chunks := db.writeChunks(shard, BlobName{app, blob.ID})
	defer chunks.end()
	// The mark comes first: by it a sweep finds what a crash leaves.
	chunks.mark(db.identity.Node)
	if err := chunks.begin(); err != nil {
		return err
	}
	room := stageRooms.Get().(*stageRoom)
	defer stageRooms.Put(room)
	chunk := room.of(min(blobChunkBytes-1, max) + 1) // to see that there is more than max
	packer := &room.packer
	digest := sha256.New()
	var hashing sync.WaitGroup
	for {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("store: stage a blob: %w", context.Cause(ctx))
		}
		n, readErr := fillChunk(r, chunk)
		if readErr != nil && readErr != io.EOF {
			return fmt.Errorf("store: read the bytes of a blob: %w", readErr)
		}
		blob.Size += int64(n)
		if blob.Size > max {
			return spec.Errorf(spec.CodeTooLarge, "the object has more than %d bytes, the app's max_object_bytes", max)
		}
		if n > 0 {
			hashing.Go(func() { // which takes as long as all the rest
				blob.CRC = crc32.Update(blob.CRC, castagnoli, chunk[:n])
				digest.Write(chunk[:n])
			})
			pack := packer.pack
			if blob.Chunks == 0 {
				pack = packer.first
			}
			err := chunks.put(pack(chunk[:n]))
			hashing.Wait()
			if err != nil {
				return err
			}
			blob.Codec = packer.codec
			blob.Chunks++
		}
		if readErr != nil {
			copy(blob.Sum[:], digest.Sum(nil))
			return chunks.finish()
		}
	}
}

// stageRoom is memory to stage a blob in, which the next one uses again.
type stageRoom struct {
	chunk  []byte
	packer packer
}

var stageRooms = sync.Pool{New: func() any { return new(stageRoom) }}

func (r *stageRoom) of(size int64) []byte {
	r.packer.codec = CodecNone
	r.chunk = slices.Grow(r.chunk[:0], int(size))[:size]
	return r.chunk
}

// fillChunk is io.ReadFull for a last chunk that may be short. io.ReadFull calls
// that io.ErrUnexpectedEOF, the very error of a request body that was cut short.
func fillChunk(r io.Reader, chunk []byte) (n int, err error) {
	for n < len(chunk) && err == nil {
		var read int
		read, err = r.Read(chunk[n:])
		n += read
	}
	return n, err
}

// ReleaseBlob tells that who staged blob has no more interest in it. If no entry
// has adopted it, a sweep removes it.
func (db *DB) ReleaseBlob(blob Blob) { db.staging.remove(blob.ID) }

// DiscardBlob removes a staged blob that no entry will ever refer to.
func (db *DB) DiscardBlob(shard spec.ShardID, app spec.AppName, blob Blob) error {
	defer db.ReleaseBlob(blob)
	var b Batch
	dropChunks(&b, shard, BlobName{app, blob.ID})
	return db.Commit(&b, false)
}

// AdoptBlob adds to b that blob is referred to from now on.
func AdoptBlob(b *Batch, shard spec.ShardID, app spec.AppName, blob Blob) {
	var key, value [128]byte
	b.Delete(AppendStagedKey(key[:0], shard, app, blob.ID))
	b.Set(AppendBlobKey(key[:0], shard, app, blob.ID), AppendBlob(value[:0], &blob))
}

// DeleteBlob adds to b the deletion of everything of blob.
func DeleteBlob(b *Batch, shard spec.ShardID, app spec.AppName, blob Blob) {
	var key [128]byte
	b.Delete(AppendBlobKey(key[:0], shard, app, blob.ID))
	b.Delete(AppendBlobRefsKey(key[:0], shard, app, blob.ID))
	dropChunks(b, shard, BlobName{app, blob.ID})
}

// dropChunks deletes what came to this replica outside of the log.
func dropChunks(b *Batch, shard spec.ShardID, name BlobName) {
	var key [128]byte
	b.DeleteRange(Bounds(appendBlobPrefix(nil, shard, name.App, name.ID)))
	b.Delete(appendBlobHereKey(key[:0], shard, name.App, name.ID))
	b.Delete(AppendStagedKey(key[:0], shard, name.App, name.ID))
}

// chunkWriter stores the chunks of one blob as they come in.
type chunkWriter struct {
	db      *DB
	shard   spec.ShardID
	name    BlobName
	here    []byte // the key that says where they are
	batch   Batch
	arrival *arrival
}

func (db *DB) writeChunks(shard spec.ShardID, name BlobName) *chunkWriter {
	here := appendBlobHereKey(nil, shard, name.App, name.ID)
	return &chunkWriter{db: db, shard: shard, name: name, here: here, arrival: db.arrive(here)}
}

// mark adds to what is written next that the blob is staged, by a node.
func (w *chunkWriter) mark(node string) {
	m := Mark{Node: node, Time: Micros(w.db.now().UnixMicro())}
	w.batch.Set(AppendStagedKey(nil, w.shard, w.name.App, w.name.ID), appendMark(nil, &m))
}

// begin notes that chunks are arriving, so that finish sees whether anybody has deleted
// that, with their app or their shard.
func (w *chunkWriter) begin() error {
	w.batch.Set(w.here, []byte{hereArriving})
	return w.commit()
}

func (w *chunkWriter) put(stored []byte) error { return w.arrival.put(stored) }

func (w *chunkWriter) commit() error {
	defer w.batch.Reset()
	return w.db.Commit(&w.batch, false)
}

// finish makes the chunks durable and then notes where they are: whoever finds that
// after a power cut finds the chunks too.
func (w *chunkWriter) finish() error {
	if err := w.arrival.sync(); err != nil {
		return err
	}
	w.db.blobs.Lock()
	err := w.arriving()
	if err == nil {
		w.batch.Set(w.here, w.arrival.record())
		err = w.commit()
	}
	w.db.blobs.Unlock()
	if err != nil {
		return err
	}
	return w.db.Sync()
}

// end is for who has finished, or gives up: what is in the log is garbage then.
func (w *chunkWriter) end() { w.arrival.end() }

// arriving returns an error if the chunks are not wanted any more.
func (w *chunkWriter) arriving() error {
	there, err := w.db.Has(w.here)
	if err == nil && !there {
		err = spec.Errorf(spec.CodeConflict, "app %q was deleted while the object's bytes came in: put it again", w.name.App)
	}
	return err
}

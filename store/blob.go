package store

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"sync"

	"github.com/pheromone-run/pheromone/spec"
)

// BlobChunkBytes is the size of a blob's chunks before compression; the last one
// may be shorter.
const BlobChunkBytes = 1 << 20

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// staging holds the blobs that this process has staged and not released, which
// SweepStaged leaves alone.
type staging struct {
	mu struct {
		sync.Mutex
		live map[[16]byte]struct{}
	}
}

func (s *staging) add(id [16]byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.live == nil {
		s.mu.live = make(map[[16]byte]struct{})
	}
	s.mu.live[id] = struct{}{}
}

func (s *staging) remove(id [16]byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.mu.live, id)
}

func (s *staging) has(id [16]byte) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.mu.live[id]
	return ok
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
	var blob Blob
	if _, err := rand.Read(blob.ID[:]); err != nil {
		return Blob{}, fmt.Errorf("store: name a blob: %w", err)
	}
	db.staging.add(blob.ID)
	err := db.stage(ctx, shard, app, r, max, &blob)
	if err == nil {
		err = db.Sync()
	}
	if err != nil {
		if discardErr := db.DiscardBlob(shard, app, blob); discardErr != nil && db.Err() == nil {
			err = errors.Join(err, discardErr)
		}
		return Blob{}, err
	}
	return blob, nil
}

func (db *DB) stage(ctx context.Context, shard spec.ShardID, app spec.AppName, r io.Reader, max int64, blob *Blob) error {
	var b Batch
	b.Set(AppendStagedKey(nil, shard, app, blob.ID), nil)
	chunk := make([]byte, BlobChunkBytes)
	digest := sha256.New()
	var packer packer
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
			if blob.Chunks == 0 {
				blob.Codec = packer.choose(chunk[:n])
			}
			blob.CRC = crc32.Update(blob.CRC, castagnoli, chunk[:n])
			digest.Write(chunk[:n])
			b.Set(AppendBlobChunkKey(nil, shard, app, blob.ID, blob.Chunks), packer.pack(chunk[:n]))
			blob.Chunks++
		}
		if err := db.Commit(&b, false); err != nil {
			return err
		}
		b.Reset()
		if readErr != nil {
			copy(blob.Sum[:], digest.Sum(nil))
			return nil
		}
	}
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
// has adopted it, the next SweepStaged removes it.
func (db *DB) ReleaseBlob(blob Blob) { db.staging.remove(blob.ID) }

// DiscardBlob removes a staged blob that no entry will ever refer to.
func (db *DB) DiscardBlob(shard spec.ShardID, app spec.AppName, blob Blob) error {
	defer db.ReleaseBlob(blob)
	var b Batch
	DeleteBlob(&b, shard, app, blob)
	return db.Commit(&b, false)
}

// AdoptBlob adds to b that blob is referred to from now on.
func AdoptBlob(b *Batch, shard spec.ShardID, app spec.AppName, blob Blob) {
	var key [128]byte
	b.Delete(AppendStagedKey(key[:0], shard, app, blob.ID))
}

// DeleteBlob adds to b the deletion of everything of blob.
func DeleteBlob(b *Batch, shard spec.ShardID, app spec.AppName, blob Blob) {
	deleteBlob(b, shard, app, blob.ID)
}

func deleteBlob(b *Batch, shard spec.ShardID, app spec.AppName, id [16]byte) {
	b.DeleteRange(Bounds(AppendBlobPrefix(nil, shard, app, id)))
	b.Delete(AppendBlobRefsKey(nil, shard, app, id))
	b.Delete(AppendStagedKey(nil, shard, app, id))
}

// SweepStaged removes the blobs of shard that were staged and never referred to,
// apart from those that this process has not released. A new leader calls it once
// its claim is applied: whatever an earlier leader proposed is decided by then.
func (db *DB) SweepStaged(shard spec.ShardID) error {
	var b Batch
	err := scanStaged(db, shard, func(app spec.AppName, id [16]byte) {
		if !db.staging.has(id) {
			deleteBlob(&b, shard, app, id)
		}
	})
	if err != nil {
		return err
	}
	return db.Commit(&b, false)
}

func scanStaged(r Reader, shard spec.ShardID, fn func(app spec.AppName, id [16]byte)) error {
	lower, upper := Bounds(appendTable(nil, shard, tableStaged))
	var fault error
	err := r.Scan(lower, upper, func(key, _ []byte) bool {
		app, id, err := blobOf(key, tableStaged)
		if err != nil {
			fault = err
			return false
		}
		fn(app, id)
		return true
	})
	return errors.Join(err, fault)
}

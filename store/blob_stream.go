package store

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"slices"

	"github.com/klauspost/compress/s2"

	"github.com/pheromone-run/pheromone/spec"
)

// A blob on its way to another replica is a magic word, whose last byte is the
// version, and then its chunks as they are stored, each with four bytes for its
// length before it. How many there are and what they come to says the Blob, which
// the receiver has by another way.
const (
	blobMagic     = "PHBLOB\x01"
	chunkHeadSize = 4
)

// maxStoredChunk is the most that a chunk takes as it is stored.
var maxStoredChunk = s2.MaxEncodedLen(blobChunkBytes)

// ExportBlob returns the chunks of a blob as one stream, for StageCopy and
// RestoreBlob of another replica. It is ErrNotFound if they are not all here, and
// the stream ends with an error if they are deleted meanwhile.
func (db *DB) ExportBlob(shard spec.ShardID, app spec.AppName, blob Blob) (io.ReadCloser, error) {
	if err := checkBlob(blob); err != nil {
		return nil, err
	}
	whole, err := hasWhole(db, shard, BlobName{app, blob.ID})
	if err != nil {
		return nil, err
	}
	if !whole {
		return nil, fmt.Errorf("blob %x of shard %d: %w", blob.ID, shard, ErrNotFound)
	}
	from := chunks{db: db, from: db, shard: shard, name: BlobName{app, blob.ID}}
	return &blobStream{chunks: from, blob: blob, rest: []byte(blobMagic)}, nil
}

type blobStream struct {
	chunks chunks
	blob   Blob
	next   uint32
	buf    []byte // the chunk, with its head
	rest   []byte // what of it is not handed out yet
	err    error
}

func (s *blobStream) Read(p []byte) (int, error) {
	for len(s.rest) == 0 {
		if s.err == nil {
			s.err = s.fill()
		}
		if s.err != nil {
			return 0, s.err
		}
	}
	n := copy(p, s.rest)
	s.rest = s.rest[n:]
	return n, nil
}

func (s *blobStream) fill() error {
	if s.next == s.blob.Chunks {
		return io.EOF
	}
	buf, err := s.chunks.read(append(s.buf[:0], 0, 0, 0, 0), s.next)
	if err != nil {
		return fmt.Errorf("store: blob %x of shard %d, chunk %d of %d: %w", s.blob.ID, s.chunks.shard, s.next, s.blob.Chunks, err)
	}
	binary.BigEndian.PutUint32(buf, uint32(len(buf)-chunkHeadSize))
	s.next++
	s.buf, s.rest = buf, buf
	return nil
}

func (s *blobStream) Close() error {
	s.buf, s.rest, s.err = nil, nil, errBlobClosed
	return nil
}

// StageCopy stores a blob that another node has staged, from what its ExportBlob
// gave: when it returns, the bytes are checked, on disk and marked as staged by
// that node. Of a stream that is not the blob nothing stays.
//
// The entry that adopts the blob may be applied while the bytes come in; then they
// are its bytes.
func (db *DB) StageCopy(ctx context.Context, shard spec.ShardID, app spec.AppName, blob Blob, node string, r io.Reader) error {
	return db.receive(ctx, shard, app, blob, r, node)
}

// RestoreBlob stores the bytes of a blob that entries refer to and that this
// replica lacks, from what ExportBlob of another one gave.
func (db *DB) RestoreBlob(ctx context.Context, shard spec.ShardID, app spec.AppName, blob Blob, r io.Reader) error {
	return db.receive(ctx, shard, app, blob, r, "")
}

func (db *DB) receive(ctx context.Context, shard spec.ShardID, app spec.AppName, blob Blob, r io.Reader, stagedBy string) error {
	if err := checkBlob(blob); err != nil {
		return spec.Errorf(spec.CodeInvalid, "%w", err)
	}
	if blob.Size > spec.MaxMaxObjectBytes {
		return spec.Errorf(spec.CodeTooLarge, "a blob of %d bytes came, at most %d are taken", blob.Size, int64(spec.MaxMaxObjectBytes))
	}
	name := BlobName{app, blob.ID}
	if !db.staging.add(blob.ID, workReceived) {
		return spec.Errorf(spec.CodeUnavailable, "blob %x is at work already", blob.ID)
	}
	whole, err := hasWhole(db, shard, name)
	if err != nil || whole {
		db.staging.remove(blob.ID)
		return err
	}
	if err := db.receiveNew(ctx, shard, name, &blob, r, stagedBy); err != nil {
		if db.Err() == nil {
			var b Batch
			dropChunks(&b, shard, name)
			err = errors.Join(err, db.Commit(&b, false))
		}
		db.staging.remove(blob.ID)
		return err
	}
	return db.settle(shard, name, stagedBy != "")
}

func (db *DB) receiveNew(ctx context.Context, shard spec.ShardID, name BlobName, blob *Blob, r io.Reader, stagedBy string) error {
	w := db.writeChunks(shard, name)
	defer w.end()
	if err := w.begin(); err != nil {
		return err
	}
	if err := w.receive(ctx, r, blob); err != nil {
		return fmt.Errorf("store: copy blob %x of shard %d: %w", blob.ID, shard, err)
	}
	if stagedBy != "" {
		w.mark(stagedBy)
	}
	return w.finish()
}

// settle looks at what has become of a blob while its chunks came in, which it is
// the end of.
func (db *DB) settle(shard spec.ShardID, name BlobName, staged bool) error {
	db.blobs.Lock()
	defer db.blobs.Unlock()
	defer db.staging.remove(name.ID)
	adopted, err := db.Has(AppendBlobKey(nil, shard, name.App, name.ID))
	if err != nil {
		return err
	}
	var b Batch
	switch {
	case adopted && staged:
		b.Delete(AppendStagedKey(nil, shard, name.App, name.ID))
	case !adopted && (!staged || db.staging.doomed(name.ID)): // nothing refers to it any more, or will
		dropChunks(&b, shard, name)
	}
	return db.Commit(&b, false)
}

// receive reads the stream, stores its chunks and checks that they are the blob.
func (w *chunkWriter) receive(ctx context.Context, r io.Reader, blob *Blob) error {
	magic := make([]byte, len(blobMagic))
	if _, err := io.ReadFull(r, magic); err != nil {
		return cutStream(err)
	}
	if !bytes.Equal(magic, []byte(blobMagic)) {
		return errors.New("this is not a stream of chunks that this version of pheromone knows")
	}
	check := blobCheck{blob: blob, digest: sha256.New()}
	for n := range blob.Chunks {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		stored, err := check.read(r)
		if err != nil {
			return fmt.Errorf("chunk %d of %d: %w", n, blob.Chunks, err)
		}
		if err := w.put(stored); err != nil {
			return err
		}
	}
	if n, err := r.Read(magic[:1]); n > 0 || err != io.EOF {
		if err == nil || err == io.EOF {
			err = errors.New("the stream goes on behind its last chunk")
		}
		return err
	}
	return check.done()
}

// blobCheck checks chunks as they come.
type blobCheck struct {
	blob   *Blob
	read64 int64
	crc    uint32
	digest hash.Hash
	stored []byte
	whole  []byte
}

// read reads a chunk and returns it as it is to be stored, valid until the next call.
func (c *blobCheck) read(r io.Reader) ([]byte, error) {
	var head [chunkHeadSize]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, cutStream(err)
	}
	n := binary.BigEndian.Uint32(head[:])
	if uint64(n) > uint64(maxStoredChunk) {
		return nil, fmt.Errorf("it has %d bytes, more than a chunk", n)
	}
	c.stored = slices.Grow(c.stored[:0], int(n))[:n]
	if _, err := io.ReadFull(r, c.stored); err != nil {
		return nil, cutStream(err)
	}
	var err error
	if c.whole, err = unpack(c.blob.Codec, c.whole, c.stored); err != nil {
		return nil, err
	}
	if want := min(blobChunkBytes, c.blob.Size-c.read64); int64(len(c.whole)) != want {
		return nil, fmt.Errorf("%d bytes where %d are due", len(c.whole), want)
	}
	c.read64 += int64(len(c.whole))
	c.crc = crc32.Update(c.crc, castagnoli, c.whole)
	c.digest.Write(c.whole)
	return c.stored, nil
}

func (c *blobCheck) done() error {
	var sum Sum
	copy(sum[:], c.digest.Sum(nil))
	if c.crc != c.blob.CRC || sum != c.blob.Sum {
		return errors.New("the bytes are not those of the blob")
	}
	return nil
}

func cutStream(err error) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return errors.New("the stream is cut short")
	}
	return err
}

// hasWhole tells whether all chunks of a blob have come to this replica.
func hasWhole(r Reader, shard spec.ShardID, name BlobName) (bool, error) {
	var key [128]byte
	value, err := r.Get(appendBlobHereKey(key[:0], shard, name.App, name.ID))
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	return err == nil && isWhole(value), err
}

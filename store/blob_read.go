package store

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/pheromone-run/pheromone/spec"
)

// OpenBlob returns the bytes of a blob, read chunk by chunk. At the end they are
// checked against the blob's size and checksum: only who sees io.EOF has read
// what was stored. A blob that is deleted meanwhile may give an error. Bytes that this
// replica lacks come from another one (RepairWith), which the reader waits for.
func (db *DB) OpenBlob(shard spec.ShardID, app spec.AppName, blob Blob) io.ReadCloser {
	return db.readFrom(db, func() {}, shard, app, blob)
}

func (db *DB) readFrom(from chunkReader, release func(), shard spec.ShardID, app spec.AppName, blob Blob) *blobReader {
	return &blobReader{chunks: chunks{db: db, from: from, shard: shard, name: BlobName{app, blob.ID}}, release: release, blob: blob}
}

// OpenBlob is DB.OpenBlob as of the snapshot, which it takes over: the snapshot is
// closed when the bytes have been read or the reader is closed. A reader that is
// slower than Options.HoldReads loses it, and goes on as one of DB.OpenBlob: what
// was deleted must not take up the disk for as long as a client likes.
func (s *Snapshot) OpenBlob(shard spec.ShardID, app spec.AppName, blob Blob) io.ReadCloser {
	h := s.db.holds.take(s)
	return s.db.readFrom(h, h.end, shard, app, blob)
}

// ReadBlob returns the bytes of a blob, checked.
func (db *DB) ReadBlob(shard spec.ShardID, app spec.AppName, blob Blob) ([]byte, error) {
	return db.ReadBlobTo(nil, shard, app, blob)
}

// ReadBlobTo is ReadBlob into the memory behind dst, if its capacity is enough.
func (db *DB) ReadBlobTo(dst []byte, shard spec.ShardID, app spec.AppName, blob Blob) ([]byte, error) {
	return readBlob(db, db, dst, shard, app, blob)
}

// ReadBlob is DB.ReadBlob as of the snapshot.
func (s *Snapshot) ReadBlob(shard spec.ShardID, app spec.AppName, blob Blob) ([]byte, error) {
	return readBlob(s.db, s, nil, shard, app, blob)
}

func readBlob(db *DB, from chunkReader, dst []byte, shard spec.ShardID, app spec.AppName, blob Blob) ([]byte, error) {
	if err := checkBlob(blob); err != nil {
		return nil, err
	}
	out := dst[:0]
	if int64(cap(out)) < blob.Size {
		out = make([]byte, 0, blob.Size)
	}
	r := db.readFrom(from, func() {}, shard, app, blob)
	for {
		// Each chunk is unpacked to where it is to be. A damaged one may need more room
		// than is left there: it is found out, and what holds it is dropped.
		r.buf = out[len(out):]
		err := r.nextChunk()
		if err == io.EOF {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
		out = out[:len(out)+len(r.chunk)]
	}
}

// checkBlob refuses a blob whose chunks can't have its size, so that the size can
// be trusted as a bound.
func checkBlob(b Blob) error {
	if b.Size < 0 || (b.Size+blobChunkBytes-1)/blobChunkBytes != int64(b.Chunks) {
		return fmt.Errorf("store: blob %x: %d bytes can't be in %d chunks", b.ID, b.Size, b.Chunks)
	}
	return nil
}

type chunkReader interface {
	GetTo(dst, key []byte) ([]byte, error)
}

type blobReader struct {
	chunks  chunks
	release func() // when nothing more is read; may be called again
	blob    Blob
	next    uint32
	read    int64
	crc     uint32
	stored  []byte
	buf     []byte // the chunk, whole
	chunk   []byte // what of it is not handed out yet
	err     error
}

func (r *blobReader) Read(p []byte) (int, error) {
	for len(r.chunk) == 0 {
		if r.err == nil {
			r.err = r.nextChunk()
		}
		if r.err != nil {
			return 0, r.err
		}
	}
	n := copy(p, r.chunk)
	r.chunk = r.chunk[n:]
	return n, nil
}

// WriteTo saves io.Copy a buffer.
func (r *blobReader) WriteTo(w io.Writer) (written int64, err error) {
	for {
		if len(r.chunk) == 0 && r.err == nil {
			r.err = r.nextChunk()
		}
		if r.err == io.EOF {
			return written, nil
		}
		if r.err != nil {
			return written, r.err
		}
		n, err := w.Write(r.chunk)
		written += int64(n)
		r.chunk = r.chunk[n:]
		if err != nil {
			return written, err
		}
	}
}

var errBlobClosed = errors.New("store: the blob is closed")

func (r *blobReader) Close() error {
	r.release()
	r.chunk, r.buf, r.stored, r.err = nil, nil, nil, errBlobClosed
	return nil
}

// nextChunk reads the next chunk, or checks the whole and returns io.EOF.
func (r *blobReader) nextChunk() error {
	if r.next == 0 {
		if err := checkBlob(r.blob); err != nil {
			return err
		}
	}
	if r.next == r.blob.Chunks {
		if r.crc != r.blob.CRC {
			return r.fault(errors.New("the checksum differs, the bytes are damaged"))
		}
		return io.EOF
	}
	into := r.stored[:0]
	if r.blob.Codec == CodecNone { // as it is stored, so is it read to where it is to be
		into = r.buf[:0]
	}
	c := &r.chunks
	stored, err := c.read(into, r.next)
	if errors.Is(err, ErrNotFound) {
		if err = c.db.RepairBlob(context.Background(), c.shard, c.name.App, r.blob); err == nil {
			r.release() // no snapshot of before has what was brought here
			c.from, c.known = c.db, false
			stored, err = c.read(into, r.next)
		}
	}
	if err != nil {
		return r.fault(err)
	}
	if r.blob.Codec == CodecNone {
		r.buf = stored
	} else {
		r.stored = stored
		if r.buf, err = unpack(r.blob.Codec, r.buf, stored); err != nil {
			return r.fault(err)
		}
	}
	if want := min(blobChunkBytes, r.blob.Size-r.read); int64(len(r.buf)) != want {
		return r.fault(fmt.Errorf("%d bytes where %d were stored", len(r.buf), want))
	}
	r.crc = crc32.Update(r.crc, castagnoli, r.buf)
	r.read += int64(len(r.buf))
	r.next++
	r.chunk = r.buf
	if r.next == r.blob.Chunks {
		r.release()
	}
	return nil
}

func (r *blobReader) fault(err error) error {
	return fmt.Errorf("store: blob %x of shard %d, chunk %d of %d: %w", r.blob.ID, r.chunks.shard, r.next, r.blob.Chunks, err)
}

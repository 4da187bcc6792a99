package store

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/cespare/xxhash/v2"
	"github.com/klauspost/compress/zstd"

	"github.com/pheromone-run/pheromone/spec"
)

// A range snapshot is a magic word, then, compressed with zstd: the shard (4
// bytes), a frame for each key, an end frame, and the xxhash64 of all that (8
// bytes, big-endian). A frame is the length of the key plus one, the key without
// its shard, the length of the value, the value; the end frame is a zero. The
// last byte of the magic word is the version. Where the chunks of a blob are on this
// replica is not told: what says so is hereWhole, and each chunk has a frame, behind that.
const snapshotMagic = "PHRANGE\x01"

const (
	maxSnapshotKeyBytes   = 16 << 10
	maxSnapshotValueBytes = 1 << 30
	// maxSnapshotWindow bounds the memory that a stream can ask its reader for.
	maxSnapshotWindow = 8 << 20
	restoreBatchBytes = 1 << 20
)

// WriteSnapshot writes the range of shard as of the snapshot, staged blobs too:
// entries after the snapshot may refer to them. Blobs whose chunks are coming in
// are left out. A blob that this replica lacks is lacking in it, and known to be.
func (s *Snapshot) WriteSnapshot(w io.Writer, shard spec.ShardID) error {
	if _, err := s.Meta(shard); err != nil {
		return fmt.Errorf("store: write snapshot: %w", err)
	}
	if err := s.writeSnapshot(w, shard); err != nil {
		return fmt.Errorf("store: write snapshot of shard %d: %w", shard, err)
	}
	return nil
}

func (s *Snapshot) writeSnapshot(w io.Writer, shard spec.ShardID) error {
	if _, err := io.WriteString(w, snapshotMagic); err != nil {
		return err
	}
	z, err := zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(1<<20))
	if err != nil {
		return err
	}
	buffered := bufio.NewWriterSize(z, 64<<10)
	sum := xxhash.New()
	out := io.MultiWriter(buffered, sum)
	var head []byte
	write := func(parts ...[]byte) {
		for _, part := range parts {
			if err == nil {
				_, err = out.Write(part)
			}
		}
	}
	write(AppendShardPrefix(nil, shard))
	frame := func(key, value []byte) error {
		key = key[4:]
		head = binary.AppendUvarint(head[:0], uint64(len(key))+1)
		write(head, key)
		head = binary.AppendUvarint(head[:0], uint64(len(value)))
		write(head, value)
		return err
	}
	lower, upper := ShardRange(shard)
	arriving := map[BlobName]bool{}
	scanErr := s.Scan(lower, upper, func(key, value []byte) bool {
		if arrives(arriving, key, value) {
			return true
		}
		if table(key[4]) == tableBlobHere {
			value = []byte{hereWhole}
		}
		return frame(key, value) == nil
	})
	if scanErr == nil && err == nil {
		scanErr = s.eachLogged(shard, frame)
	}
	write([]byte{0})
	if err := errors.Join(scanErr, err); err != nil {
		z.Reset(io.Discard)
		return errors.Join(err, z.Close())
	}
	if _, err := buffered.Write(sum.Sum(nil)); err != nil {
		return err
	}
	return errors.Join(buffered.Flush(), z.Close())
}

// eachLogged calls fn for the chunks of shard that are in the log of bytes, with the keys
// that they have in a snapshot.
func (s *Snapshot) eachLogged(shard spec.ShardID, fn func(key, stored []byte) error) error {
	var fault error
	lower, upper := Bounds(appendTable(nil, shard, tableBlobHere))
	err := s.Scan(lower, upper, func(key, value []byte) bool {
		if len(value) == 0 || value[0] != hereLogged {
			return true
		}
		var name BlobName
		if name, fault = blobOf(key, tableBlobHere); fault == nil {
			fault = s.eachChunk(shard, name, fn)
		}
		return fault == nil
	})
	return errors.Join(err, fault)
}

// arrives tells whether a key is of a blob that is coming in. What says so stands
// before the chunks.
func arrives(arriving map[BlobName]bool, key, value []byte) bool {
	switch t := table(key[4]); t {
	case tableBlobHere:
		if isWhole(value) {
			return false
		}
		name, err := blobOf(key, t)
		arriving[name] = err == nil
		return true
	case tableStaged, tableBlobChunk:
		if len(arriving) == 0 {
			return false
		}
		name, err := blobOf(key, t)
		return err == nil && arriving[name]
	}
	return false
}

// ReadSnapshot replaces the range of shard by the one in r, syncs and returns its
// meta. On an error, or a crash before it returns, the range is neither: Meta then
// returns ErrRestoring until another ReadSnapshot has come to its end.
//
// Blobs that are staged here stay: entries that refer to them may follow. So do the
// bytes of those that are still referred to: the other replica may lack them.
func (db *DB) ReadSnapshot(r io.Reader, shard spec.ShardID) (ShardMeta, error) {
	restore := &restore{db: db, shard: shard}
	meta, err := restore.run(r)
	if err != nil {
		return ShardMeta{}, fmt.Errorf("store: restore shard %d from a snapshot: %w", shard, err)
	}
	return meta, nil
}

// frames reads the frames of a snapshot and checks the sum at their end.
type frames struct {
	z          *zstd.Decoder
	r          *bufio.Reader
	sum        hash.Hash64
	key, value bytes.Buffer
	head       []byte
}

func openFrames(r io.Reader, shard spec.ShardID) (*frames, error) {
	magic := make([]byte, len(snapshotMagic))
	if _, err := io.ReadFull(r, magic); err != nil {
		return nil, cutShort(err)
	}
	if n := len(magic) - 1; string(magic[:n]) != snapshotMagic[:n] {
		return nil, errors.New("this is not a snapshot of a range")
	} else if magic[n] != snapshotMagic[n] {
		return nil, fmt.Errorf("the snapshot has version %d, this version of pheromone knows %d", magic[n], snapshotMagic[n])
	}
	z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxSnapshotWindow))
	if err != nil {
		return nil, err
	}
	f := &frames{z: z, r: bufio.NewReaderSize(z, 64<<10), sum: xxhash.New()}
	var prefix [4]byte
	if _, err := io.ReadFull(f.r, prefix[:]); err != nil {
		z.Close()
		return nil, cutShort(err)
	}
	_, _ = f.sum.Write(prefix[:])
	if of := binary.BigEndian.Uint32(prefix[:]); uint64(of) != uint64(shard) {
		z.Close()
		return nil, fmt.Errorf("the snapshot is of shard %d", of)
	}
	return f, nil
}

func (f *frames) close() { f.z.Close() }

// next returns the next key, without its shard, and its value, valid until the
// next call; io.EOF once the end frame is read and the sum is right.
func (f *frames) next() (key, value []byte, err error) {
	n, err := f.length()
	if err != nil {
		return nil, nil, err
	}
	if n == 0 {
		return nil, nil, f.end()
	}
	if n == 1 || n-1 > maxSnapshotKeyBytes {
		return nil, nil, fmt.Errorf("a key of %d bytes", n-1)
	}
	if err := f.fill(&f.key, n-1); err != nil {
		return nil, nil, err
	}
	if n, err = f.length(); err != nil {
		return nil, nil, err
	}
	if n > maxSnapshotValueBytes {
		return nil, nil, fmt.Errorf("a value of %d bytes", n)
	}
	if err := f.fill(&f.value, n); err != nil {
		return nil, nil, err
	}
	return f.key.Bytes(), f.value.Bytes(), nil
}

func (f *frames) length() (uint64, error) {
	n, err := binary.ReadUvarint(f.r)
	if err != nil {
		return 0, cutShort(err)
	}
	f.head = binary.AppendUvarint(f.head[:0], n)
	_, _ = f.sum.Write(f.head)
	return n, nil
}

// fill grows the buffer as bytes come, so that a length alone allocates nothing.
func (f *frames) fill(into *bytes.Buffer, n uint64) error {
	into.Reset()
	if _, err := io.CopyN(into, f.r, int64(n)); err != nil {
		return cutShort(err)
	}
	_, _ = f.sum.Write(into.Bytes())
	return nil
}

func (f *frames) end() error {
	var want [8]byte
	if _, err := io.ReadFull(f.r, want[:]); err != nil {
		return cutShort(err)
	}
	if binary.BigEndian.Uint64(want[:]) != f.sum.Sum64() {
		return errors.New("the snapshot's checksum differs, its bytes are damaged")
	}
	if _, err := f.r.ReadByte(); err != io.EOF {
		return errors.New("the snapshot goes on behind its end")
	}
	return io.EOF
}

func cutShort(err error) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return errors.New("the snapshot is cut short")
	}
	return err
}

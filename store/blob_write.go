package store

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/pheromone-run/pheromone/spec"
)

// NewBlob describes bytes that WriteBlob will stage: an entry that adopts the blob can
// be made while they are written. It takes as long as SHA-256 of them.
func (db *DB) NewBlob(data []byte) Blob {
	sum := sha256.Sum256(data)
	b := Blob{
		ID:     NewBlobID(Micros(db.now().UnixMicro())),
		Size:   int64(len(data)),
		Chunks: uint32((len(data) + blobChunkBytes - 1) / blobChunkBytes),
		Codec:  codecFor(data[:min(len(data), codecSample)]),
		CRC:    crc32.Checksum(data, castagnoli),
	}
	copy(b.Sum[:], sum[:])
	return b
}

// WriteBlob stages a blob of NewBlob, as StageBlob does with one that it makes. data
// must not change meanwhile.
func (db *DB) WriteBlob(ctx context.Context, shard spec.ShardID, app spec.AppName, blob Blob, data []byte) error {
	db.staging.add(blob.ID, workStaged)
	err := db.write(ctx, shard, app, blob, data)
	if err != nil {
		if discardErr := db.DiscardBlob(shard, app, blob); discardErr != nil && db.Err() == nil {
			err = errors.Join(err, discardErr)
		}
	}
	return err
}

func (db *DB) write(ctx context.Context, shard spec.ShardID, app spec.AppName, blob Blob, data []byte) error {
	chunks := db.writeChunks(shard, BlobName{app, blob.ID})
	defer chunks.end()
	chunks.mark(db.identity.Node)
	if err := chunks.begin(); err != nil {
		return err
	}
	packer := packer{codec: blob.Codec}
	for n, rest := uint32(0), data; n < blob.Chunks; n++ {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("store: stage a blob: %w", context.Cause(ctx))
		}
		chunk := rest[:min(blobChunkBytes, len(rest))]
		rest = rest[len(chunk):]
		if err := chunks.put(packer.pack(chunk)); err != nil {
			return err
		}
	}
	return chunks.finish()
}

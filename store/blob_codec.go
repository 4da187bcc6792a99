package store

import (
	"fmt"
	"slices"

	"github.com/klauspost/compress/s2"
)

// packWorth is the part of the first chunk, one in packWorth, that compression
// has to save for the blob to be compressed.
const packWorth = 8

// packer compresses the chunks of one blob, with s2: objects are written once and
// read a few times within the hour, and zstd takes four times the work for less
// than twice the effect.
type packer struct {
	codec Codec
	buf   []byte
}

// first decides by the first chunk, and returns it as it is stored, valid until the
// next call.
func (p *packer) first(chunk []byte) []byte {
	packed := p.encode(chunk)
	if !worthPacking(chunk, packed) {
		p.codec = CodecNone
		return chunk
	}
	p.codec = CodecS2
	return packed
}

func worthPacking(chunk, packed []byte) bool {
	saved := len(chunk) - len(packed)
	return saved > 0 && saved >= len(chunk)/packWorth
}

// codecSample is how much of a blob is packed to find out whether that pays, while
// others wait for it.
const codecSample = 64 << 10

func codecFor(sample []byte) Codec {
	var p packer
	p.first(sample)
	return p.codec
}

// pack returns a later chunk as it is stored, valid until the next call.
func (p *packer) pack(chunk []byte) []byte {
	if p.codec == CodecNone {
		return chunk
	}
	return p.encode(chunk)
}

func (p *packer) encode(chunk []byte) []byte {
	p.buf = s2.Encode(p.buf[:cap(p.buf)], chunk)
	return p.buf
}

// unpack writes the chunk stored as src over dst, which grows if need be, and
// never beyond a chunk.
func unpack(codec Codec, dst, src []byte) ([]byte, error) {
	switch codec {
	case CodecNone:
		return append(dst[:0], src...), nil
	case CodecS2:
		n, err := s2.DecodedLen(src)
		if err != nil {
			return nil, err
		}
		if n > blobChunkBytes {
			return nil, fmt.Errorf("%d bytes are more than a chunk", n)
		}
		return s2.Decode(slices.Grow(dst[:0], n)[:n], src)
	}
	return nil, fmt.Errorf("unknown codec %d", codec)
}

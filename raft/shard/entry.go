package shard

import (
	"encoding/binary"
	"fmt"
	"slices"
)

// An entry is kind, epoch, seq and, of a batch, the batch's bytes. The numbers
// are big-endian. Neither may change: entries live in logs.
const (
	kindClaim byte = 1
	kindBatch byte = 2

	headerBytes = 1 + 8 + 8
)

type entry struct {
	kind  byte
	epoch uint64
	seq   uint64
	body  []byte
}

func (e entry) encode() []byte { return e.append(nil) }

func (e entry) append(dst []byte) []byte {
	dst = append(slices.Grow(dst, headerBytes+len(e.body)), e.kind)
	dst = binary.BigEndian.AppendUint64(dst, e.epoch)
	dst = binary.BigEndian.AppendUint64(dst, e.seq)
	return append(dst, e.body...)
}

// decodeEntry reads any bytes; body aliases them. What it can't read is an entry
// of kind 0, which the fence refuses.
func decodeEntry(b []byte) entry {
	if len(b) < headerBytes {
		return entry{}
	}
	return entry{
		kind:  b[0],
		epoch: binary.BigEndian.Uint64(b[1:]),
		seq:   binary.BigEndian.Uint64(b[9:]),
		body:  b[headerBytes:],
	}
}

// verdict is what the fence says about an entry.
type verdict uint64

const (
	verdictUnknown   verdict = iota // no entry of ours
	verdictClaimed                  // a new epoch has begun
	verdictClaimLost                // a claim of an epoch that is not above the current one
	verdictApplied
	verdictStale // of another epoch than the current one
	verdictGap   // an entry before it was dropped, or it came twice
	verdictMalformed
)

var verdictNames = [...]string{
	"unknown kind", "claimed", "claim lost", "applied", "stale epoch", "gap in sequence", "malformed batch",
}

func (v verdict) String() string {
	if v < verdict(len(verdictNames)) {
		return verdictNames[v]
	}
	return fmt.Sprintf("verdict %d", uint64(v))
}

// previous is what a claim found: the epoch before and the last seq applied in it.
type previous struct{ epoch, seq uint64 }

func (p previous) encode() []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, p.epoch), p.seq)
}

func decodePrevious(b []byte) (previous, bool) {
	if len(b) != 16 {
		return previous{}, false
	}
	return previous{binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:])}, true
}

// An epoch is the raft term of its leader and a counter of the claims in that
// term, so that one leader can claim again within a term and no two replicas
// ever claim the same epoch.
const epochCounterBits = 20

func makeEpoch(term, counter uint64) uint64 { return term<<epochCounterBits | counter }

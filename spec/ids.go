package spec

import (
	"crypto/rand"
	"encoding/binary"
	"strconv"
	"strings"
	"time"

	"github.com/cespare/xxhash/v2"
)

type (
	// AppName, FunctionName, BucketName and TriggerName are made of lower-case
	// letters, digits, '-' and '_', start with a letter and have at most 63 bytes.
	AppName      string
	FunctionName string
	BucketName   string
	TriggerName  string
	// Key names an object in a bucket: 1 to MaxKeyBytes bytes of UTF-8 without
	// control characters. '/' and '.' have no meaning of their own.
	Key string
	// SessionID names one run of a workflow, made by the server or by the user.
	SessionID string
	// Revision numbers the objects stored on a shard, from 1.
	Revision uint64
	// ShardID numbers the raft groups, from 1.
	ShardID uint64
	// Slot is the unit of placement: the control group maps slots to shards.
	Slot uint16
)

const (
	// Slots is the number of slots, for ever.
	Slots = 4096

	MaxNameBytes      = 63
	MaxKeyBytes       = 1024
	MaxSessionIDBytes = 128
)

// InvocationID names one invocation: the session it belongs to and its number
// there, counted from 1. Its text form is "session.number".
type InvocationID struct {
	Session SessionID
	Number  uint64
}

func (id InvocationID) String() string {
	return string(id.Session) + "." + strconv.FormatUint(id.Number, 10)
}

// Session ids made by the server are 's', nine base-32 digits of milliseconds
// (so that they sort by age), three of the slot and ten random ones.
const (
	idAlphabet  = "0123456789abcdefghjkmnpqrstvwxyz"
	timeDigits  = 9
	slotDigits  = 3
	randDigits  = 10
	madeIDBytes = 1 + timeDigits + slotDigits + randDigits
)

// NewSessionID makes an id that is placed on slot.
func NewSessionID(slot Slot, now time.Time) SessionID {
	var random [8]byte
	if _, err := rand.Read(random[:]); err != nil {
		panic("spec: no randomness: " + err.Error()) // crypto/rand never fails on supported systems
	}
	return sessionID(slot, now, binary.LittleEndian.Uint64(random[:]))
}

func sessionID(slot Slot, now time.Time, distinct uint64) SessionID {
	out := make([]byte, madeIDBytes)
	out[0] = 's'
	put32(out[1:1+timeDigits], uint64(now.UnixMilli()))
	put32(out[1+timeDigits:1+timeDigits+slotDigits], uint64(slot))
	put32(out[1+timeDigits+slotDigits:], distinct)
	return SessionID(out)
}

// ChildSessionID names the session that an invocation starts with its emission of
// this number: the same one for every attempt. at is when the invocation was queued.
func ChildSessionID(parent InvocationID, emission uint64, at time.Time) SessionID {
	var h xxhash.Digest
	h.Reset()
	_, _ = h.WriteString(parent.String() + "/" + strconv.FormatUint(emission, 10))
	sum := h.Sum64()
	_, _ = h.WriteString("slot") // apart from the digits that tell children from one another
	return sessionID(Slot(h.Sum64()%Slots), at, sum)
}

func put32(out []byte, v uint64) {
	for i := len(out) - 1; i >= 0; i-- {
		out[i] = idAlphabet[v&31]
		v >>= 5
	}
}

// SessionSlot returns the slot that session is placed on: the one written in an
// id made by the server, the hash of any other.
func SessionSlot(app AppName, session SessionID) Slot {
	if len(session) == madeIDBytes && session[0] == 's' {
		var v uint64
		for i := 1; i < madeIDBytes; i++ {
			d := strings.IndexByte(idAlphabet, session[i])
			if d < 0 {
				return hashSlot(string(app), string(session))
			}
			if i > timeDigits && i <= timeDigits+slotDigits {
				v = v<<5 | uint64(d)
			}
		}
		if v < Slots {
			return Slot(v)
		}
	}
	return hashSlot(string(app), string(session))
}

// KeySlot returns the slot of a key-value object.
func KeySlot(app AppName, bucket BucketName, key Key) Slot {
	return hashSlot(string(app), string(bucket), string(key))
}

// BucketSlot returns the slot of the triggers of scope bucket on a bucket.
func BucketSlot(app AppName, bucket BucketName) Slot {
	return hashSlot(string(app), string(bucket))
}

func hashSlot(parts ...string) Slot {
	var h xxhash.Digest
	h.Reset()
	for _, p := range parts {
		_, _ = h.WriteString(p)
		_, _ = h.Write([]byte{0}) // names and keys hold no NUL, so parts can't run together
	}
	return Slot(h.Sum64() % Slots)
}

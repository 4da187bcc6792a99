package leader

import (
	"encoding/binary"
	"fmt"

	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/store"
)

// A message on its way to another node is a version, three numbers, and the record
// that the outbox has of it. The bytes of a blob travel beside it.
const (
	mailVersion = 1
	// MaxMailBytes bounds a message: it was in an entry.
	MaxMailBytes = MaxEntryBytes
)

// AppendMail appends a message as it goes to another node.
func AppendMail(dst []byte, m *Mail) []byte {
	dst = append(dst, mailVersion)
	dst = binary.AppendUvarint(dst, uint64(m.From))
	dst = binary.AppendUvarint(dst, m.Sequence)
	dst = binary.AppendUvarint(dst, m.Unacknowledged)
	return store.AppendMail(dst, &m.Mail)
}

// DecodeMail reads a message of another node. What it returns refers to src.
func DecodeMail(src []byte) (Mail, error) {
	if len(src) > MaxMailBytes {
		return Mail{}, spec.Errorf(spec.CodeTooLarge, "a message of %d bytes came, at most %d are taken", len(src), MaxMailBytes)
	}
	if len(src) == 0 || src[0] != mailVersion {
		return Mail{}, spec.Errorf(spec.CodeUnsupported, "a message came that this version of pheromone does not know: bring all nodes to one release")
	}
	src = src[1:]
	var numbers [3]uint64
	for i := range numbers {
		n, size := binary.Uvarint(src)
		if size <= 0 {
			return Mail{}, spec.Errorf(spec.CodeInvalid, "a message came that is cut short")
		}
		numbers[i], src = n, src[size:]
	}
	if numbers[0] > uint64(store.MaxShard) {
		return Mail{}, spec.Errorf(spec.CodeInvalid, "a message came from shard %d, which can't be", numbers[0])
	}
	record, err := store.DecodeMail(src)
	if err != nil {
		return Mail{}, spec.Errorf(spec.CodeInvalid, "a message came that can't be read: %w", err)
	}
	m := Mail{From: spec.ShardID(numbers[0]), Sequence: numbers[1], Unacknowledged: numbers[2], Mail: record}
	if m.Sequence == 0 || m.Unacknowledged == 0 || m.Unacknowledged > m.Sequence {
		return Mail{}, spec.Errorf(spec.CodeInvalid, "a message came whose numbers can't be: %d, with %d not acknowledged", m.Sequence, m.Unacknowledged)
	}
	if b := m.Object.Blob; b != nil && (b.Size < 0 || b.Size > spec.MaxMaxObjectBytes || b.Size != m.Object.Size) {
		return Mail{}, fmt.Errorf("message %d: %w", m.Sequence, spec.Errorf(spec.CodeInvalid, "its object is said to have %d bytes and %d", m.Object.Size, b.Size))
	}
	return m, nil
}

package protocol

import (
	"encoding/binary"
	"fmt"
)

// Tag names a field.
type Tag uint8

// The tags. A field is its tag, a zero byte, the length of its value (16 bits)
// and the value. Fields before the first Object describe the attempt, those
// after it the object that it opened.
const (
	TagSession      Tag = 1
	TagNumber       Tag = 2 // of the invocation in its session
	TagAttempt      Tag = 3
	TagTimeout      Tag = 4 // nanoseconds from now; of a START: of the child session
	TagBucket       Tag = 5
	TagTrigger      Tag = 6
	TagGroup        Tag = 7
	TagWindow       Tag = 8 // nanoseconds since 1970
	TagTraceparent  Tag = 9
	TagObject       Tag = 10 // a Descriptor
	TagKey          Tag = 11
	TagContentType  Tag = 12
	TagMeta         Tag = 13 // length of the name (16 bits), name, value
	TagDeliverAfter Tag = 14 // nanoseconds
	TagMaxObject    Tag = 15 // bytes
	TagFunction     Tag = 16 // that a child session starts with
	TagDeleted      Tag = 17 // no value: the object stands for its deletion
)

// The kinds of a Descriptor: where the bytes of an object are.
const (
	KindInline uint8 = 0 // in the payload of the frame
	KindInput  uint8 = 1 // in the memory that the node writes (InputFD)
	KindOutput uint8 = 2 // in the memory that the process writes (OutputFD)
)

// DescriptorBytes is the size of an encoded Descriptor.
const DescriptorBytes = 20

// Descriptor says where the bytes of an object are: Offset counts from the start
// of the payload, or of the memory that its kind names.
type Descriptor struct {
	Kind   uint8
	Offset uint64
	Length uint64
}

// AppendField appends a field to b. The value has at most 65,535 bytes: longer
// ones are a fault of the caller.
func AppendField[T ~string | ~[]byte](b []byte, tag Tag, value T) []byte {
	if len(value) > 1<<16-1 {
		panic(fmt.Sprintf("protocol: field %d of %d bytes", tag, len(value)))
	}
	b = append(b, uint8(tag), 0)
	b = binary.LittleEndian.AppendUint16(b, uint16(len(value)))
	return append(b, value...)
}

// AppendUint appends a number as a field of eight bytes.
func AppendUint(b []byte, tag Tag, v uint64) []byte {
	b = append(b, uint8(tag), 0, 8, 0)
	return binary.LittleEndian.AppendUint64(b, v)
}

// AppendMeta appends one metadata field.
func AppendMeta(b []byte, name, value string) []byte {
	b = append(b, uint8(TagMeta), 0)
	b = binary.LittleEndian.AppendUint16(b, uint16(2+len(name)+len(value)))
	b = binary.LittleEndian.AppendUint16(b, uint16(len(name)))
	return append(append(b, name...), value...)
}

// MaxMetaFieldBytes is how much a field can hold of the name and value of one
// metadata field together; an object may have less.
const MaxMetaFieldBytes = 1<<16 - 3

// AppendObject appends the field that opens an object.
func AppendObject(b []byte, d Descriptor) []byte {
	b = append(b, uint8(TagObject), 0, DescriptorBytes, 0)
	b = append(b, d.Kind, 0, 0, 0)
	b = binary.LittleEndian.AppendUint64(b, d.Offset)
	return binary.LittleEndian.AppendUint64(b, d.Length)
}

// NextField returns the first field of b and what follows it.
func NextField(b []byte) (tag Tag, value, rest []byte, err error) {
	if len(b) < 4 {
		return 0, nil, nil, Violation(fmt.Sprintf("%d stray bytes after the last field", len(b)))
	}
	n := int(binary.LittleEndian.Uint16(b[2:]))
	if b[1] != 0 || len(b) < 4+n {
		return 0, nil, nil, Violation(fmt.Sprintf("field %d claims %d bytes, %d are left", b[0], n, len(b)-4))
	}
	return Tag(b[0]), b[4 : 4+n], b[4+n:], nil
}

// Uint decodes the value of a number field.
func Uint(tag Tag, value []byte) (uint64, error) {
	if len(value) != 8 {
		return 0, Violation(fmt.Sprintf("field %d has %d bytes, a number has 8", tag, len(value)))
	}
	return binary.LittleEndian.Uint64(value), nil
}

// Meta decodes the value of a metadata field.
func Meta(value []byte) (name, content string, err error) {
	if len(value) >= 2 {
		if n := int(binary.LittleEndian.Uint16(value)); n <= len(value)-2 {
			return string(value[2 : 2+n]), string(value[2+n:]), nil
		}
	}
	return "", "", Violation("a metadata field is cut short")
}

// ParseDescriptor decodes the value of an Object field.
func ParseDescriptor(value []byte) (Descriptor, error) {
	if len(value) != DescriptorBytes {
		return Descriptor{}, Violation(fmt.Sprintf("an object descriptor of %d bytes, it has %d", len(value), DescriptorBytes))
	}
	return Descriptor{
		Kind: value[0], Offset: binary.LittleEndian.Uint64(value[4:]), Length: binary.LittleEndian.Uint64(value[12:]),
	}, nil
}

// Within returns the bytes that d describes of memory, which is the payload or
// the memory that d's kind names.
func (d Descriptor) Within(memory []byte) ([]byte, error) {
	size := uint64(len(memory))
	if d.Offset > size || d.Length > size-d.Offset {
		where := "a payload"
		if d.Kind != KindInline {
			where = "shared memory"
		}
		return nil, Violation(fmt.Sprintf("an object at %d of %d bytes in %s of %d", d.Offset, d.Length, where, size))
	}
	return memory[d.Offset : d.Offset+d.Length : d.Offset+d.Length], nil
}

// Unsupported is the Violation of a descriptor whose kind was not agreed upon.
func (d Descriptor) Unsupported() error {
	return Violation(fmt.Sprintf("object kind %d is not supported", d.Kind))
}

// Object decodes the value of an Object field and returns the object's bytes
// within payload: shared memory was not agreed upon.
func Object(value, payload []byte) ([]byte, error) {
	d, err := ParseDescriptor(value)
	if err != nil {
		return nil, err
	}
	if d.Kind != KindInline {
		return nil, d.Unsupported()
	}
	return d.Within(payload)
}

package protocol

// copyBelow is the payload size under which bytes are copied into the batch
// rather than given to the kernel as a part of their own.
const copyBelow = 16 << 10

// Batch collects frames that leave together. The zero value is empty.
type Batch struct {
	parts [][]byte // finished parts, in order
	tail  []byte   // the part being filled
	bytes int
}

// Add appends a frame. The header's lengths are filled in here. Payloads from 16
// KiB on are not copied: they must stay as they are until the batch is written.
func (b *Batch) Add(h Header, fields []byte, payload ...[]byte) {
	size := len(fields)
	for _, p := range payload {
		size += len(p)
	}
	h.FieldBytes, h.BodyBytes = uint32(len(fields)), uint32(size)
	b.bytes += HeaderBytes + size
	b.tail = append(h.Append(b.tail), fields...)
	for _, p := range payload {
		if len(p) < copyBelow {
			b.tail = append(b.tail, p...)
			continue
		}
		b.parts = append(b.parts, b.tail, p)
		b.tail = nil
	}
}

// Bytes is the size of what the batch holds.
func (b *Batch) Bytes() int { return b.bytes }

// Parts returns what the batch holds, to be written in this order.
func (b *Batch) Parts() [][]byte {
	if len(b.tail) == 0 {
		return b.parts
	}
	return append(b.parts, b.tail)
}

// Reset empties the batch. It keeps the memory for the next frames if nothing
// else refers to it, which the caller knows.
func (b *Batch) Reset(keep bool) {
	if keep && len(b.parts) == 0 && cap(b.tail) <= 4*readBuffer {
		*b = Batch{tail: b.tail[:0]}
		return
	}
	*b = Batch{}
}

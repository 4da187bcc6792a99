package bytelog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
)

// Segment is a sealed one.
type Segment struct {
	Number uint64
	Bytes  int64 // of its file
}

// Sealed lists the segments that take no more records, oldest first.
func (l *Log) Sealed() []Segment {
	l.mu.Lock()
	defer l.mu.Unlock()
	var list []Segment
	for number, s := range l.mu.segments {
		if s != l.mu.active {
			list = append(list, Segment{number, s.size})
		}
	}
	slices.SortFunc(list, func(a, b Segment) int { return int(int64(a.Number - b.Number)) })
	return list
}

// Bytes is how much all segments take on the disk.
func (l *Log) Bytes() (n int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.mu.segments {
		n += s.size
	}
	return n
}

// Each calls fn for each record of a segment, in order, until fn returns an error, which
// it then returns. Only heads and names are read. A record that was cut short by a crash,
// or never reached the disk, is the end: nothing behind it was synced.
func (l *Log) Each(number uint64, fn func(name []byte, p Place) error) error {
	s, err := l.hold(number)
	if err != nil {
		return err
	}
	defer l.letGo(s)
	l.mu.Lock()
	size := s.size
	l.mu.Unlock()
	var head [headSize]byte
	var name []byte
	for at := int64(0); at+headSize <= size; {
		if err := readAt(s.file, head[:], at); err != nil {
			return fmt.Errorf("bytelog: segment %d at %d: %w", number, at, err)
		}
		length, bytes := binary.BigEndian.Uint32(head[4:]), binary.BigEndian.Uint32(head[8:])
		begin := at + headSize + int64(length)
		if binary.BigEndian.Uint32(head[:]) != magic || length > maxName || bytes > MaxBytes || begin+int64(bytes) > size {
			return nil
		}
		name = slices.Grow(name[:0], int(length))[:length]
		if err := readAt(s.file, name, at+headSize); err != nil {
			return fmt.Errorf("bytelog: segment %d at %d: %w", number, at, err)
		}
		sum := crc32.Update(crc32.Checksum(head[:12], castagnoli), castagnoli, name)
		if sum != binary.BigEndian.Uint32(head[12:]) {
			return nil
		}
		if err := fn(name, Place{number, begin, bytes}); err != nil {
			return err
		}
		at = begin + int64(bytes)
	}
	return nil
}

func readAt(r io.ReaderAt, b []byte, at int64) error {
	n, err := r.ReadAt(b, at)
	if n == len(b) {
		return nil
	}
	return err
}

// Remove removes a sealed segment. Who reads it reads on.
func (l *Log) Remove(number uint64) error {
	l.mu.Lock()
	s := l.mu.segments[number]
	if s == nil || s == l.mu.active {
		l.mu.Unlock()
		return errors.New("bytelog: only sealed segments are removed")
	}
	delete(l.mu.segments, number)
	l.mu.Unlock()
	l.letGo(s)
	if err := l.fs.Remove(l.path(number)); err != nil {
		return fmt.Errorf("bytelog: remove segment %d: %w", number, err)
	}
	return nil
}

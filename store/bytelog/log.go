package bytelog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2/vfs"
)

const (
	suffix   = ".bytes"
	headSize = 16
	magic    = 0x50484c31
	// maxName bounds a record's name, which is read before anything is known of it.
	maxName = 4 << 10
	// MaxBytes bounds a record's bytes.
	MaxBytes = 1 << 30
	// syncEvery has the disk begin with what was written before anybody waits for it.
	syncEvery = 1 << 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// ErrGone says that a place is in a segment that was removed.
var ErrGone = errors.New("bytelog: the segment is gone")

// ErrSync says that a sync failed. What was written before may be lost, though the next
// sync has no error to tell of: who meets it must not go on.
var ErrSync = errors.New("bytelog: a sync failed")

var errClosed = fmt.Errorf("bytelog: it is closed: %w", fs.ErrClosed)

// Place is where a record's bytes are.
type Place struct {
	Segment uint64
	Offset  int64
	Length  uint32
}

// Log is the segments in one folder. It is safe for concurrent use.
type Log struct {
	fs          vfs.FS
	dir         string
	segmentSize int64
	writing     sync.Mutex // records are written one behind the other

	mu struct {
		sync.Mutex
		segments map[uint64]*segment
		active   *segment // nil before the first record
		last     uint64   // the highest number there is or was
		closed   bool
	}
}

// segment is one file. Records are added while it is active, by who holds Log.writing.
type segment struct {
	number uint64
	file   vfs.File
	size   int64 // written; guarded by the log's mutex
	users  int   // who reads it, and the log itself; guarded by the log's mutex
	begun  int64 // what the disk was told to begin with; guarded by Log.writing

	syncing sync.Mutex
	synced  int64 // guarded by syncing
	fault   atomic.Pointer[error]
}

// failed notes that a sync failed, for whoever syncs later.
func (s *segment) failed(err error) error {
	err = fmt.Errorf("%w: segment %d: %w", ErrSync, s.number, err)
	s.fault.CompareAndSwap(nil, &err)
	return err
}

// fine returns the error of an earlier sync.
func (s *segment) fine() error {
	if f := s.fault.Load(); f != nil {
		return *f
	}
	return nil
}

// Open opens the log in a folder, and makes that if need be. Segments are sealed once
// they have segmentSize bytes.
func Open(disk vfs.FS, dir string, segmentSize int64) (*Log, error) {
	if err := disk.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("bytelog: make %s: %w", dir, err)
	}
	if err := syncDir(disk, disk.PathDir(dir)); err != nil {
		return nil, err
	}
	names, err := disk.List(dir)
	if err != nil {
		return nil, fmt.Errorf("bytelog: list %s: %w", dir, err)
	}
	l := &Log{fs: disk, dir: dir, segmentSize: segmentSize}
	l.mu.segments = make(map[uint64]*segment)
	for _, name := range names {
		number, err := strconv.ParseUint(strings.TrimSuffix(name, suffix), 10, 64)
		if err != nil || !strings.HasSuffix(name, suffix) {
			continue // not ours
		}
		s, err := l.openSegment(number)
		if err != nil {
			return nil, errors.Join(err, l.Close())
		}
		l.mu.segments[number] = s
		l.mu.last = max(l.mu.last, number)
	}
	return l, nil
}

func (l *Log) path(number uint64) string {
	return l.fs.PathJoin(l.dir, fmt.Sprintf("%020d%s", number, suffix))
}

func (l *Log) openSegment(number uint64) (*segment, error) {
	file, err := l.fs.Open(l.path(number), vfs.RandomReadsOption)
	if err != nil {
		return nil, fmt.Errorf("bytelog: open segment %d: %w", number, err)
	}
	info, err := file.Stat()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("bytelog: segment %d: %w", number, err), file.Close())
	}
	return &segment{number: number, file: file, size: info.Size(), synced: info.Size(), users: 1}, nil
}

// Append adds a record, which is durable once Sync of its place returns. The name says
// what the bytes are, for Each. Data is only read.
func (l *Log) Append(name, data []byte) (Place, error) {
	if len(name) > maxName || len(data) > MaxBytes {
		return Place{}, fmt.Errorf("bytelog: a record with a name of %d bytes and %d bytes is too large", len(name), len(data))
	}
	s, place, begin, err := l.write(name, data)
	if s == nil {
		return Place{}, err
	}
	defer l.letGo(s)
	if err != nil || begin == 0 {
		return place, err
	}
	if _, err := s.file.SyncTo(begin); err != nil {
		return Place{}, s.failed(err)
	}
	return place, nil
}

// write adds a record and returns its segment, held. The disk is to begin with that up to
// begin, unless it is 0.
func (l *Log) write(name, data []byte) (s *segment, place Place, begin int64, err error) {
	var room [headSize + 256]byte
	head := appendHead(room[:0], name, len(data))
	l.writing.Lock()
	defer l.writing.Unlock()
	s, at, err := l.activeSegment()
	if err != nil {
		return nil, Place{}, 0, err
	}
	if s.file.Fd() == vfs.InvalidFd {
		data = slices.Clone(data) // only files of the system leave what they write as it is
	}
	end := at
	for _, part := range [][]byte{head, data} {
		n, err := s.file.Write(part)
		end += int64(n)
		if err != nil {
			l.wrote(s, end, end > at) // a record that is cut short ends its segment
			return s, Place{}, 0, fmt.Errorf("bytelog: write to segment %d: %w", s.number, err)
		}
	}
	l.wrote(s, end, end >= l.segmentSize)
	if end-s.begun >= syncEvery {
		s.begun, begin = end, end
	}
	return s, Place{Segment: s.number, Offset: at + int64(len(head)), Length: uint32(len(data))}, begin, nil
}

// wrote notes the size of the segment that takes records, and whether it is full.
func (l *Log) wrote(s *segment, size int64, full bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s.size = size
	if full && l.mu.active == s {
		l.mu.active = nil
	}
}

func appendHead(dst, name []byte, bytes int) []byte {
	dst = binary.BigEndian.AppendUint32(dst, magic)
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(name)))
	dst = binary.BigEndian.AppendUint32(dst, uint32(bytes))
	sum := crc32.Update(crc32.Checksum(dst, castagnoli), castagnoli, name)
	return append(binary.BigEndian.AppendUint32(dst, sum), name...)
}

// activeSegment returns the one that takes records, held, and its size.
func (l *Log) activeSegment() (*segment, int64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.mu.closed {
		return nil, 0, errClosed
	}
	if s := l.mu.active; s != nil {
		s.users++
		return s, s.size, nil
	}
	number := l.mu.last + 1
	file, err := l.fs.Create(l.path(number), vfs.WriteCategoryUnspecified)
	if err != nil {
		return nil, 0, fmt.Errorf("bytelog: make segment %d: %w", number, err)
	}
	l.mu.last = number
	s := &segment{number: number, file: file, users: 2, synced: -1}
	l.mu.segments[number], l.mu.active = s, s
	return s, 0, nil
}

// Sync makes the record at a place durable. Those who come while one syncs share the
// next.
func (l *Log) Sync(p Place) error {
	s, err := l.hold(p.Segment)
	if err != nil {
		return err
	}
	defer l.letGo(s)
	s.syncing.Lock()
	defer s.syncing.Unlock()
	if err := s.fine(); err != nil {
		return err
	}
	if p.Offset+int64(p.Length) <= s.synced {
		return nil
	}
	l.mu.Lock()
	written := s.size
	l.mu.Unlock()
	if err := s.file.SyncData(); err != nil {
		return s.failed(err)
	}
	if s.synced < 0 { // its name is not durable yet
		if err := syncDir(l.fs, l.dir); err != nil {
			return s.failed(err)
		}
	}
	if err := s.fine(); err != nil {
		return err
	}
	s.synced = written
	return nil
}

func syncDir(disk vfs.FS, dir string) error {
	d, err := disk.OpenDir(dir)
	if err != nil {
		return fmt.Errorf("bytelog: open %s: %w", dir, err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("bytelog: sync %s: %w", dir, err)
	}
	return nil
}

// hold keeps a segment's file open until letGo, also if it is removed.
func (l *Log) hold(number uint64) (*segment, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.mu.closed {
		return nil, errClosed
	}
	s := l.mu.segments[number]
	if s == nil {
		return nil, fmt.Errorf("segment %d: %w", number, ErrGone)
	}
	s.users++
	return s, nil
}

func (l *Log) letGo(s *segment) {
	l.mu.Lock()
	s.users--
	last := s.users == 0
	l.mu.Unlock()
	if last {
		_ = s.file.Close() // nothing is written to it any more
	}
}

// Read appends the bytes at a place to dst. It is ErrGone if their segment was removed.
func (l *Log) Read(dst []byte, p Place) ([]byte, error) {
	s, err := l.hold(p.Segment)
	if err != nil {
		return dst, err
	}
	defer l.letGo(s)
	at := len(dst)
	dst = slices.Grow(dst, int(p.Length))[:at+int(p.Length)]
	if _, err := s.file.ReadAt(dst[at:], p.Offset); err != nil {
		return dst[:at], fmt.Errorf("bytelog: read %d bytes at %d of segment %d: %w", p.Length, p.Offset, p.Segment, err)
	}
	return dst, nil
}

// Close closes the files. What was not synced may be lost.
func (l *Log) Close() error {
	l.mu.Lock()
	all := l.mu.segments
	l.mu.segments, l.mu.active, l.mu.closed = nil, nil, true
	l.mu.Unlock()
	for _, s := range all {
		l.letGo(s)
	}
	return nil
}

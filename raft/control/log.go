package control

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/pheromone-run/pheromone/store"
)

// logStore keeps the raft log and the votes in the node's store, each write
// synced. A write that fails makes the store fail, which ends the process: a
// leader that can't write would keep its followers from electing another.
type logStore struct {
	db *store.DB

	mu struct {
		sync.Mutex
		first, last uint64 // 0 and 0 of an empty log
	}
}

var (
	_ raft.LogStore          = (*logStore)(nil)
	_ raft.StableStore       = (*logStore)(nil)
	_ raft.MonotonicLogStore = (*logStore)(nil)
)

// errNotFound has the text that hashicorp/raft compares with.
var errNotFound = errors.New("not found")

const (
	owner      = "raft/control"
	spaceLog   = 'l'
	spaceVotes = 's'
)

func logKey(index uint64) []byte {
	return binary.BigEndian.AppendUint64(store.AppendNodeKey(nil, owner, []byte{spaceLog}), index)
}

func voteKey(key []byte) []byte {
	return append(store.AppendNodeKey(nil, owner, []byte{spaceVotes}), key...)
}

// Exists tells whether a store holds the log of a group.
func Exists(db *store.DB) (bool, error) {
	found := false
	lower, upper := store.Bounds(store.AppendNodeKey(nil, owner, nil))
	err := db.Scan(lower, upper, func(_, _ []byte) bool {
		found = true
		return false
	})
	if err != nil {
		return false, fmt.Errorf("look for the control group's log: %w", err)
	}
	return found, nil
}

func openLog(db *store.DB) (*logStore, error) {
	l := &logStore{db: db}
	lower, upper := store.Bounds(store.AppendNodeKey(nil, owner, []byte{spaceLog}))
	edge := func(into *uint64) func(key, _ []byte) bool {
		return func(key, _ []byte) bool {
			*into = binary.BigEndian.Uint64(key[len(key)-8:])
			return false
		}
	}
	err := errors.Join(db.Scan(lower, upper, edge(&l.mu.first)), db.ScanReverse(lower, upper, edge(&l.mu.last)))
	if err != nil {
		return nil, fmt.Errorf("open the control group's log: %w", err)
	}
	return l, nil
}

// IsMonotonic says that the log has no gaps: raft deletes all of it when it
// restores a snapshot from a leader.
func (l *logStore) IsMonotonic() bool { return true }

func (l *logStore) FirstIndex() (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mu.first, nil
}

func (l *logStore) LastIndex() (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mu.last, nil
}

func (l *logStore) GetLog(index uint64, into *raft.Log) error {
	value, err := l.db.Get(logKey(index))
	if errors.Is(err, store.ErrNotFound) {
		return raft.ErrLogNotFound
	}
	if err != nil {
		return fmt.Errorf("read log entry %d: %w", index, err)
	}
	if err := decodeLog(value, into); err != nil {
		return fmt.Errorf("read log entry %d: %w", index, err)
	}
	into.Index = index
	return nil
}

func (l *logStore) StoreLog(entry *raft.Log) error { return l.StoreLogs([]*raft.Log{entry}) }

func (l *logStore) StoreLogs(entries []*raft.Log) error {
	if len(entries) == 0 {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.db.NewBatch()
	for _, e := range entries {
		b.Set(logKey(e.Index), encodeLog(e))
	}
	if err := l.db.Commit(b, true); err != nil {
		return fmt.Errorf("write log entries from %d: %w", entries[0].Index, err)
	}
	if l.mu.first == 0 || entries[0].Index < l.mu.first {
		l.mu.first = entries[0].Index
	}
	l.mu.last = max(l.mu.last, entries[len(entries)-1].Index)
	return nil
}

// DeleteRange deletes entries at one end of the log, both bounds included.
func (l *logStore) DeleteRange(from, to uint64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.db.NewBatch()
	b.DeleteRange(logKey(from), logKey(to+1))
	if err := l.db.Commit(b, true); err != nil {
		return fmt.Errorf("delete log entries %d to %d: %w", from, to, err)
	}
	if from <= l.mu.first {
		l.mu.first = to + 1
	}
	if to >= l.mu.last {
		l.mu.last = from - 1
	}
	if l.mu.first > l.mu.last {
		l.mu.first, l.mu.last = 0, 0
	}
	return nil
}

func (l *logStore) Set(key, value []byte) error {
	b := l.db.NewBatch()
	b.Set(voteKey(key), value)
	return l.db.Commit(b, true)
}

func (l *logStore) Get(key []byte) ([]byte, error) {
	value, err := l.db.Get(voteKey(key))
	if errors.Is(err, store.ErrNotFound) {
		return nil, errNotFound
	}
	return value, err
}

func (l *logStore) SetUint64(key []byte, value uint64) error {
	return l.Set(key, binary.BigEndian.AppendUint64(nil, value))
}

func (l *logStore) GetUint64(key []byte) (uint64, error) {
	value, err := l.Get(key)
	if err != nil {
		return 0, err
	}
	if len(value) != 8 {
		return 0, fmt.Errorf("%q holds %d bytes where a number was expected", key, len(value))
	}
	return binary.BigEndian.Uint64(value), nil
}

// An entry is its term (8 bytes), type (1), the time it was appended in
// microseconds since 1970 (8; 0: not known), the length of its data (4), the
// data, and the extensions to the end.
const logHeaderBytes = 8 + 1 + 8 + 4

func encodeLog(e *raft.Log) []byte {
	out := make([]byte, 0, logHeaderBytes+len(e.Data)+len(e.Extensions))
	out = binary.BigEndian.AppendUint64(out, e.Term)
	out = append(out, byte(e.Type))
	var appended int64
	if !e.AppendedAt.IsZero() {
		appended = e.AppendedAt.UnixMicro()
	}
	out = binary.BigEndian.AppendUint64(out, uint64(appended))
	out = binary.BigEndian.AppendUint32(out, uint32(len(e.Data)))
	return append(append(out, e.Data...), e.Extensions...)
}

func decodeLog(b []byte, into *raft.Log) error {
	if len(b) < logHeaderBytes {
		return fmt.Errorf("%d bytes are too few", len(b))
	}
	size := binary.BigEndian.Uint32(b[17:])
	if uint64(size) > uint64(len(b)-logHeaderBytes) {
		return fmt.Errorf("cut short: data of %d bytes in %d", size, len(b))
	}
	*into = raft.Log{Term: binary.BigEndian.Uint64(b), Type: raft.LogType(b[8])}
	if appended := int64(binary.BigEndian.Uint64(b[9:])); appended != 0 {
		into.AppendedAt = time.UnixMicro(appended).UTC()
	}
	data, extensions := b[logHeaderBytes:logHeaderBytes+size], b[logHeaderBytes+size:]
	if len(data) > 0 {
		into.Data = data
	}
	if len(extensions) > 0 {
		into.Extensions = extensions
	}
	return nil
}

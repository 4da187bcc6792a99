package shard

import (
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/lni/dragonboat/v4/statemachine"

	"github.com/pheromone-run/pheromone/internal/failpoint"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/store"
)

// machine is a replica's state machine: the shard's range of the store, and the
// fence before it. Dragonboat calls Update, Sync, PrepareSnapshot and
// RecoverFromSnapshot one at a time.
//
// The store is not synced per entry: its batches survive a crash as a prefix,
// the index of the last entry is in the batch itself, and the raft log, which is
// synced, has the rest.
type machine struct {
	shard  spec.ShardID
	db     *store.DB
	fatal  func(error)
	fits   <-chan struct{} // Open waits for it to be closed, unless it is nil
	tell   func()          // called when the store has changed; must not block
	held   func(stopped <-chan struct{})
	meta   store.ShardMeta
	bodies [][]byte // of one Update; kept for its capacity

	published struct {
		sync.Mutex
		meta store.ShardMeta
	}
}

var _ statemachine.IOnDiskStateMachine = (*machine)(nil)

func newMachine(shard spec.ShardID, db *store.DB, fatal func(error)) *machine {
	return &machine{shard: shard, db: db, fatal: fatal, tell: func() {}, held: func(<-chan struct{}) {}}
}

// Open returns the index of the last entry that the store has. A range that was
// left half restored counts as empty: dragonboat has the snapshot and restores
// it again.
func (m *machine) Open(stopped <-chan struct{}) (uint64, error) {
	if m.fits != nil {
		select {
		case <-m.fits:
		case <-stopped:
			return 0, statemachine.ErrOpenStopped
		}
	}
	meta, err := m.db.Meta(m.shard)
	if errors.Is(err, store.ErrRestoring) {
		meta, err = store.ShardMeta{}, nil
	}
	if err != nil {
		return 0, m.stop(fmt.Errorf("open: %w", err))
	}
	m.become(meta)
	return meta.Applied, nil
}

// Update applies entries with one commit to the store and sets their results.
// Every entry counts as applied, whatever the fence says of it.
func (m *machine) Update(entries []statemachine.Entry) ([]statemachine.Entry, error) {
	meta, bodies := m.meta, m.bodies[:0]
	for i := range entries {
		if entries[i].Index <= meta.Applied {
			return nil, m.stop(fmt.Errorf("entry %d comes after entry %d was applied", entries[i].Index, meta.Applied))
		}
		e := decodeEntry(entries[i].Cmd)
		before := previous{meta.Epoch, meta.Seq}
		v := m.fence(&meta, e)
		entries[i].Result = statemachine.Result{Value: uint64(v)}
		switch v {
		case verdictApplied:
			bodies = append(bodies, e.body)
		case verdictClaimed:
			entries[i].Result.Data = before.encode()
		}
		meta.Applied = entries[i].Index
	}
	failpoint.Entries(failpoint.Logged, bodies)
	err := m.db.Apply(m.shard, bodies, meta)
	failpoint.Entries(failpoint.Applied, bodies)
	clear(bodies)
	m.bodies = bodies
	if err != nil {
		return nil, m.stop(fmt.Errorf("apply entries up to %d: %w", meta.Applied, err))
	}
	m.become(meta)
	return entries, nil
}

// fence decides what becomes of an entry, by the log alone, so that all replicas
// decide alike.
func (m *machine) fence(meta *store.ShardMeta, e entry) verdict {
	switch {
	case e.kind == kindClaim && e.epoch > meta.Epoch:
		meta.Epoch, meta.Seq = e.epoch, 0
		return verdictClaimed
	case e.kind == kindClaim:
		return verdictClaimLost
	case e.kind != kindBatch:
		return verdictUnknown
	case e.epoch != meta.Epoch:
		return verdictStale
	case e.seq != meta.Seq+1:
		return verdictGap
	case store.CheckBody(m.shard, e.body) != nil:
		return verdictMalformed
	}
	meta.Seq = e.seq
	return verdictApplied
}

// become takes meta as the state that is in the store.
func (m *machine) become(meta store.ShardMeta) {
	m.meta = meta
	m.published.Lock()
	m.published.meta = meta
	m.published.Unlock()
	m.tell()
}

// applied returns what the last Update left, for anyone.
func (m *machine) applied() store.ShardMeta {
	m.published.Lock()
	defer m.published.Unlock()
	return m.published.meta
}

// stop reports that the replica can't go on. The error only matters if fatal
// returns; dragonboat panics with it then.
func (m *machine) stop(err error) error {
	err = fmt.Errorf("shard %d: %w", m.shard, err)
	m.fatal(err)
	return err
}

// Lookup is not used: readers ask the store, after Shard.ReadIndex.
func (m *machine) Lookup(any) (any, error) {
	return nil, errors.New("the state machine is read through the store")
}

// Sync makes durable what was applied. Dragonboat cuts the log afterwards.
func (m *machine) Sync() error {
	if err := m.db.Sync(); err != nil {
		return m.stop(fmt.Errorf("sync: %w", err))
	}
	return nil
}

// PrepareSnapshot fixes what SaveSnapshot is to write, while entries go on being
// applied.
func (m *machine) PrepareSnapshot() (any, error) { return m.db.Snapshot(), nil }

// SaveSnapshot streams the shard's range to a replica that lags behind.
func (m *machine) SaveSnapshot(state any, w io.Writer, stopped <-chan struct{}) error {
	snapshot := state.(*store.Snapshot)
	err := snapshot.WriteSnapshot(stoppableWriter{w, stopped}, m.shard)
	if closeErr := snapshot.Close(); err == nil && closeErr != nil {
		err = closeErr
	}
	if isClosed(stopped) {
		return statemachine.ErrSnapshotStopped
	}
	if err != nil && (errors.Is(err, statemachine.ErrSnapshotStreaming) || m.db.Err() == nil) {
		// Whatever is wrong with the stream, this replica is well: the other one asks again.
		return statemachine.ErrSnapshotAborted
	}
	return err
}

// RecoverFromSnapshot replaces the shard's range by a snapshot.
func (m *machine) RecoverFromSnapshot(r io.Reader, stopped <-chan struct{}) error {
	meta, err := m.db.ReadSnapshot(stoppableReader{r, stopped, m.held}, m.shard)
	if err != nil {
		if isClosed(stopped) {
			return statemachine.ErrSnapshotStopped
		}
		return m.stop(fmt.Errorf("restore a snapshot: %w", err))
	}
	m.become(meta)
	return nil
}

// Close leaves the store open: it belongs to the node.
func (m *machine) Close() error { return nil }

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// stoppableWriter and stoppableReader end a stream when the replica stops.
type stoppableWriter struct {
	io.Writer
	stopped <-chan struct{}
}

func (w stoppableWriter) Write(p []byte) (int, error) {
	if isClosed(w.stopped) {
		return 0, statemachine.ErrSnapshotStopped
	}
	return w.Writer.Write(p)
}

type stoppableReader struct {
	io.Reader
	stopped <-chan struct{}
	held    func(stopped <-chan struct{})
}

func (r stoppableReader) Read(p []byte) (int, error) {
	r.held(r.stopped)
	if isClosed(r.stopped) {
		return 0, statemachine.ErrSnapshotStopped
	}
	return r.Reader.Read(p)
}

package control

import (
	"encoding/json"
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/raft"

	"github.com/pheromone-run/pheromone/spec"
)

// fsm holds the newest State. Raft calls its methods one at a time; State and
// Changed are for everyone.
type fsm struct {
	state atomic.Pointer[State]

	mu struct {
		sync.Mutex
		changed chan struct{} // closed and replaced after each new State
	}
}

var _ raft.FSM = (*fsm)(nil)

func newFSM() *fsm {
	f := &fsm{}
	f.state.Store(&State{})
	f.mu.changed = make(chan struct{})
	return f
}

// outcome is what Apply answers to the proposer.
type outcome struct {
	result Result
	err    error
}

// Apply makes the next State. What it can't read or must refuse changes nothing,
// on any node.
func (f *fsm) Apply(entry *raft.Log) any {
	c, id, err := decodeCommand(entry.Data)
	if err != nil {
		return outcome{err: spec.Errorf(spec.CodeInvalid, "control group: %w", err)}
	}
	before := f.state.Load()
	next, result, err := before.change(entry.Index, id, c)
	if next != before {
		f.publish(next)
	}
	return outcome{result, err}
}

// publish shows the State first and wakes the watchers then, so that they find it.
func (f *fsm) publish(s *State) {
	f.state.Store(s)
	f.mu.Lock()
	defer f.mu.Unlock()
	close(f.mu.changed)
	f.mu.changed = make(chan struct{})
}

func (f *fsm) watch() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.mu.changed
}

// A snapshot is a JSON object of its format and the State. Format 1 is that of
// versions for one node, whose shards had no more than names of nodes.
const (
	snapshotFormat = 2
	oldestSnapshot = 1
)

// maxSnapshotBytes bounds what Restore reads.
const maxSnapshotBytes = 4 << 30

type snapshotFile struct {
	Format int    `json:"format"`
	State  *State `json:"state"`
}

// Snapshot only takes the State: it never changes.
func (f *fsm) Snapshot() (raft.FSMSnapshot, error) { return snapshot{f.state.Load()}, nil }

// Restore replaces the State by a snapshot's.
func (f *fsm) Restore(r io.ReadCloser) error {
	defer r.Close()
	var file snapshotFile
	if err := json.NewDecoder(io.LimitReader(r, maxSnapshotBytes)).Decode(&file); err != nil {
		return fmt.Errorf("read the control group's snapshot: %w", err)
	}
	if file.Format < oldestSnapshot || file.Format > snapshotFormat || file.State == nil {
		return fmt.Errorf("read the control group's snapshot: format %d is not one of %d to %d", file.Format, oldestSnapshot, snapshotFormat)
	}
	if err := file.State.check(); err != nil {
		return fmt.Errorf("read the control group's snapshot: %w", err)
	}
	f.publish(file.State)
	return nil
}

// check looks for what would be met as a fault much later.
func (s *State) check() error {
	for name, a := range s.Apps {
		if a == nil || a.Name != name {
			return fmt.Errorf("the record of app %.80q is not its own", name)
		}
		for i, v := range a.Versions {
			if v == nil || v.Version > a.Last || i > 0 && v.Version <= a.Versions[i-1].Version {
				return fmt.Errorf("the versions of app %.80q are out of order", name)
			}
		}
	}
	for name, m := range s.Members {
		if m.Name != name {
			return fmt.Errorf("the record of member %.80q is not its own", name)
		}
	}
	return s.Placement.check()
}

type snapshot struct{ state *State }

func (s snapshot) Persist(sink raft.SnapshotSink) error {
	if err := json.NewEncoder(sink).Encode(snapshotFile{snapshotFormat, s.state}); err != nil {
		_ = sink.Cancel()
		return fmt.Errorf("write the control group's snapshot: %w", err)
	}
	return sink.Close()
}

func (snapshot) Release() {}

package control

import (
	"fmt"
	"sync"

	"github.com/hashicorp/raft"
)

// transport asks nothing of a server while its address changes. Raft reads what it
// knows of a server that answers without the lock under which it changes that
// (updateLastAppended in its replication.go): nothing may be on its way then.
type transport struct {
	*raft.NetworkTransport
	mu    sync.Mutex
	moves map[raft.ServerID]moves // guarded by mu
}

// moves counts the changes of a server's address.
type moves struct{ begun, ended int }

func (t *transport) movesOf(id raft.ServerID) moves {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.moves[id]
}

func (t *transport) count(id raft.ServerID, begun, ended int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.moves == nil {
		t.moves = make(map[raft.ServerID]moves)
	}
	m := t.moves[id]
	t.moves[id] = moves{m.begun + begun, m.ended + ended}
}

// AppendEntries loses an answer during which the server began to move. Raft asks
// again after a request that failed. Heartbeats pass: their answers tell it nothing
// that it would note under the server's name, and without them it leads no more.
func (t *transport) AppendEntries(id raft.ServerID, at raft.ServerAddress, req *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	if heartbeat := req.PrevLogEntry == 0 && len(req.Entries) == 0 && req.LeaderCommitIndex == 0; heartbeat {
		return t.NetworkTransport.AppendEntries(id, at, req, resp)
	}
	before := t.movesOf(id)
	if before.begun == before.ended {
		if err := t.NetworkTransport.AppendEntries(id, at, req, resp); err != nil {
			return err
		}
	}
	if t.movesOf(id).begun != before.ended {
		return fmt.Errorf("the address of node %s changes", id)
	}
	return nil
}

// move changes a server's address and waits until the group has agreed.
func (g *Group) move(id raft.ServerID, begin func() raft.IndexFuture) error {
	t, ok := g.transport.(*transport)
	if !ok {
		return begin().Error()
	}
	t.count(id, 1, 0)
	change := begin()
	// Raft does one thing after the other: what follows comes after it has noted the
	// new address. That the group agrees may need the server itself.
	_ = g.raft.VerifyLeader().Error()
	t.count(id, 0, 1)
	return change.Error()
}

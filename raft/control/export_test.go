package control

import (
	"errors"

	"github.com/hashicorp/raft"
)

// StandForElection has a voter do so at once, though it has not waited for a leader.
func StandForElection(g *Group) error {
	own := raft.ServerID(g.cfg.Node)
	return g.transport.TimeoutNow(own, raft.ServerAddress(own), &raft.TimeoutNowRequest{
		RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax},
	}, &raft.TimeoutNowResponse{})
}

// Pipelines tells whether entries go to followers by pipelines.
func Pipelines(g *Group) bool {
	_, err := g.transport.AppendEntriesPipeline(raft.ServerID(g.cfg.Node), raft.ServerAddress(g.cfg.Node))
	return !errors.Is(err, raft.ErrPipelineReplicationNotSupported)
}

// Ask sends a server an empty request of no term, as raft does that knows it at an
// address; by is in it.
func Ask(g *Group, server, address, by string) error {
	req := raft.AppendEntriesRequest{
		RPCHeader:    raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(by)},
		PrevLogEntry: 1,
	}
	return g.transport.AppendEntries(raft.ServerID(server), raft.ServerAddress(address), &req, new(raft.AppendEntriesResponse))
}

package control

import "github.com/hashicorp/raft"

// StandForElection has a voter do so at once, though it has not waited for a leader.
func StandForElection(g *Group) error {
	own := raft.ServerID(g.cfg.Node)
	return g.transport.TimeoutNow(own, raft.ServerAddress(own), &raft.TimeoutNowRequest{
		RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax},
	}, &raft.TimeoutNowResponse{})
}

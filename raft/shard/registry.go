package shard

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/lni/dragonboat/v4/config"
	"github.com/lni/dragonboat/v4/raftio"
)

// registry tells dragonboat where replicas are. The membership in the raft logs
// holds only names made from replica numbers (target); addresses live here and
// come from whoever starts the shards, so a host can change its address.
type registry struct {
	mu struct {
		sync.Mutex
		addresses map[raftio.NodeInfo]string
	}
}

var _ raftio.INodeRegistry = (*registry)(nil)

func newRegistry() *registry {
	r := &registry{}
	r.mu.addresses = make(map[raftio.NodeInfo]string)
	return r
}

// target names a replica where dragonboat wants the UUID of a host.
func target(replica uint64) string {
	return fmt.Sprintf("00000000-0000-4000-%04x-%012x", replica>>48, replica&(1<<48-1))
}

func (r *registry) set(shard, replica uint64, address string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mu.addresses[raftio.GetNodeInfo(shard, replica)] = address
}

// connections is how many connections go to one host: shards are spread over them.
const connections = 4

// Resolve returns the address of a replica and the connection to use.
func (r *registry) Resolve(shard, replica uint64) (string, string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	address, ok := r.mu.addresses[raftio.GetNodeInfo(shard, replica)]
	if !ok {
		return "", "", fmt.Errorf("no address is known of replica %d of shard %d", replica, shard)
	}
	return address, fmt.Sprintf("%s-%d", address, shard%connections), nil
}

// Add is called by dragonboat with the names in the membership and in messages.
func (r *registry) Add(uint64, uint64, string) {}

// Remove and RemoveShard are called by dragonboat when replicas go or stop. An
// address that is not needed any more does no harm, and a shard that is started
// again needs it.
func (r *registry) Remove(uint64, uint64) {}
func (r *registry) RemoveShard(uint64)    {}
func (r *registry) Close() error          { return nil }

// Create lets a registry be its own factory: there is one for each Host.
func (r *registry) Create(string, uint64, config.TargetValidator) (raftio.INodeRegistry, error) {
	return r, nil
}

// noTransport is the transport of a host without an address.
type noTransport struct{}

var (
	_ config.TransportFactory = noTransport{}
	_ raftio.ITransport       = noTransport{}

	errNoTransport = errors.New("this host has no address, so it has no peers")
)

func (noTransport) Create(config.NodeHostConfig, raftio.MessageHandler, raftio.ChunkHandler) raftio.ITransport {
	return noTransport{}
}
func (noTransport) Validate(string) bool { return true }
func (noTransport) Name() string         { return "none" }
func (noTransport) Start() error         { return nil }
func (noTransport) Close() error         { return nil }

func (noTransport) GetConnection(context.Context, string) (raftio.IConnection, error) {
	return nil, errNoTransport
}

func (noTransport) GetSnapshotConnection(context.Context, string) (raftio.ISnapshotConnection, error) {
	return nil, errNoTransport
}

package node

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/pheromone-run/pheromone/exec"
	"github.com/pheromone-run/pheromone/internal/watchdog"
	"github.com/pheromone-run/pheromone/spec"
)

// Config is a node's configuration. The zero value of a field stands for its
// default.
type Config struct {
	// Name is the node's name, for the whole life of its data. Default n1.
	Name string
	// DataDir holds everything the node keeps. Required.
	DataDir string
	// Listen is the address of the API. Default 127.0.0.1:7070; port 0 takes a free one.
	Listen string
	// PeerListen is the host:port where a node of a cluster listens for the others,
	// and PeerAdvertise what they are told of it, if that is another. Default the
	// one of the last start, at first 127.0.0.1:7170. A node that is alone listens
	// nowhere.
	PeerListen, PeerAdvertise string
	// Join are the peer addresses of nodes of the cluster, its own perhaps among
	// them: the same on all that found it. A node is one of a cluster if there are
	// any, if Expect is 1 and PeerListen is set, or if its data is a cluster's.
	Join []string
	// Expect is how many nodes found the cluster, the same on all of them. Without it
	// a node waits for one that takes it in, or for a request to found one.
	Expect int
	// JoinToken is a secret that all nodes of the cluster have. Without it anybody
	// who reaches PeerListen can pass for a node.
	JoinToken string
	// Alone refuses data of a cluster.
	Alone bool
	// Replicas is how many nodes of a new cluster hold a shard, if there are so
	// many. Default 3.
	Replicas int
	// RaftRTT is the tick of a cluster's shards, and RaftElection how many of them
	// without a word of the leader start an election. Default 20 ms and 25.
	RaftRTT      time.Duration
	RaftElection int
	// RebuildAfter is how long a node of the cluster is away before what it holds is
	// made up for on others. Default 5 minutes.
	RebuildAfter time.Duration
	// DiskTimeout is how long the disk under DataDir may hang before a node of a
	// cluster ends itself, so that others take over; a node alone is only not ready.
	// Default 10 s, at least 1 s; negative: any time.
	DiskTimeout time.Duration
	// Insecure lets the API listen beyond loopback, without TLS and tokens, and
	// PeerListen without a token.
	Insecure bool
	// Shards is the number of raft groups that a new data folder, or a new cluster,
	// is laid out with. Default 1, and 8 of a cluster. It is not changed by later
	// starts.
	Shards int
	// ReserveBytes is how much room on the disk is left: below it puts are refused.
	// Default 256 MiB, at least 64 MiB.
	ReserveBytes int64
	// InputBytes bounds the inputs that attempts hold in memory together; what does
	// not fit waits. Default a quarter of the machine's memory, or of what the node
	// may use of it, and at most 2 GiB; at least 16 MiB.
	InputBytes int64
	// SharedBytes bounds the memory through which large inputs reach the processes of
	// functions, of all of them together, and that in which each of these hands over
	// large objects. Default an eighth of the memory, at most 256 MiB; negative: none,
	// large objects travel on the processes' sockets.
	SharedBytes int64
	// Version is what the node says it is.
	Version string
	// Inproc runs the functions of runtime inproc: an inproc.Runtime of the program
	// that embeds the node. Without it such functions can't be deployed.
	Inproc exec.Runtime
	// ModuleHost is the command that starts the host of a WebAssembly module: a program
	// whose main calls wasm.Host with the arguments that follow. Without it functions
	// of runtime wasm can't be deployed.
	ModuleHost []string
	// Now is the clock of triggers, timers and what expires; the system's if it is nil.
	Now func() time.Time
	Log *slog.Logger // default: nowhere
	// Fatal is called when the node can't go on; it must not return. Default: log
	// the reason and exit with status 1.
	Fatal func(error)
}

const (
	defaultListen       = "127.0.0.1:7070"
	defaultPeerListen   = "127.0.0.1:7170"
	defaultReserveBytes = 256 << 20
	// leastReserveBytes leaves room for the store's flushes and for the raft log: one
	// that meets a full disk holds up every write until there is room.
	leastReserveBytes = 64 << 20
	maxShards         = 256
	clusterShards     = 8
	maxReplicas       = 7
	maxExpect         = 100
	leastTokenBytes   = 16
	leastInputBytes   = 16 << 20
)

func (c Config) withDefaults() Config {
	if c.Name == "" {
		c.Name = "n1"
	}
	if c.Listen == "" {
		c.Listen = defaultListen
	}
	if c.Shards == 0 {
		c.Shards = 1
		if c.asksForCluster() {
			c.Shards = clusterShards
		}
	}
	if c.Replicas == 0 {
		c.Replicas = 3
	}
	if c.RaftRTT == 0 {
		c.RaftRTT = 20 * time.Millisecond
	}
	if c.RaftElection == 0 {
		c.RaftElection = 25
	}
	if c.RebuildAfter == 0 {
		c.RebuildAfter = 5 * time.Minute
	}
	if c.DiskTimeout == 0 {
		c.DiskTimeout = watchdog.DefaultBound
	}
	if c.ReserveBytes == 0 {
		c.ReserveBytes = defaultReserveBytes
	}
	if c.InputBytes == 0 {
		c.InputBytes = defaultInputBytes(memoryBytes("/"))
	}
	if c.SharedBytes == 0 {
		c.SharedBytes = defaultSharedBytes(memoryBytes("/"))
	}
	if c.Version == "" {
		c.Version = "dev"
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c
}

// Validate reports every setting that is missing or out of bounds.
func (c Config) Validate() error {
	c = c.withDefaults()
	var errs []error
	if err := spec.ValidAppName(c.Name); err != nil {
		errs = append(errs, fmt.Errorf("name %q: a node's name is made of lower-case letters, digits, '-' and '_', starts with a letter and has at most %d bytes", c.Name, spec.MaxNameBytes))
	}
	if c.DataDir == "" {
		errs = append(errs, errors.New("data: name the folder that holds the node's data"))
	}
	if c.Shards < 1 || c.Shards > maxShards {
		errs = append(errs, fmt.Errorf("shards: %d is not between 1 and %d", c.Shards, maxShards))
	}
	if c.DiskTimeout >= 0 && c.DiskTimeout < time.Second {
		errs = append(errs, fmt.Errorf("disk-timeout: %v is less than 1s: a disk that is merely slow would end the node", c.DiskTimeout))
	}
	if c.ReserveBytes < leastReserveBytes {
		errs = append(errs, fmt.Errorf("disk-reserve: %s is less than %s, which the store needs to go on and to delete", spec.FormatSize(max(c.ReserveBytes, 0)), spec.FormatSize(leastReserveBytes)))
	}
	if c.InputBytes < leastInputBytes {
		errs = append(errs, fmt.Errorf("input-memory: %s is less than %s", spec.FormatSize(max(c.InputBytes, 0)), spec.FormatSize(leastInputBytes)))
	}
	errs = append(errs, c.validateCluster()...)
	host, _, err := net.SplitHostPort(c.Listen)
	switch {
	case err != nil:
		errs = append(errs, fmt.Errorf("listen: %q is not host:port", c.Listen))
	case !c.Insecure && !loopback(host):
		errs = append(errs, fmt.Errorf("listen: %s is reachable from other machines, and this version has neither TLS nor tokens: listen on 127.0.0.1, or say --insecure", c.Listen))
	}
	return errors.Join(errs...)
}

func loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

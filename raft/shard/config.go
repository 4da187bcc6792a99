package shard

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"time"
)

// HostConfig is the configuration of a Host. Dir is required; zero values of the
// others stand for the defaults named.
type HostConfig struct {
	// Dir holds the raft logs. It belongs to the store that Open is given: neither
	// works without the other.
	Dir string
	// Address is the host:port that other hosts reach this one at. Empty makes a host
	// that listens nowhere and holds only shards with a single member. It may change
	// from one start to the next.
	Address string
	// Network connects the host to others; needed with Address.
	Network Network
	// RTT is the tick that elections, heartbeats and timeouts are counted in.
	// Default 20 ms: below that leaders of replicated shards lose their place on a
	// busy machine. Without Address 50 ms: nobody waits for a heartbeat, and each
	// tick costs an idle node processor time.
	RTT time.Duration
	// ElectionTicks are for shards with several members. Default 25.
	ElectionTicks int
	// SnapshotEntries is the number of entries after which the store is synced
	// and the log is cut. Default 20,000.
	SnapshotEntries int
	// Log gets dragonboat's errors as such and everything else of it at debug. It
	// knows one logger for the process: the one of the Host opened last. Default:
	// nowhere.
	Log *slog.Logger
	// Fatal is called when a replica can't go on: its store fails, or its log
	// holds what no leader writes. It must not return. Default: log and exit the
	// process with status 1, because a state machine that skips an entry would no
	// longer equal the others.
	Fatal func(error)

	held func(stopped <-chan struct{}) // called at each read of a restore; tests hold one open
}

// deploymentID is what dragonboat tells clusters apart by, and never lets change.
// Here the network does that: it greets nodes of its own cluster alone.
const deploymentID = 1

// proposeTimeout bounds the time until an entry is applied. It only matters when
// neither success nor the loss of the lead is noticed.
const proposeTimeout = 10 * time.Second

// heartbeatTicks is for shards with several members.
const heartbeatTicks = 2

// The timing of a shard with a single member: there is no one to wait for.
const (
	soleElectionTicks  = 3
	soleHeartbeatTicks = 1
)

func (c HostConfig) withDefaults() HostConfig {
	if c.RTT == 0 {
		c.RTT = 20 * time.Millisecond
		if c.Address == "" {
			c.RTT = 50 * time.Millisecond
		}
	}
	if c.ElectionTicks == 0 {
		c.ElectionTicks = 25
	}
	if c.SnapshotEntries == 0 {
		c.SnapshotEntries = 20_000
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.held == nil {
		c.held = func(<-chan struct{}) {}
	}
	if c.Fatal == nil {
		log := c.Log
		c.Fatal = func(err error) {
			log.Error("a shard's replica can't go on, ending the process", "reason", err)
			os.Exit(1)
		}
	}
	return c
}

// Validate reports every setting that is out of bounds.
func (c HostConfig) Validate() error {
	c = c.withDefaults()
	var errs []error
	if c.Dir == "" {
		errs = append(errs, errors.New("dir is empty: name the folder for the raft logs"))
	}
	if c.Address != "" {
		if host, port, err := net.SplitHostPort(c.Address); err != nil || host == "" || port == "" || port == "0" {
			errs = append(errs, fmt.Errorf("address %q is not host:port with a fixed port", c.Address))
		}
		if c.Network == nil {
			errs = append(errs, errors.New("an address without a network: the host needs one to reach others"))
		}
	}
	if c.RTT < time.Millisecond || c.RTT > time.Second {
		errs = append(errs, fmt.Errorf("rtt %v is not between 1ms and 1s", c.RTT))
	}
	if c.ElectionTicks <= 2*heartbeatTicks {
		errs = append(errs, fmt.Errorf("election of %d ticks is not more than twice the heartbeat of %d", c.ElectionTicks, heartbeatTicks))
	}
	if c.SnapshotEntries < 1000 {
		errs = append(errs, fmt.Errorf("%d snapshot entries are fewer than 1000", c.SnapshotEntries))
	}
	return errors.Join(errs...)
}

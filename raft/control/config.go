package control

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/store"
)

// Config is the configuration of a Group. Node, Dir and DB are required.
type Config struct {
	// Node is this node's name in the group, for ever.
	Node string
	// Dir holds the snapshots.
	Dir string
	// DB holds the log. It must stay open until the group is closed.
	DB *store.DB
	// Address is the loopback host:port that the other voters reach this node at.
	// Empty makes a group of this node alone, which listens nowhere. The protocol
	// believes whoever connects, so it does not leave the machine.
	Address string
	// Peers are the voters and where they are, this node included; needed with
	// Address. The first Open makes a group of them, and then they must be the same
	// on every node; later ones only tell the addresses.
	Peers map[string]string
	// Election is how long a voter waits without a leader before it stands for
	// election. Default 1 s, and 50 ms without Address.
	Election time.Duration
	// SnapshotEntries is the number of changes after which the state is written
	// down and the log is cut. Default 1024.
	SnapshotEntries int
	Log             *slog.Logger // default: nowhere
}

// trailingEntries is how much of the log stays for voters that lag a little.
const trailingEntries = 256

// commitInterval is how long voters may not know of a change that is committed.
const commitInterval = 5 * time.Millisecond

func (c Config) withDefaults() Config {
	if c.Election == 0 {
		c.Election = time.Second
		if c.sole() {
			c.Election = 50 * time.Millisecond
		}
	}
	if c.SnapshotEntries == 0 {
		c.SnapshotEntries = 1024
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c
}

// sole says whether this node is the whole group.
func (c Config) sole() bool { return c.Address == "" }

// Validate reports every setting that is missing or out of bounds.
func (c Config) Validate() error {
	c = c.withDefaults()
	var errs []error
	if c.Node == "" {
		errs = append(errs, errors.New("node is empty: it needs a name"))
	}
	if c.Dir == "" {
		errs = append(errs, errors.New("dir is empty: name the folder for snapshots"))
	}
	if c.DB == nil {
		errs = append(errs, errors.New("there is no store"))
	}
	if c.Election < 10*time.Millisecond || c.Election > time.Minute {
		errs = append(errs, fmt.Errorf("election %v is not between 10ms and 1m", c.Election))
	}
	if c.SnapshotEntries < 1 {
		errs = append(errs, fmt.Errorf("snapshot entries %d is below 1", c.SnapshotEntries))
	}
	if c.sole() && len(c.Peers) > 0 {
		errs = append(errs, errors.New("peers without an address: give this node one, or leave the peers out"))
	}
	if !c.sole() {
		errs = append(errs, checkLoopback(c.Address))
		if _, ok := c.Peers[c.Node]; !ok {
			errs = append(errs, fmt.Errorf("node %q is not among the peers", c.Node))
		}
	}
	return errors.Join(errs...)
}

func checkLoopback(address string) error {
	host, port, err := net.SplitHostPort(address)
	if err != nil || port == "" || port == "0" {
		return fmt.Errorf("address %q is not host:port with a fixed port", address)
	}
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return fmt.Errorf("address %q is not on the loopback: the control group's protocol has no protection of its own", address)
	}
	return nil
}

// maxAddressBytes is a host name of 253 bytes, a colon and a port.
const maxAddressBytes = 253 + 1 + 5

func checkAddress(address string) error {
	host, port, err := net.SplitHostPort(address)
	if err != nil || host == "" || port == "" || port == "0" || len(address) > maxAddressBytes {
		return spec.Errorf(spec.CodeInvalid, "address %.300q is not host:port with a fixed port", address).WithField("address")
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		return spec.Errorf(spec.CodeInvalid, "address %s is that of no machine: name the one that other nodes reach", address).WithField("address")
	}
	return nil
}

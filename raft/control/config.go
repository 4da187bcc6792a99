package control

import (
	"context"
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
	// DB holds the log. It must stay open until the group is closed. A write of it
	// that fails ends the node, by the DB's own Fatal.
	DB *store.DB
	// Address is the host:port that other nodes reach this one at. Empty makes a
	// group of this node alone, which talks to nobody.
	Address string
	// Listener accepts the other members' connections and Dial opens one to the
	// node at an address; both are needed with Address. The protocol believes who
	// comes through them, so they must authenticate. The group closes the listener.
	Listener net.Listener
	Dial     func(ctx context.Context, address string) (net.Conn, error)
	// Voters are the voters that make the group at its first Open and where they
	// are, this node included: the same on all of them. Later ones only tell
	// addresses to try. Without any, a node with an Address waits until the leader
	// of a group adds it.
	Voters map[string]string
	// Forward passes a request to the node of that name, which answers by
	// Group.ApplyEncoded. Without it only the leader makes changes.
	Forward func(ctx context.Context, leader string, request []byte) ([]byte, error)
	// Election is how long a voter waits without a leader before it stands for
	// election. Default 1 s, and 50 ms without Address.
	Election time.Duration
	// SnapshotEntries is the number of changes after which the state is written
	// down and the log is cut. Default 1024.
	SnapshotEntries int
	Log             *slog.Logger // default: nowhere
}

// trailingEntries is how much of the log stays for members that lag a little.
const trailingEntries = 256

// commitInterval is how long members may not know of a change that is committed.
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
	if c.sole() && len(c.Voters) > 0 {
		errs = append(errs, errors.New("voters without an address: give this node one, or leave the voters out"))
	}
	if !c.sole() {
		errs = append(errs, c.validateNetwork()...)
	}
	return errors.Join(errs...)
}

func (c Config) validateNetwork() []error {
	errs := []error{checkAddress(c.Address)}
	if c.Listener == nil || c.Dial == nil {
		errs = append(errs, errors.New("an address without a listener and a way to dial"))
	}
	if _, ok := c.Voters[c.Node]; len(c.Voters) > 0 && !ok {
		errs = append(errs, fmt.Errorf("node %q is not among the voters", c.Node))
	}
	for node, address := range c.Voters {
		if err := checkAddress(address); err != nil {
			errs = append(errs, fmt.Errorf("voter %q: %w", node, err))
		}
	}
	return errs
}

// maxAddressBytes is a host name of 253 bytes, a colon and a port.
const maxAddressBytes = 253 + 1 + 5

func checkAddress(address string) error {
	host, port, err := net.SplitHostPort(address)
	if err != nil || host == "" || port == "" || port == "0" || len(address) > maxAddressBytes {
		return spec.Errorf(spec.CodeInvalid, "address %.300q is not host:port with a fixed port", address).WithField("address")
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		return spec.Errorf(spec.CodeInvalid, "address %s stands for every address of a machine: name the one that other nodes reach", address).WithField("address")
	}
	return nil
}

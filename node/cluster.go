package node

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"runtime"
	"time"

	"github.com/pheromone-run/pheromone/node/form"
	"github.com/pheromone-run/pheromone/node/peer"
	"github.com/pheromone-run/pheromone/raft/control"
	"github.com/pheromone-run/pheromone/spec"
)

// clustered tells whether the node is one of a cluster, by its settings or by its
// data, and refuses data of the other kind.
func (n *Node) clustered() (bool, error) {
	var err error
	if n.record, err = form.OpenRecord(n.db); err != nil {
		return false, err
	}
	id := n.record.Identity()
	asked := n.cfg.asksForCluster()
	switch {
	case id.Cluster == "" && !asked:
		if n.cfg.PeerListen != "" {
			n.cfg.Log.Warn("a node alone listens for no others: peer-listen counts with join or bootstrap-expect", "peer-listen", n.cfg.PeerListen)
		}
		return false, n.record.Forget() // it was never used
	case id.Install == "":
		alone, err := control.Exists(n.db)
		if err == nil && alone {
			err = spec.Errorf(spec.CodeConflict, "the data folder %s is that of a node alone: it can't become a cluster's", n.cfg.DataDir).
				WithHint("give the node of the cluster an empty --data folder and deploy to it, or start this one without --join, --bootstrap-expect and --peer-listen")
		}
		return true, err
	case n.cfg.Alone:
		return false, spec.Errorf(spec.CodeConflict, "the data folder %s is that of a node of cluster %s: it can't be used by a node alone", n.cfg.DataDir, id.Cluster).
			WithHint("start it with `pheromone serve`, or name another folder")
	}
	if n.cfg.PeerListen == "" {
		n.cfg.PeerListen = id.Listen
		if n.cfg.PeerAdvertise == "" {
			n.cfg.PeerAdvertise = id.Advertise
		}
	}
	return true, nil
}

// startClustered starts the node as far as it can go by itself; the rest follows
// once it has found the others.
func (n *Node) startClustered() error {
	if n.cfg.PeerListen == "" {
		n.cfg.PeerListen = defaultPeerListen
	}
	if n.cfg.PeerAdvertise == "" {
		n.cfg.PeerAdvertise = n.cfg.PeerListen
	}
	if err := n.record.Begin(n.cfg.PeerListen, n.cfg.PeerAdvertise); err != nil {
		return err
	}
	var err error
	n.network, err = peer.Listen(peer.Config{
		Address: n.cfg.PeerListen, Node: n.cfg.Name, Cluster: n.record.Cluster, Token: n.cfg.JoinToken, Log: n.cfg.Log,
	})
	if err != nil {
		return spec.Errorf(spec.CodeUnavailable, "%w", err).
			WithHint("choose another --peer-listen, or stop what listens there")
	}
	n.caller = peer.NewCaller(n.network)
	n.former = form.New(form.Config{
		Self: form.Node{
			Name: n.cfg.Name, Address: n.cfg.PeerAdvertise, API: n.apiURL(), Version: n.cfg.Version, Capacity: runtime.GOMAXPROCS(0),
		},
		Join: n.cfg.Join, Expect: n.cfg.Expect, Shards: n.cfg.Shards, Replicas: n.cfg.Replicas,
		Ask: n.askAddress, Now: n.cfg.Now, Log: n.cfg.Log,
	}, n.record)
	n.answerForming()
	n.answerLive()
	if err := n.prepareConductor(); err != nil {
		return err
	}
	n.serveCalls()
	if err := n.serve(); err != nil {
		return err
	}
	n.tasks.Go(func() {
		if err := n.joinCluster(n.ctx); err != nil && n.ctx.Err() == nil {
			n.giveUp(err)
		}
	})
	return nil
}

// apiURL is where other machines reach the API, as far as the node can tell: at the
// host that other nodes reach, if it listens on all of its addresses.
func (n *Node) apiURL() string {
	host, port, err := net.SplitHostPort(n.listener.Addr().String())
	reached, _, peerErr := net.SplitHostPort(n.cfg.PeerAdvertise)
	if err != nil || peerErr != nil || !net.ParseIP(host).IsUnspecified() {
		return n.URL()
	}
	return "http://" + net.JoinHostPort(reached, port)
}

// giveUp ends the node for a reason that it can still tell of.
func (n *Node) giveUp(err error) {
	n.failed.CompareAndSwap(nil, &err)
	n.cfg.Log.Error("the node ends itself", "reason", err)
	go func() { _ = n.Close() }() // it waits for this goroutine
}

func (n *Node) askAddress(ctx context.Context, address, method string, args, result any) error {
	_, err := n.caller.Call(ctx, address, method, args, nil, result)
	return err
}

// answerForming has the node answer what others ask to get together.
func (n *Node) answerForming() {
	n.handle(form.MethodHello, func(ctx context.Context, c *peer.Call) (peer.Answer, error) {
		var hello form.Hello
		if err := c.Args(&hello); err != nil {
			return peer.Answer{}, err
		}
		answer, err := n.former.Hello(ctx, hello)
		return peer.Answer{Result: answer}, err
	})
	n.handle(form.MethodJoin, func(ctx context.Context, c *peer.Call) (peer.Answer, error) {
		var args form.JoinArgs
		if err := c.Args(&args); err != nil {
			return peer.Answer{}, err
		}
		keeper := n.keeper.Load()
		if keeper == nil {
			return peer.Answer{}, spec.Errorf(spec.CodeUnavailable, "node %s is starting", n.cfg.Name)
		}
		done, err := keeper.Join(ctx, args)
		return peer.Answer{Result: done}, err
	})
}

// joinCluster finds the node's cluster, opens its control group and starts the
// parts once that tells of them.
func (n *Node) joinCluster(ctx context.Context) error {
	if err := n.former.Run(ctx); err != nil {
		return err
	}
	id := n.record.Identity()
	if err := n.former.Verify(ctx); err != nil {
		return err
	}
	cfg := control.Config{
		Node: n.cfg.Name, Dir: n.path(controlFolder), DB: n.db, Log: n.cfg.Log,
		Address: n.cfg.PeerAdvertise, Listener: n.network.Channel(peer.Control), Dial: n.network.On(peer.Control).Dial,
		Forward: n.forwardControl, Election: max(time.Second, 2*n.cfg.RaftRTT*time.Duration(n.cfg.RaftElection)),
		Voters: id.Voters(n.cfg.Name),
	}
	var err error
	if n.control, err = control.Open(ctx, cfg); err != nil {
		return fmt.Errorf("open the control group: %w", err)
	}
	n.former.Opened(n.control)
	keeper := form.NewKeeper(n.former, n.control)
	n.keeper.Store(keeper)
	n.tasks.Go(func() {
		if err := keeper.Run(n.ctx); err != nil {
			n.giveUp(err)
		}
	})
	if err := n.waitMember(ctx); err != nil {
		return err
	}
	if err := n.startParts(ctx); err != nil {
		return err
	}
	n.cfg.Log.Info("the node is in its cluster", "cluster", id.Cluster, "name", n.cfg.Name)
	return nil
}

// waitMember waits until the control group knows of this node and of the shards.
func (n *Node) waitMember(ctx context.Context) error {
	for {
		changed := n.control.Changed()
		state := n.control.State()
		if _, ok := state.Members[n.cfg.Name]; ok && len(state.Placement.Slots) > 0 {
			return n.control.Ready(ctx)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// gate says why the node does not take requests yet.
func (n *Node) gate() error {
	switch {
	case n.open.Load():
		return nil
	case n.former == nil:
		return spec.Errorf(spec.CodeUnavailable, "the node is starting")
	case n.record.Cluster() == "":
		return spec.Errorf(spec.CodeUnavailable, "the node belongs to no cluster yet: %s", n.former.Waiting())
	}
	return spec.Errorf(spec.CodeUnavailable, "the node waits for its cluster %s: too few of the nodes that it needs are there", n.record.Cluster())
}

// asksForCluster tells whether the settings make the node one of a cluster.
func (c Config) asksForCluster() bool {
	return len(c.Join) > 0 || c.Expect > 1 || c.Expect == 1 && c.PeerListen != ""
}

func (c Config) validateCluster() []error {
	var errs []error
	for _, a := range []struct{ name, address string }{{"peer-listen", c.PeerListen}, {"peer-advertise", c.PeerAdvertise}} {
		if a.address != "" {
			errs = append(errs, checkPeerAddress(a.name, a.address))
		}
	}
	for _, address := range c.Join {
		errs = append(errs, checkPeerAddress("join", address))
	}
	advertised := cmp.Or(c.PeerAdvertise, c.PeerListen)
	if host, _, err := net.SplitHostPort(advertised); err == nil && net.ParseIP(host).IsUnspecified() {
		errs = append(errs, fmt.Errorf("peer-listen: %s stands for every address of this machine: name the one that other nodes reach in peer-advertise", advertised))
	}
	if host, _, err := net.SplitHostPort(c.PeerListen); err == nil && !loopback(host) && c.JoinToken == "" && !c.Insecure {
		errs = append(errs, fmt.Errorf("peer-listen: %s is reachable from other machines, and whoever reaches it could pass for a node: set join-token, or say --insecure", c.PeerListen))
	}
	if c.Expect < 0 || c.Expect > maxExpect {
		errs = append(errs, fmt.Errorf("bootstrap-expect: %d is not between 1 and %d", c.Expect, maxExpect))
	}
	if c.Expect > 1 && len(c.Join) == 0 {
		errs = append(errs, fmt.Errorf("bootstrap-expect: %d nodes can't find each other without the peer addresses of all of them in join", c.Expect))
	}
	if known := c.known(); c.Expect > 1 && len(c.Join) > 0 && c.Expect > known {
		errs = append(errs, fmt.Errorf("bootstrap-expect: %d nodes are expected and join names %d: it needs the peer addresses of all of them", c.Expect, known))
	}
	if c.JoinToken != "" && len(c.JoinToken) < leastTokenBytes {
		errs = append(errs, fmt.Errorf("join-token: it has %d bytes, and fewer than %d are too easy to guess", len(c.JoinToken), leastTokenBytes))
	}
	if c.Replicas < 1 || c.Replicas > maxReplicas {
		errs = append(errs, fmt.Errorf("replicas: %d is not between 1 and %d", c.Replicas, maxReplicas))
	}
	if c.RaftRTT < time.Millisecond || c.RaftRTT > time.Second {
		errs = append(errs, fmt.Errorf("raft-rtt: %v is not between 1ms and 1s", c.RaftRTT))
	}
	if c.RaftElection < 5 || c.RaftElection > 1000 {
		errs = append(errs, fmt.Errorf("raft-election: %d ticks are not between 5 and 1000", c.RaftElection))
	}
	if c.RebuildAfter < time.Second {
		errs = append(errs, fmt.Errorf("rebuild-after: %v is less than 1s", c.RebuildAfter))
	}
	return errs
}

// known is how many nodes there can be at the addresses that the node knows, itself
// included.
func (c Config) known() int {
	addresses := map[string]bool{}
	for _, a := range append([]string{cmp.Or(c.PeerAdvertise, c.PeerListen, defaultPeerListen)}, c.Join...) {
		addresses[a] = true
	}
	return len(addresses)
}

func checkPeerAddress(setting, address string) error {
	host, port, err := net.SplitHostPort(address)
	if err != nil || port == "" || port == "0" || host == "" && setting != "peer-listen" {
		return fmt.Errorf("%s: %q is not host:port with a fixed port", setting, address)
	}
	return nil
}

package cli

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/pheromone-run/pheromone/client"
	"github.com/pheromone-run/pheromone/spec/wire"
	"github.com/spf13/cobra"
)

func (c *cli) clusterCommand() *cobra.Command {
	return family("cluster", "The cluster's nodes and shards",
		c.clusterStatusCommand(), c.clusterInitCommand(), c.clusterJoinCommand(),
		c.clusterDrainCommand(), c.clusterRemoveCommand(), c.clusterRebalanceCommand())
}

func (c *cli) clusterStatusCommand() *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "Show the nodes and the shards", Args: cobra.NoArgs,
		RunE: c.asking(func(ctx context.Context, server *client.Client, _ []string) error {
			cluster, err := server.Cluster(ctx)
			if err != nil {
				return err
			}
			return c.showCluster(cluster)
		}),
	}
}

func (c *cli) showCluster(cluster wire.Cluster) error {
	var names []string
	for _, n := range cluster.Nodes {
		names = append(names, n.Name)
	}
	return c.show(view{value: cluster, items: anys(cluster.Shards), names: names, table: func(t *table) {
		c.clusterTable(t, cluster)
	}})
}

// clusterTable is a table of nodes and one of shards below it.
func (c *cli) clusterTable(t *table, cluster wire.Cluster) {
	shards := &table{}
	shards.header("SHARD", "LEADER", "REPLICAS", "EPOCH", "APPLIED", "PENDING", "SLOTS")
	for _, s := range cluster.Shards {
		shards.row(strconv.FormatUint(uint64(s.Shard), 10), orDash(s.Leader), orDash(replicaNodes(s)), strconv.FormatUint(s.Epoch, 10),
			strconv.FormatUint(s.Applied, 10), strconv.Itoa(s.PendingInvocations), strconv.Itoa(s.Slots))
	}
	if cluster.ID == "" {
		*t = *shards
	} else {
		t.header("NODE", "STATE", "VOTER", "REPLICAS", "LEADS", "ADDRESS", "API", "VERSION", "JOINED")
		for _, n := range cluster.Nodes {
			t.row(n.Name, nodeState(n, cluster.ControlLeader != ""), yesNo(n.Voter), strconv.Itoa(n.Replicas), strconv.Itoa(n.Leading), n.Address, orDash(n.API), n.Version, ago(c.age(n.JoinedAt)))
		}
		if len(cluster.Shards) > 0 {
			t.next = shards
		}
	}
	last := t
	if t.next != nil {
		last = t.next
	}
	for _, s := range cluster.Shards {
		for _, tr := range s.Stalled {
			last.linef("stalled on shard %d: %s %s/%s  %s  %s", s.Shard, tr.App, tr.Bucket, tr.Trigger, tr.Primitive, harmless(tr.Reason))
		}
	}
	ready := "ready"
	if !cluster.Ready {
		ready = "not ready"
		if cluster.Waiting != "" {
			ready += ": " + cluster.Waiting
		}
	}
	if cluster.ID != "" {
		last.linef("cluster %s  control group led by %s", harmless(cluster.ID), harmless(orDash(cluster.ControlLeader)))
	}
	last.linef("node %s  version %s  up %s  %s", harmless(cluster.Node), harmless(cluster.Version), c.age(cluster.StartedAt), harmless(ready))
}

// nodeState is a node's state as far as it is known: the leader of the control
// group is who tells which nodes are there.
func nodeState(n wire.Node, known bool) string {
	switch {
	case !n.Live && !known:
		return "unknown"
	case !n.Live:
		return "away"
	case n.Draining:
		return "draining"
	}
	return "live"
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// replicaNodes lists the nodes of a shard; one that still joins has a plus.
func replicaNodes(s wire.Shard) string {
	var nodes []string
	for _, r := range s.Replicas {
		node := r.Node
		if r.Joining {
			node += "+"
		}
		nodes = append(nodes, node)
	}
	return strings.Join(nodes, ",")
}

func (c *cli) clusterInitCommand() *cobra.Command {
	var voters []string
	cmd := &cobra.Command{
		Use: "init", Short: "Found a cluster of the nodes that are there", Args: cobra.NoArgs,
		Long: "Found a cluster of the node that is asked and all that it sees at its --join addresses. It is for nodes\n" +
			"that were started without --bootstrap-expect, and asked of one of them, once.",
		RunE: c.asking(func(ctx context.Context, server *client.Client, _ []string) error {
			cluster, err := server.InitCluster(ctx, voters)
			if err != nil {
				return err
			}
			c.notice("cluster %s is founded; its nodes come together now", cluster.ID)
			return c.showCluster(cluster)
		}),
	}
	cmd.Flags().StringSliceVar(&voters, "voters", nil, "nodes that make the control group (default: three, and five of five or more)")
	return cmd
}

func (c *cli) clusterJoinCommand() *cobra.Command {
	return &cobra.Command{
		Use: "join ADDRESS", Short: "Have a node join the cluster of another", Args: cobra.ExactArgs(1),
		Long: "Have the node that is asked (--server), which belongs to no cluster yet, join that of the node which\n" +
			"listens for other nodes at ADDRESS.",
		Example:           "  pheromone cluster join 10.0.0.1:7170 --server http://10.0.0.4:7070",
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: c.asking(func(ctx context.Context, server *client.Client, args []string) error {
			cluster, err := server.JoinCluster(ctx, args[0])
			if err != nil {
				return err
			}
			c.notice("node %s belongs to cluster %s", cluster.Node, cluster.ID)
			return c.showCluster(cluster)
		}),
	}
}

func (c *cli) clusterDrainCommand() *cobra.Command {
	var undo bool
	cmd := &cobra.Command{
		Use: "drain NODE", Short: "Move a node's replicas to others", Args: cobra.ExactArgs(1),
		Long: "Have the cluster move the replicas of a node to others, as before it is removed or stopped for long. It\n" +
			"takes no new ones until --undo. `pheromone cluster status` shows how many it still has.",
		ValidArgsFunction: c.complete(c.nodes),
		RunE: c.asking(func(ctx context.Context, server *client.Client, args []string) error {
			cluster, err := server.DrainNode(ctx, args[0], !undo)
			if err != nil {
				return err
			}
			return c.showCluster(cluster)
		}),
	}
	cmd.Flags().BoolVar(&undo, "undo", false, "let it have replicas again")
	return cmd
}

func (c *cli) clusterRemoveCommand() *cobra.Command {
	var yes, force bool
	cmd := &cobra.Command{
		Use: "remove NODE", Short: "Remove a node from the cluster", Args: cobra.ExactArgs(1),
		Long: "Remove a node from the cluster, for ever: its data folder can't come back. Drain it before; with --force\n" +
			"one that is lost is removed with the replicas that it has.",
		ValidArgsFunction: c.complete(c.nodes),
		RunE: func(cmd *cobra.Command, args []string) error {
			server, err := c.connect()
			if err != nil {
				return err
			}
			if err := c.confirm(cmd.Context(), yes, fmt.Sprintf("Remove node %s from the cluster?", args[0])); err != nil {
				return err
			}
			ctx, cancel := c.bounded(cmd.Context())
			defer cancel()
			if err := server.RemoveNode(ctx, args[0], force); err != nil {
				return err
			}
			c.notice("node %s is removed", args[0])
			return nil
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "even if it has replicas, which are lost")
	yesFlag(cmd, &yes)
	return cmd
}

func (c *cli) clusterRebalanceCommand() *cobra.Command {
	return &cobra.Command{
		Use: "rebalance", Short: "Spread replicas and leaders evenly", Args: cobra.NoArgs,
		Long: "Ask the cluster to spread replicas and leaders evenly over the nodes. It goes on in the background.",
		RunE: c.asking(func(ctx context.Context, server *client.Client, _ []string) error {
			cluster, err := server.Rebalance(ctx)
			if err != nil {
				return err
			}
			return c.showCluster(cluster)
		}),
	}
}

// nodes completes the names of the cluster's nodes.
func (c *cli) nodes(ctx context.Context, server *client.Client, _ []string, _ string) []string {
	cluster, err := server.Cluster(ctx)
	if err != nil {
		return nil
	}
	var names []string
	for _, n := range cluster.Nodes {
		names = append(names, n.Name)
	}
	return names
}

package cli

import (
	"strconv"

	"github.com/spf13/cobra"
)

func (c *cli) clusterCommand() *cobra.Command {
	return family("cluster", "The cluster's nodes and shards", &cobra.Command{
		Use: "status", Short: "Show what the node knows of the cluster", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			server, err := c.connect()
			if err != nil {
				return err
			}
			ctx, cancel := c.bounded(cmd.Context())
			defer cancel()
			cluster, err := server.Cluster(ctx)
			if err != nil {
				return err
			}
			return c.show(view{value: cluster, items: anys(cluster.Shards), names: []string{cluster.Node}, table: func(t *table) {
				t.header("SHARD", "LEADER", "EPOCH", "APPLIED", "PENDING", "SLOTS")
				for _, s := range cluster.Shards {
					t.row(strconv.FormatUint(uint64(s.Shard), 10), orDash(s.Leader), strconv.FormatUint(s.Epoch, 10),
						strconv.FormatUint(s.Applied, 10), strconv.Itoa(s.PendingInvocations), strconv.Itoa(s.Slots))
				}
				for _, s := range cluster.Shards {
					for _, tr := range s.Stalled {
						t.linef("stalled on shard %d: %s %s/%s  %s  %s", s.Shard, tr.App, tr.Bucket, tr.Trigger, tr.Primitive, harmless(tr.Reason))
					}
				}
				ready := "ready"
				if !cluster.Ready {
					ready = "not ready"
				}
				t.linef("node %s  version %s  %s  up %s", harmless(cluster.Node), harmless(cluster.Version), ready, c.age(cluster.StartedAt))
			}})
		},
	})
}

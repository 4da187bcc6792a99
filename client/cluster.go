package client

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/url"

	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/spec/wire"
)

// Cluster tells what the answering node knows of the cluster: one of those that New
// was given.
func (c *Client) Cluster(ctx context.Context) (wire.Cluster, error) {
	var out wire.Cluster
	r := get("get cluster", route("cluster"), nil)
	r.ofNamed = true
	_, err := c.call(ctx, r, &out)
	return out, err
}

// InitCluster founds a cluster of the answering node and those that it sees at the
// addresses it was told to join. voters names the nodes that make the control group;
// none leaves the choice to the node.
func (c *Client) InitCluster(ctx context.Context, voters []string) (wire.Cluster, error) {
	return c.changeCluster(ctx, "found the cluster", "init", wire.InitCluster{Voters: voters})
}

// JoinCluster has the answering node, which belongs to no cluster yet, join that of
// the node that others reach at address.
func (c *Client) JoinCluster(ctx context.Context, address string) (wire.Cluster, error) {
	return c.changeCluster(ctx, "join the cluster of "+address, "join", wire.JoinCluster{Address: address})
}

func (c *Client) changeCluster(ctx context.Context, op, what string, body any) (wire.Cluster, error) {
	var out wire.Cluster
	text, err := json.Marshal(body)
	if err != nil {
		return out, &Error{Op: op, Err: spec.Errorf(spec.CodeInvalid, "%w", err)}
	}
	_, err = c.call(ctx, request{
		op: op, method: http.MethodPost, path: route("cluster", what), header: http.Header{"Content-Type": {"application/json"}},
		body: bytes.NewReader(text),
	}, &out)
	return out, err
}

// DrainNode has the cluster move a node's replicas to others, or with drain false
// give it some again.
func (c *Client) DrainNode(ctx context.Context, node string, drain bool) (wire.Cluster, error) {
	what, op := "drain", "drain node "+node
	if !drain {
		what, op = "undrain", "use node "+node+" again"
	}
	return c.postCluster(ctx, op, "nodes", node, what)
}

// RemoveNode makes a node a member of the cluster no more. A node with replicas is
// refused, unless force gives them up for lost.
func (c *Client) RemoveNode(ctx context.Context, node string, force bool) error {
	query := url.Values{}
	if force {
		query.Set("force", "1")
	}
	_, err := c.call(ctx, request{op: "remove node " + node, method: http.MethodDelete, path: route("cluster", "nodes", node), query: query}, nil)
	return err
}

// Rebalance asks the cluster to spread replicas and leaders evenly.
func (c *Client) Rebalance(ctx context.Context) (wire.Cluster, error) {
	return c.postCluster(ctx, "rebalance the cluster", "rebalance")
}

func (c *Client) postCluster(ctx context.Context, op string, segments ...string) (wire.Cluster, error) {
	var out wire.Cluster
	_, err := c.call(ctx, request{
		op: op, method: http.MethodPost, path: route(append([]string{"cluster"}, segments...)...), repeatable: true,
	}, &out)
	return out, err
}

package node

import (
	"context"
	"io"

	"github.com/pheromone-run/pheromone/node/peer"
	"github.com/pheromone-run/pheromone/spec"
)

// handle has requests of other nodes for a method answered by h. It is called
// before the node serves them.
func (n *Node) handle(method string, h peer.Handler) { n.methods[method] = h }

// serveCalls answers other nodes until the network is closed.
func (n *Node) serveCalls() {
	n.tasks.Go(func() {
		if err := peer.Serve(n.network.Channel(peer.Calls), n.answerCall, n.cfg.Log); err != nil && n.ctx.Err() == nil {
			n.fatal(err)
		}
	})
}

func (n *Node) answerCall(ctx context.Context, c *peer.Call) (peer.Answer, error) {
	h, ok := n.methods[c.Method]
	if !ok {
		return peer.Answer{}, spec.Errorf(spec.CodeUnsupported, "node %s does not know the request %.100q: it has another version", n.cfg.Name, c.Method)
	}
	return h(ctx, c)
}

// call asks a member of the cluster by its name, as peer.Caller.Call does by address.
func (n *Node) call(ctx context.Context, node, method string, args any, body io.Reader, result any) (io.ReadCloser, error) {
	m, ok := n.control.State().Members[node]
	if !ok || n.caller == nil {
		return nil, errNoMember(node)
	}
	return n.caller.Call(ctx, m.Address, method, args, body, result)
}

func errNoMember(node string) error {
	return spec.Errorf(spec.CodeUnavailable, "node %q is not a member of the cluster: %w", node, peer.ErrNotSent)
}

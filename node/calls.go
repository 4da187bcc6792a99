package node

import (
	"context"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/pheromone-run/pheromone/node/form"
	"github.com/pheromone-run/pheromone/node/peer"
	"github.com/pheromone-run/pheromone/spec"
)

// handle has requests of other nodes for a method answered by h. It is called
// before the node serves them.
func (n *Node) handle(method string, h peer.Handler) { n.methods[method] = h }

// serveCalls answers other nodes until the network is closed.
func (n *Node) serveCalls() {
	n.tasks.Go(func() {
		if err := peer.Serve(n.network, n.answerCall); err != nil && n.ctx.Err() == nil {
			n.fatal(err)
		}
	})
}

func (n *Node) answerCall(ctx context.Context, c *peer.Call) (peer.Answer, error) {
	h, ok := n.methods[c.Method]
	if !ok {
		return peer.Answer{}, spec.Errorf(spec.CodeUnsupported, "node %s does not know the request %.100q: it has another version", n.cfg.Name, c.Method)
	}
	if !n.open.Load() && !early[c.Method] || n.keeper.Load() == nil && c.Method != form.MethodHello {
		if strings.HasPrefix(c.Method, shardMethods) {
			return peer.Answer{Result: shardAnswer{NotTaken: "it is starting"}}, nil
		}
		if strings.HasPrefix(c.Method, "exec.") { // as if it had no room: nothing was done
			return peer.Answer{}, spec.Errorf(spec.CodeOverloaded, "node %s is starting", n.cfg.Name)
		}
		return peer.Answer{}, spec.Errorf(spec.CodeUnavailable, "node %s is starting", n.cfg.Name)
	}
	return h(ctx, c)
}

// shardMethods is how the methods of questions to shards begin.
const shardMethods = "shard."

// early are the requests that a node answers while its parts start.
var early = map[string]bool{form.MethodHello: true, form.MethodJoin: true, controlApply: true, methodLive: true}

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

// others lists the other members of the cluster in order; none for a node alone.
func (n *Node) others() []string {
	if n.network == nil {
		return nil
	}
	names := slices.Sorted(maps.Keys(n.control.State().Members))
	return slices.DeleteFunc(names, func(name string) bool { return name == n.cfg.Name })
}

const controlApply = "control.apply"

// forwardControl implements control.Config.Forward.
func (n *Node) forwardControl(ctx context.Context, leader string, request []byte) ([]byte, error) {
	var answer []byte
	_, err := n.call(ctx, leader, controlApply, request, nil, &answer)
	return answer, err
}

// answerControl has the node answer what others forward to the control group's leader.
func (n *Node) answerControl() {
	n.handle(controlApply, func(ctx context.Context, c *peer.Call) (peer.Answer, error) {
		var request []byte
		if err := c.Args(&request); err != nil {
			return peer.Answer{}, err
		}
		answer, err := n.control.ApplyEncoded(ctx, request)
		return peer.Answer{Result: answer}, err
	})
}

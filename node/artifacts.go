package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/pheromone-run/pheromone/exec/artifact"
	"github.com/pheromone-run/pheromone/node/peer"
	"github.com/pheromone-run/pheromone/raft/control"
	"github.com/pheromone-run/pheromone/spec"
)

// artifactGrace is how long an uploaded folder is kept that no app uses: it comes
// before the manifest that does.
const artifactGrace = time.Hour

// removeArtifacts removes the folders that no kept version of an app uses.
func (n *Node) removeArtifacts(ctx context.Context) error {
	state := n.control.State()
	keep := map[string]bool{}
	for _, app := range state.Apps {
		for _, v := range app.Versions {
			keep[v.Artifact] = true
		}
	}
	for sum, a := range state.Artifacts {
		if keep[sum] {
			continue
		}
		if n.now().Sub(a.Created) < artifactGrace {
			keep[sum] = true
			continue
		}
		if _, err := n.control.Apply(ctx, &control.DeleteArtifact{Sum: sum}); err != nil {
			return fmt.Errorf("forget artifact %s: %w", sum, err)
		}
	}
	if err := n.artifacts.Remove(keep); err != nil {
		return fmt.Errorf("remove artifacts that no app uses: %w", err)
	}
	return nil
}

// artifactArgs name an artifact between nodes.
type artifactArgs struct {
	Sum string `json:"sum"`
}

const (
	artifactGet = "artifact.get"
	artifactPut = "artifact.put"
)

// artifactsBetweenNodes has the node answer others that lack an artifact, or have one for it.
func (n *Node) artifactsBetweenNodes() {
	n.handle(artifactGet, func(_ context.Context, c *peer.Call) (peer.Answer, error) {
		var a artifactArgs
		if err := c.Args(&a); err != nil {
			return peer.Answer{}, err
		}
		body, err := n.artifacts.Open(a.Sum)
		return peer.Answer{Body: body}, err
	})
	n.handle(artifactPut, func(ctx context.Context, c *peer.Call) (peer.Answer, error) {
		var a artifactArgs
		if err := c.Args(&a); err != nil {
			return peer.Answer{}, err
		}
		if err := n.db.Writable(); err != nil {
			return peer.Answer{}, err
		}
		_, err := n.artifacts.Put(ctx, a.Sum, c.Body, artifact.MaxBytes)
		return peer.Answer{}, err
	})
}

// fetchArtifact implements artifact.Fetch: it asks the other nodes one by one.
func (n *Node) fetchArtifact(ctx context.Context, sum string) (io.ReadCloser, error) {
	errs := []error{spec.Errorf(spec.CodeNotFound, "artifact %s is on no node: upload it first", sum)}
	for _, name := range n.others() {
		body, err := n.call(ctx, name, artifactGet, artifactArgs{sum}, nil, nil)
		if err == nil {
			return body, nil
		}
		if spec.CodeOf(err) != spec.CodeNotFound {
			errs = append([]error{err}, errs...)
		}
	}
	return nil, errs[0]
}

// artifactSpread bounds how long another node may take for an artifact.
const artifactSpread = time.Minute

// spreadArtifact has a majority of the members store an artifact, so that it is
// there when nodes are gone. Those that are not reached fetch it when they need it.
func (n *Node) spreadArtifact(ctx context.Context, sum string) error {
	others := n.others()
	stored := make(chan error, len(others))
	for _, name := range others {
		if !n.tasks.Go(func() { // to its end, whether it is waited for or not
			ctx, cancel := context.WithTimeout(n.ctx, artifactSpread)
			defer cancel()
			stored <- n.sendArtifact(ctx, name, sum)
		}) {
			stored <- errStopping(n.cfg.Name)
		}
	}
	have, failed := 1, []error(nil)
	for asked := 0; asked < len(others) && have <= (len(others)+1)/2; asked++ {
		select {
		case err := <-stored:
			if err != nil {
				failed = append(failed, err)
			} else {
				have++
			}
		case <-ctx.Done():
			return spec.Errorf(spec.CodeTimeout, "the artifact is on %d of %d nodes so far: %w", have, len(others)+1, ctx.Err())
		}
	}
	if have <= (len(others)+1)/2 {
		return spec.Errorf(spec.CodeUnavailable, "the artifact is on %d of %d nodes, which is no majority: %w", have, len(others)+1, errors.Join(failed...))
	}
	return nil
}

func (n *Node) sendArtifact(ctx context.Context, node, sum string) error {
	r, err := n.artifacts.Open(sum)
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }()
	_, err = n.call(ctx, node, artifactPut, artifactArgs{sum}, r, nil)
	return err
}

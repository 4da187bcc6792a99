package node

import (
	"context"
	"fmt"
	"time"

	"github.com/pheromone-run/pheromone/raft/control"
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

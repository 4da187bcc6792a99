package spread

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/pheromone-run/pheromone/spec"
)

// ArtifactStore is the artifacts of a node; *artifact.Store is one.
type ArtifactStore interface {
	Has(sum string) bool
	Put(ctx context.Context, sum string, r io.Reader, max int64) (existed bool, err error)
	Open(sum string) (io.ReadCloser, error)
	Dir(ctx context.Context, sum string) (string, error)
}

// Artifacts finds the folders of apps and gets those that this node lacks from
// other nodes. It is safe for concurrent use.
type Artifacts struct {
	Store ArtifactStore
	Call  Call
	// Nodes names the other nodes, those first that most likely have them.
	Nodes func() []string
	// MaxBytes bounds an artifact.
	MaxBytes int64

	fetching singleflight.Group
}

const (
	// artifactSilence is how long a node may say nothing while it sends an artifact,
	// and artifactTime how long it may take in all.
	artifactSilence = 10 * time.Second
	artifactTime    = 10 * time.Minute
)

// Dir returns the folder with an artifact's files.
func (a *Artifacts) Dir(ctx context.Context, sum string) (string, error) {
	if err := a.Ensure(ctx, sum); err != nil {
		return "", err
	}
	return a.Store.Dir(ctx, sum)
}

// Ensure returns once an artifact is on this node. It is fetched once, however many
// ask for it, and whoever of them gives up.
func (a *Artifacts) Ensure(ctx context.Context, sum string) error {
	if sum == "" || a.Store.Has(sum) {
		return nil
	}
	fetched := a.fetching.DoChan(sum, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), artifactTime)
		defer cancel()
		return nil, a.fetch(ctx, sum)
	})
	select {
	case res := <-fetched:
		return res.Err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// fetch gets an artifact from the first node that has it. What came is checked
// against its name before it is kept.
func (a *Artifacts) fetch(ctx context.Context, sum string) error {
	errs := []error{spec.Errorf(spec.CodeNotFound, "artifact %s is not on this node", sum)}
	for _, node := range a.Nodes() {
		err := a.fetchFrom(ctx, node, sum)
		if err == nil {
			return nil
		}
		errs = append(errs, fmt.Errorf("node %s: %w", node, err))
	}
	return errors.Join(errs...)
}

func (a *Artifacts) fetchFrom(ctx context.Context, node, sum string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	silence := time.AfterFunc(artifactSilence, cancel)
	body, err := a.Call(ctx, node, MethodArtifact, &artifactArgs{sum}, nil, nil)
	silence.Stop()
	if err != nil {
		return err
	}
	if body == nil {
		return errors.New("it sent nothing")
	}
	defer func() { _ = body.Close() }()
	_, err = a.Store.Put(ctx, sum, watch(body, artifactSilence, cancel), a.MaxBytes)
	return err
}

// artifactArgs asks a node for an artifact.
type artifactArgs struct {
	Sum string `json:"sum"`
}

// Handlers returns what other nodes may ask for, by method.
func (a *Artifacts) Handlers() map[string]Handler {
	return map[string]Handler{
		MethodArtifact: func(_ context.Context, args func(into any) error, _ io.Reader) (any, io.ReadCloser, error) {
			var in artifactArgs
			if err := args(&in); err != nil {
				return nil, nil, err
			}
			body, err := a.Store.Open(in.Sum)
			return nil, body, err
		},
	}
}

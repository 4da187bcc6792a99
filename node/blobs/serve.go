package blobs

import (
	"context"
	"errors"
	"io"
	"slices"
	"sync"

	"golang.org/x/sync/semaphore"

	"github.com/pheromone-run/pheromone/node/peer"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/store"
)

// What other nodes ask.
const (
	methodPut    = "blob.put"    // to take a copy of a blob that is staged
	methodGet    = "blob.get"    // for the bytes of a blob
	methodDrop   = "blob.drop"   // to remove copies that no entry will refer to
	methodStaged = "blob.staged" // which of some blobs are undecided
)

// named is a blob in a shard.
type named struct {
	Shard spec.ShardID `json:"shard"`
	App   spec.AppName `json:"app"`
	Blob  []byte       `json:"blob"` // its record
}

type putArgs struct {
	Node string `json:"node"` // that has staged it
	named
}

type namesArgs struct {
	Shard spec.ShardID     `json:"shard"`
	Names []store.BlobName `json:"names"`
}

type stagedAnswer struct {
	Staged []store.BlobName `json:"staged"`
}

// Methods are the requests that Handle answers.
var Methods = []string{methodPut, methodGet, methodDrop, methodStaged}

// Handle answers a request of another node.
func (b *Blobs) Handle(ctx context.Context, c *peer.Call) (peer.Answer, error) {
	switch c.Method {
	case methodPut:
		return b.put(ctx, c)
	case methodGet:
		return b.get(ctx, c)
	case methodDrop:
		return b.drop(c)
	case methodStaged:
		return b.staged(c)
	}
	return peer.Answer{}, spec.Errorf(spec.CodeUnsupported, "%.100q is no request about blobs", c.Method)
}

// open reads what blob a request is about, of a shard that has a replica here.
func (b *Blobs) open(n *named) (blob store.Blob, err error) {
	if err := b.here(n.Shard); err != nil {
		return blob, err
	}
	if blob, err = store.DecodeBlob(n.Blob); err != nil {
		return blob, spec.Errorf(spec.CodeInvalid, "the blob can't be read: %w", err)
	}
	if blob.Size < 0 || blob.Size > spec.MaxMaxObjectBytes {
		return blob, spec.Errorf(spec.CodeTooLarge, "the blob is said to have %d bytes, objects have at most %d", blob.Size, int64(spec.MaxMaxObjectBytes))
	}
	return blob, nil
}

func (b *Blobs) here(shard spec.ShardID) error {
	if slices.Contains(b.cfg.Shards(), shard) {
		return nil
	}
	return spec.Errorf(spec.CodeUnavailable, "node %s has no replica of shard %d", b.cfg.Node, shard)
}

func (b *Blobs) put(ctx context.Context, c *peer.Call) (peer.Answer, error) {
	var args putArgs
	if err := c.Args(&args); err != nil {
		return peer.Answer{}, err
	}
	blob, err := b.open(&args.named)
	if err != nil {
		return peer.Answer{}, err
	}
	if c.Body == nil || args.Node == "" {
		return peer.Answer{}, spec.Errorf(spec.CodeInvalid, "%s needs the bytes, and the node that has staged them", methodPut)
	}
	if err := b.cfg.DB.Writable(); err != nil {
		return peer.Answer{}, err
	}
	ctx, cancel := b.bounded(ctx, &blob)
	defer cancel()
	if err := b.incoming.Acquire(ctx, 1); err != nil {
		return peer.Answer{}, spec.Errorf(spec.CodeOverloaded, "node %s takes as many blobs as it can: %w", b.cfg.Node, err)
	}
	defer b.incoming.Release(1)
	defer c.EndBody(ctx)()
	return peer.Answer{}, b.cfg.DB.StageCopy(ctx, args.Shard, args.App, blob, args.Node, c.Body)
}

// bounded ends with the request, the time that it may take, and the node.
func (b *Blobs) bounded(ctx context.Context, blob *store.Blob) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(ctx, transferWait(blob))
	stop := context.AfterFunc(b.ctx, cancel)
	return ctx, func() { stop(); cancel() }
}

func (b *Blobs) get(ctx context.Context, c *peer.Call) (peer.Answer, error) {
	var args named
	if err := c.Args(&args); err != nil {
		return peer.Answer{}, err
	}
	blob, err := b.open(&args)
	if err != nil {
		return peer.Answer{}, err
	}
	ctx, cancel := b.bounded(ctx, &blob)
	defer cancel()
	if err := b.outgoing.Acquire(ctx, 1); err != nil {
		return peer.Answer{}, spec.Errorf(spec.CodeOverloaded, "node %s gives as many blobs as it can: %w", b.cfg.Node, err)
	}
	stream, err := b.cfg.DB.ExportBlob(args.Shard, args.App, blob)
	if err != nil {
		b.outgoing.Release(1)
		if errors.Is(err, store.ErrNotFound) {
			err = spec.Errorf(spec.CodeNotFound, "node %s does not have the blob either: %w", b.cfg.Node, err)
		}
		return peer.Answer{}, err
	}
	return peer.Answer{Body: &outgoing{ReadCloser: stream, room: b.outgoing}}, nil
}

// outgoing gives its room back when it is sent.
type outgoing struct {
	io.ReadCloser
	room *semaphore.Weighted
	once sync.Once
}

func (o *outgoing) Close() error {
	o.once.Do(func() { o.room.Release(1) })
	return o.ReadCloser.Close()
}

func (b *Blobs) drop(c *peer.Call) (peer.Answer, error) {
	args, err := b.names(c)
	if err != nil {
		return peer.Answer{}, err
	}
	staged := make([]store.StagedBlob, len(args.Names))
	for i := range staged {
		staged[i].BlobName = args.Names[i]
	}
	return peer.Answer{}, b.cfg.DB.DropStaged(args.Shard, staged)
}

func (b *Blobs) staged(c *peer.Call) (peer.Answer, error) {
	args, err := b.names(c)
	if err != nil {
		return peer.Answer{}, err
	}
	open, err := b.cfg.DB.StagedHere(args.Shard, args.Names)
	return peer.Answer{Result: stagedAnswer{open}}, err
}

func (b *Blobs) names(c *peer.Call) (args namesArgs, err error) {
	if err := c.Args(&args); err != nil {
		return args, err
	}
	if len(args.Names) > askedAtOnce {
		return args, spec.Errorf(spec.CodeTooLarge, "%d blobs are asked for at once, at most %d are", len(args.Names), askedAtOnce)
	}
	if args.Shard > store.MaxShard {
		return args, spec.Errorf(spec.CodeInvalid, "there is no shard %d", args.Shard)
	}
	return args, nil
}

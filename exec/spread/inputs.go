package spread

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/pheromone-run/pheromone/exec"
	"github.com/pheromone-run/pheromone/spec"
)

// inputsArgs asks the leader's node for the inputs of an attempt.
type inputsArgs struct {
	Node   string `json:"node"` // that asks
	Inputs []byte `json:"inputs"`
}

// serveInputs streams inputs to a node that has no copy of them.
func (rt *Runtime) serveInputs(ctx context.Context, args *inputsArgs) (io.ReadCloser, error) {
	rt.mu.Lock()
	defer rt.mu.Unlock()
	if rt.mu.closed {
		return nil, spec.Errorf(spec.CodeUnavailable, "the node is stopping")
	}
	r, w := io.Pipe()
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(rt.ctx, func() { _ = r.CloseWithError(context.Canceled) })
	rt.wg.Go(func() {
		defer cancel()
		defer stop()
		_ = w.CloseWithError(rt.writeInputs(ctx, w, args))
	})
	return r, nil
}

// inputsBuffer is how much is written to the network at a time.
const inputsBuffer = 32 << 10

func (rt *Runtime) writeInputs(ctx context.Context, to io.Writer, args *inputsArgs) error {
	w := bufio.NewWriterSize(to, inputsBuffer)
	var bytes int64
	began := time.Now()
	err := rt.cfg.Inputs.Each(ctx, args.Inputs, func(in exec.Input, size int64, data io.Reader) error {
		start, err := startOf(input, headOf(&in), size)
		if err != nil {
			return err
		}
		if _, err := w.Write(start); err != nil {
			return err
		}
		n, err := io.Copy(w, data)
		if err == nil && n != size {
			err = fmt.Errorf("input %s/%s has %d bytes, not %d", in.Bucket, in.Key, n, size)
		}
		bytes += n
		return err
	})
	if err != nil {
		rt.cfg.Log.Warn("inputs were not sent to another node", "node", args.Node, "error", err)
		return err
	}
	end, err := startOf(inputsEnd, nil, 0)
	if err == nil {
		_, err = w.Write(end)
	}
	if err = errors.Join(err, w.Flush()); err == nil {
		rt.peers.transferred(args.Node, bytes, time.Since(began))
	}
	return err
}

// fetch reads the inputs of an attempt of another node from there.
func (rt *Runtime) fetch(ctx context.Context, args *runArgs) ([]exec.Input, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	silence := time.AfterFunc(args.Silence, cancel)
	body, err := rt.cfg.Call(ctx, args.From, MethodInputs, &inputsArgs{rt.cfg.Node, args.Inputs}, nil, nil)
	silence.Stop()
	if err != nil {
		return nil, fmt.Errorf("ask node %s for the inputs: %w", args.From, err)
	}
	if body == nil {
		return nil, fmt.Errorf("node %s sent no inputs", args.From)
	}
	defer func() { _ = body.Close() }()
	in := incoming{r: bufio.NewReaderSize(watch(body, args.Silence, cancel), inputsBuffer), reserved: args.InputBytes}
	list, err := readInputs(in, args.InputBytes)
	if err != nil {
		return nil, fmt.Errorf("read the inputs from node %s: %w", args.From, err)
	}
	return list, nil
}

// readInputs reads frames of inputs with so many bytes together.
func readInputs(in incoming, left int64) (list []exec.Input, err error) {
	for {
		f, err := in.next()
		if err != nil {
			return nil, unexpected(err)
		}
		switch f.kind {
		case input:
			var head inputHead
			if err := f.parse(&head); err != nil {
				return nil, err
			}
			if left -= int64(len(f.data)); left < 0 {
				return nil, errors.New("they have more bytes than was said")
			}
			list = append(list, head.input(f.data))
		case inputsEnd:
			if _, err := in.next(); err != io.EOF { // to the end, so that the connection serves again
				return nil, errors.New("something follows them")
			}
			return list, nil
		default:
			return nil, fmt.Errorf("frame %d among them", f.kind)
		}
	}
}

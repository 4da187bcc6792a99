package node

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"iter"
	"slices"
	"sync"
	"time"

	"github.com/pheromone-run/pheromone/exec"
	"github.com/pheromone-run/pheromone/node/peer"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/spec/wire"
)

// logsArgs ask a node for what functions printed there.
type logsArgs struct {
	App      spec.AppName      `json:"app"`
	Function spec.FunctionName `json:"function,omitempty"`
	Tail     int               `json:"tail"`
	Follow   bool              `json:"follow,omitempty"`
}

const logsRead = "logs.read"

// Logs implements api.Sessions: what was printed on this node and on all others
// that can be reached, by time.
func (n *Node) Logs(ctx context.Context, app spec.AppName, function spec.FunctionName, tail int, follow bool, emit func(wire.LogLine) error) error {
	a, err := n.deployed(ctx, app)
	if err != nil {
		return err
	}
	if function != "" && a.Functions[function] == nil {
		return spec.Errorf(spec.CodeNotFound, "app %q has no function %q", app, function)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	args := logsArgs{app, function, tail, follow}
	var live iter.Seq[exec.LogRecord]
	if follow { // first, so that nothing falls between what is there and what comes
		live = n.logs.Follow(ctx, app, function)
	}
	lines, err := n.logs.Tail(app, function, tail)
	if err != nil {
		return err
	}
	others := n.openLogs(ctx, args)
	defer func() {
		for _, o := range others {
			_ = o.body.Close()
		}
	}()
	for _, o := range others {
		lines = append(lines, o.tail...)
	}
	slices.SortStableFunc(lines, func(x, y exec.LogRecord) int { return x.Time.Compare(y.Time) })
	for _, r := range lines[max(0, len(lines)-tail):] {
		if err := emit(wire.LogLine(r)); err != nil {
			return err
		}
	}
	if !follow {
		return nil
	}
	return n.followLogs(ctx, cancel, newerThan(live, lines), others, emit)
}

// newerThan leaves out what was among the lines already.
func newerThan(live iter.Seq[exec.LogRecord], lines []exec.LogRecord) iter.Seq[exec.LogRecord] {
	return func(yield func(exec.LogRecord) bool) {
		for r := range live {
			if len(lines) > 0 && !r.Time.After(lines[len(lines)-1].Time) {
				continue
			}
			if !yield(r) {
				return
			}
		}
	}
}

// followLogs emits lines as they come, here and on the other nodes, until ctx ends.
func (n *Node) followLogs(ctx context.Context, cancel func(), here iter.Seq[exec.LogRecord], others []*otherLogs, emit func(wire.LogLine) error) error {
	var mu sync.Mutex
	var failed error
	say := func(r exec.LogRecord) bool {
		mu.Lock()
		defer mu.Unlock()
		if failed == nil {
			failed = emit(wire.LogLine(r))
		}
		if failed != nil {
			cancel()
		}
		return failed == nil
	}
	var readers sync.WaitGroup
	for _, o := range others {
		readers.Go(func() {
			for r, err := o.next(); err == nil && say(r); r, err = o.next() {
			}
		})
	}
	for r := range here {
		if !say(r) {
			break
		}
	}
	readers.Wait()
	return errors.Join(failed, ctx.Err())
}

// otherLogs is the logs of another node.
type otherLogs struct {
	body io.ReadCloser
	from *bufio.Scanner
	tail []exec.LogRecord
}

// logsWait bounds how long the logs wait for a node that does not answer.
const logsWait = 2 * time.Second

// openLogs asks the other nodes; those that do not answer are left out.
func (n *Node) openLogs(ctx context.Context, args logsArgs) []*otherLogs {
	var mu sync.Mutex
	var opened []*otherLogs
	var asked sync.WaitGroup
	for _, name := range n.others() {
		asked.Go(func() {
			ctx, cancel := context.WithCancel(ctx)
			patience := time.AfterFunc(logsWait, cancel)
			o := &otherLogs{}
			var err error
			if o.body, err = n.call(ctx, name, logsRead, args, nil, &o.tail); err == nil && !patience.Stop() {
				err = errors.Join(ctx.Err(), o.body.Close())
			}
			if err != nil {
				cancel()
				n.cfg.Log.Warn("the functions' logs of a node are left out", "node", name, "error", err)
				return
			}
			o.from = bufio.NewScanner(o.body)
			o.from.Buffer(make([]byte, 0, 64<<10), 1<<20)
			mu.Lock()
			defer mu.Unlock()
			opened = append(opened, o)
		})
	}
	asked.Wait()
	return opened
}

func (o *otherLogs) next() (r exec.LogRecord, err error) {
	if !o.from.Scan() {
		return r, errors.Join(io.EOF, o.from.Err())
	}
	return r, json.Unmarshal(o.from.Bytes(), &r)
}

// answerLogs has the node tell others what functions printed here.
func (n *Node) answerLogs() {
	n.handle(logsRead, func(ctx context.Context, c *peer.Call) (peer.Answer, error) {
		var a logsArgs
		if err := c.Args(&a); err != nil {
			return peer.Answer{}, err
		}
		var live iter.Seq[exec.LogRecord]
		if a.Follow {
			live = n.logs.Follow(ctx, a.App, a.Function)
		}
		lines, err := n.logs.Tail(a.App, a.Function, a.Tail)
		if err != nil {
			return peer.Answer{}, err
		}
		r, w := io.Pipe()
		if !a.Follow {
			return peer.Answer{Result: lines, Body: r}, w.Close()
		}
		context.AfterFunc(ctx, func() { _ = r.CloseWithError(ctx.Err()) })
		if !n.tasks.Go(func() {
			enc := json.NewEncoder(w)
			for line := range newerThan(live, lines) {
				if enc.Encode(line) != nil {
					break
				}
			}
			_ = w.Close()
		}) {
			_ = w.Close()
		}
		return peer.Answer{Result: lines, Body: r}, nil
	})
}

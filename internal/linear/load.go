package linear

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/pheromone-run/pheromone/client"
	"github.com/pheromone-run/pheromone/internal/nodetest"
	"github.com/pheromone-run/pheromone/spec"
)

// Config says what a Load works on. All of it is required.
type Config struct {
	// Servers are the nodes that clients ask, each client one of them, and with
	// several another one after an answer that did not come.
	Servers []string
	App     spec.AppName
	Bucket  spec.BucketName // drives nothing
	Clients int
	Lasts   time.Duration // at most; how many keys there are follows from it
	Seed    uint64
}

// positionKey is the key that is put to learn a position.
const positionKey spec.Key = "now"

// Load is clients that get, put and delete a few keys, and what they saw.
type Load struct {
	cfg   Config
	keys  []spec.Key
	began time.Time
	stop  <-chan struct{}

	mu struct {
		sync.Mutex
		history []porcupine.Operation
		last    map[spec.Key]spec.Revision // some recent revision, for conditions
		faults  []error                    // answers that make no sense
		away    map[spec.Code]int          // gets that got no answer
	}
}

// Long loads move on to other keys after a while: the checker's work grows faster
// than a key's history.
const (
	keysAtOnce = 5
	keyTime    = 2 * time.Second
)

// NewLoad makes a load that has yet to Run.
func NewLoad(cfg Config) *Load {
	l := &Load{cfg: cfg, began: time.Now()}
	for n := range keysAtOnce * int((cfg.Lasts+keyTime-1)/keyTime) {
		l.keys = append(l.keys, spec.Key(fmt.Sprintf("key-%04d", n)))
	}
	l.mu.last = map[spec.Key]spec.Revision{}
	l.mu.away = map[spec.Code]int{}
	return l
}

// random returns the random numbers of one part of the load.
func (l *Load) random(part uint64) *rand.Rand { return rand.New(rand.NewPCG(l.cfg.Seed, part)) }

// Run has the clients work until stop is closed. Half of them repeat what got no
// answer, under the same idempotency key, until it has one; the others don't, and
// so don't know what became of it.
func (l *Load) Run(stop <-chan struct{}) {
	l.stop = stop
	var workers sync.WaitGroup
	for n := range l.cfg.Clients {
		workers.Go(func() {
			s, err := nodetest.Dial(l.cfg.Servers, n)
			if err != nil {
				l.fault(err)
				return
			}
			defer s.Close()
			w := &worker{Load: l, number: n, servers: s, patient: n%2 == 0, random: l.random(uint64(n) + 1)}
			for !l.stopped() {
				w.once()
			}
		})
	}
	workers.Wait()
}

func (l *Load) stopped() bool {
	select {
	case <-l.stop:
		return true
	default:
		return false
	}
}

func (l *Load) now() int64 { return time.Since(l.began).Nanoseconds() }

func (l *Load) fault(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mu.faults = append(l.mu.faults, err)
}

// never is when an operation returns whose answer was lost.
const never = 1 << 62

// note takes an operation into the history. One without an answer goes on until
// the end of the history.
func (l *Load) note(number int, call int64, op operation, out outcome) {
	back := l.now()
	if out.ending == unknown {
		back = never
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mu.history = append(l.mu.history, porcupine.Operation{ClientId: number, Input: op, Output: out, Call: call, Return: back})
	if out.revision != 0 {
		l.mu.last[op.key] = out.revision
	}
}

type worker struct {
	*Load
	number  int
	count   int // puts
	asked   int // operations
	servers *nodetest.Servers
	patient bool
	random  *rand.Rand
}

// answerWait bounds one operation of a patient client, restarts of nodes included.
const answerWait = 30 * time.Second

func (w *worker) once() {
	op := w.choose()
	ctx, cancel := context.WithTimeout(context.Background(), answerWait)
	defer cancel()
	call := w.now()
	out, err := w.ask(ctx, op)
	if err == nil {
		w.note(w.number, call, op, out)
		return
	}
	switch code := spec.CodeOf(err); {
	case code == spec.CodeNotFound && op.kind != putting:
		w.note(w.number, call, op, outcome{ending: missing})
	case code == spec.CodePrecondition && op.kind != get:
		w.note(w.number, call, op, outcome{ending: refused})
	case code == spec.CodeOverloaded && !w.patient: // it was not done
	case !nodetest.NoAnswer(code):
		w.fault(fmt.Errorf("%v at %s: %w", op, time.Duration(call), err))
	case op.kind == get:
		w.mu.Lock()
		w.mu.away[code]++
		w.mu.Unlock()
		pauseShortly()
	default:
		w.note(w.number, call, op, outcome{ending: unknown})
		pauseShortly()
	}
}

// pauseShortly keeps clients of a node that is away from asking all the time.
func pauseShortly() { <-time.After(5 * time.Millisecond) }

func (w *worker) choose() operation {
	w.asked++
	past := keysAtOnce * int(time.Since(w.began)/keyTime)
	op := operation{key: w.keys[min(past, len(w.keys)-keysAtOnce)+w.random.IntN(keysAtOnce)]}
	w.mu.Lock()
	revision := w.mu.last[op.key]
	w.mu.Unlock()
	switch n := w.random.IntN(100); {
	case n < 45:
		return op
	case n < 65:
		op.kind = putting
	case n < 78:
		op.kind, op.ifRevision = putting, revision
	case n < 88:
		op.kind, op.ifAbsent = putting, true
	case n < 95:
		op.kind = deleting
	default:
		op.kind, op.ifRevision = deleting, revision
	}
	if op.kind == putting {
		w.count++
		size := w.random.IntN(200)
		if w.random.IntN(20) == 0 {
			size = 60_000 + w.random.IntN(300_000) // in the record, or beside it
		}
		op.value = fmt.Sprintf("%d-%d-%d", w.number, w.count, size)
	}
	return op
}

// ask asks for the operation: once, or, as a patient client, until there is an answer.
func (w *worker) ask(ctx context.Context, op operation) (outcome, error) {
	if !w.patient {
		ctx, cancel := context.WithTimeout(ctx, nodetest.TryWait)
		defer cancel()
		return w.askOnce(ctx, w.servers.Next(), op, "")
	}
	var out outcome
	err := w.servers.Until(ctx, func(ctx context.Context, c *client.Client) (err error) {
		out, err = w.askOnce(ctx, c, op, fmt.Sprintf("%d-%d", w.number, w.asked))
		return err
	})
	return out, err
}

func (w *worker) askOnce(ctx context.Context, c *client.Client, op operation, idempotency string) (outcome, error) {
	switch op.kind {
	case get:
		o, err := c.Get(ctx, w.cfg.App, w.cfg.Bucket, op.key, client.GetOptions{})
		if err != nil {
			return outcome{}, err
		}
		value := o.Meta["value"]
		if string(o.Data) != bytesOf(value) {
			return outcome{}, fmt.Errorf("the object's bytes are not those that were put: %d bytes of value %q", len(o.Data), value)
		}
		return outcome{value: value, revision: o.Revision}, nil
	case putting:
		r, err := c.Put(ctx, w.cfg.App, w.cfg.Bucket, op.key, strings.NewReader(bytesOf(op.value)), client.PutOptions{
			Meta: map[string]string{"value": op.value}, IfRevision: op.ifRevision, IfAbsent: op.ifAbsent, IdempotencyKey: idempotency,
		})
		if err == nil && r.Revision == 0 {
			err = errors.New("the put's answer has no revision")
		}
		return outcome{revision: r.Revision}, err
	default:
		_, err := c.Delete(ctx, w.cfg.App, w.cfg.Bucket, op.key, client.DeleteOptions{IfRevision: op.ifRevision, IdempotencyKey: idempotency})
		return outcome{}, err
	}
}

// bytesOf makes the bytes that a value stands for; the value says how many.
func bytesOf(value string) string {
	var number, count, size int
	if _, err := fmt.Sscanf(value, "%d-%d-%d", &number, &count, &size); err != nil {
		return value
	}
	return value + ";" + strings.Repeat(value+";", size/(len(value)+1))
}

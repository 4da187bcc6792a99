package shard_test

import (
	"context"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"pgregory.net/rapid"

	"github.com/pheromone-run/pheromone/raft/shard"
	"github.com/pheromone-run/pheromone/store"
)

// registers are a few keys that clients write on whichever replica leads and read on
// every replica behind a read barrier.
type registers struct {
	t     testing.TB
	began time.Time

	mu struct {
		sync.Mutex
		history []porcupine.Operation
	}
}

type registerOp struct {
	key   int
	write bool
	value int // written, or read: 0 if nothing is there
}

var registerModel = porcupine.Model{
	Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
		by := map[int][]porcupine.Operation{}
		for _, op := range history {
			key := op.Input.(registerOp).key
			by[key] = append(by[key], op)
		}
		var parts [][]porcupine.Operation
		for _, part := range by {
			parts = append(parts, part)
		}
		return parts
	},
	Init: func() any { return 0 },
	Step: func(state, input, output any) (bool, any) {
		op := input.(registerOp)
		if op.write {
			return true, op.value
		}
		return output.(int) == state.(int), state
	},
}

const unknownEnd = int64(1 << 62) // of a write that may still be applied

func (r *registers) note(client int, op registerOp, output int, call, back int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mu.history = append(r.mu.history, porcupine.Operation{ClientId: client, Input: op, Output: output, Call: call, Return: back})
}

func (r *registers) now() int64 { return int64(time.Since(r.began)) }

const registerKeys = 3

// write leads a replica whenever it is elected and writes values that no other
// write has.
func (r *registers) write(ctx context.Context, client int, s *shard.Shard) {
	for value := client << 20; ; {
		term, err := s.Lead(ctx)
		if err != nil {
			return
		}
		for ctx.Err() == nil {
			value++
			op := registerOp{key: rand.IntN(registerKeys), write: true, value: value}
			done := make(chan error, 1)
			call := r.now()
			if term.Propose(body(op.key, []byte(strconv.Itoa(value))), func(err error) { done <- err }) != nil {
				break // it was not taken
			}
			if err := <-done; err != nil {
				r.note(client, op, 0, call, unknownEnd)
				break
			}
			r.note(client, op, 0, call, r.now())
		}
		if ctx.Err() != nil {
			return
		}
	}
}

func (r *registers) read(ctx context.Context, client int, s *shard.Shard, db *store.DB) {
	for ctx.Err() == nil {
		op := registerOp{key: rand.IntN(registerKeys)}
		call := r.now()
		if err := s.ReadIndex(ctx); err != nil {
			return
		}
		raw, err := db.Get(testKey(op.key))
		switch {
		case err == store.ErrNotFound:
		case err != nil:
			r.t.Errorf("read: %v", err)
			return
		default:
			if op.value, err = strconv.Atoi(string(raw)); err != nil {
				r.t.Errorf("read: %v", err)
				return
			}
		}
		r.note(client, registerOp{key: op.key}, op.value, call, r.now())
		select {
		case <-time.After(2 * time.Millisecond): // so that histories stay short
		case <-ctx.Done():
		}
	}
}

// underFaults has three replicas written and read while faults happen to nodes, one
// after the other, and returns what clients have seen.
func underFaults(t *testing.T, faults []string, victims []uint64) []porcupine.Operation {
	t.Helper()
	f := newFleet(t, 0, quick, oftenCut)
	r := &registers{t: t, began: time.Now()}
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	var clients sync.WaitGroup
	defer clients.Wait()
	next := 0
	begin := func(replica uint64) (kill func()) {
		s := f.nodes[replica].start(1, replica, f.members)
		f.shards[replica] = s
		of, cancel := context.WithCancel(ctx)
		var readers sync.WaitGroup
		writer, reader, db := next+1, next+2, f.nodes[replica].db
		next += 2
		clients.Go(func() { r.write(ctx, writer, s) })
		readers.Go(func() { r.read(of, reader, s, db) })
		clients.Go(readers.Wait)
		return func() { // with writes under way; the store can't be read any more
			cancel()
			readers.Wait()
			f.nodes[replica].close()
		}
	}
	kill := map[uint64]func(){}
	for replica := range f.members {
		kill[replica] = begin(replica)
	}
	r.progress()
	for i, fault := range faults {
		victim := victims[i]
		switch fault {
		case "kill":
			kill[victim]()
			r.progress()
			f.nodes[victim].open()
			kill[victim] = begin(victim)
		case "cut":
			f.around(victim, cutWire)
		case "stall":
			f.around(victim, stallWire)
		case "lose":
			f.around(victim, func(w *wire) { w.set(func(w *wire) { w.breakAfter = 4 << 10 }) })
		case "transfer":
			if leader, ok := f.shards[victim].Leader(); ok && leader != victim {
				_ = f.shards[leader].TransferTo(withTimeout(t), victim) // it may have lost the lead meanwhile
			}
		}
		r.progress()
		f.around(victim, mendWire)
	}
	r.progress()
	stop()
	clients.Wait()
	return r.mu.history
}

// progress waits until some more was written and read.
func (r *registers) progress() {
	r.t.Helper()
	counts := func() (writes, reads int) {
		r.mu.Lock()
		defer r.mu.Unlock()
		for _, op := range r.mu.history {
			if op.Input.(registerOp).write {
				writes++
			} else {
				reads++
			}
		}
		return writes, reads
	}
	writes, reads := counts()
	eventually(r.t, "registers are written and read", func() bool {
		w, rd := counts()
		return w > writes+20 && rd > reads+20
	})
}

func TestReadsAndWritesAreLinearizableUnderFaults(t *testing.T) {
	t.Parallel()
	faults := rapid.SliceOfN(rapid.SampledFrom([]string{"kill", "cut", "stall", "lose", "transfer"}), 4, 4)
	victims := rapid.SliceOfN(rapid.Uint64Range(1, 3), 4, 4)
	for _, seed := range []int{1, int(time.Now().UnixNano())} {
		t.Run(strconv.Itoa(seed), func(t *testing.T) {
			what, whom := faults.Example(seed), victims.Example(seed)
			history := underFaults(t, what, whom)
			switch porcupine.CheckOperationsTimeout(registerModel, history, time.Minute) {
			case porcupine.Illegal:
				t.Errorf("%d operations under %v on %v are not linearizable", len(history), what, whom)
			case porcupine.Unknown:
				t.Errorf("%d operations are too many to check", len(history))
			}
		})
	}
}

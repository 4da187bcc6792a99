package leader_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/leader"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/store"
)

// heldUp are copies that come to no end while they are held.
type heldUp struct {
	*copies
	mu       sync.Mutex
	released chan struct{}
	begun    int
}

func (h *heldUp) Spread(ctx context.Context, shard spec.ShardID, app spec.AppName, blob store.Blob) (func() bool, error) {
	h.mu.Lock()
	h.begun++
	released := h.released
	h.mu.Unlock()
	select {
	case <-released:
		return h.copies.Spread(ctx, shard, app, blob)
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (h *heldUp) spreads() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.begun
}

// hold has what is spread from now on wait until release is called.
func (h *heldUp) hold() (release func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.released = make(chan struct{})
	return sync.OnceFunc(func() { close(h.released) })
}

func newHeldUp(t *testing.T, manifest string, functions map[string]function, change ...func(*world)) *heldUp {
	h := &heldUp{released: make(chan struct{})}
	close(h.released)
	h.copies = newCopied(t, 1, manifest, functions, append(change, func(w *world) {
		h.copies = w.copies.(*copies)
		w.copies = h
	})...)
	return h
}

// largeFunctions make a large object of a small one, add to it, and say what it is.
func largeFunctions(r *runs) map[string]function {
	return map[string]function{
		"a": func(c *call) error {
			r.note(c)
			c.put("b", "k", noise(200<<10, 1))
			return nil
		},
		"b": func(c *call) error {
			r.note(c)
			c.put("c", "k", string(c.in[0].Data)+noise(100<<10, 2))
			return nil
		},
		"c": func(c *call) error {
			r.note(c)
			again, err := c.Sink.Get(c.ctx, c.Task, "b", "k")
			if err != nil {
				return err
			}
			whole := "differs"
			if string(c.in[0].Data) == noise(200<<10, 1)+noise(100<<10, 2) && string(again.Data) == noise(200<<10, 1) {
				whole = "whole"
			}
			c.output("out", whole)
			return nil
		},
	}
}

func TestLargeObjectsOfEphemeralBucketsCountBeforeTheyAreOnDisk(t *testing.T) {
	var r runs
	h := newHeldUp(t, volatile, largeFunctions(&r))
	release := h.hold()
	defer release()
	h.into("run", "a", "k", noise(100<<10, 3))
	h.completed("run", "out=whole")
	other := h.putAside("other", "plain", "k", "x")
	eventually(t, "three objects are on their way", func() bool { return h.spreads() == 3 })
	select {
	case err := <-other:
		t.Errorf("a durable put is answered while what came before it is not on a majority: %v", err)
	default:
	}
	release()
	if err := <-other; err != nil {
		t.Error(err)
	}
	if n := len(h.history("run").Invocations); n != 3 {
		t.Errorf("the session has %d invocations, want 3", n)
	}
	h.completed("run", "out=whole")
	if spread, discarded := h.seen(); len(spread[1]) != 3 || len(discarded) != 0 {
		t.Errorf("%d blobs were spread and %d discarded", len(spread[1]), len(discarded))
	}
	h.noneStaged()
}

// noneStaged waits until no blob is marked as staged.
func (h *heldUp) noneStaged() {
	h.t.Helper()
	eventually(h.t, "nothing is staged", func() bool {
		staged, err := h.db.Staged(1)
		return err == nil && len(staged) == 0
	})
}

func TestATermThatEndsTakesLargeObjectsThatAreNotOnDiskAndTheyAreMadeAgain(t *testing.T) {
	var r runs
	h := newHeldUp(t, volatile, largeFunctions(&r))
	h.into("run", "plain", "k", "x") // so that the session outlives the term
	release := h.hold()
	defer release()
	h.into("run", "a", "k", "x")
	eventually(t, "all has run", func() bool { return len(r.of("c")) == 1 })
	h.unseat(1)
	release()
	eventually(t, "what was lost is not there", func() bool {
		history, err := h.home("run").History(context.Background(), "demo", "run", "", 100)
		return err == nil && len(history.Invocations) == 0
	})
	eventually(t, "it is put again", func() bool {
		_, err := h.tryInto("run", "a", "k", "x")
		return err == nil
	})
	h.completed("run", "out=whole")
	if n := len(r.of("a")); n != 2 {
		t.Errorf("the first function has run %d times, want 2", n)
	}
	h.noneStaged()
}

// What was accepted durably is pending after the term, and runs again by itself.
func TestWhatADurablePutHasDrivenRunsAgainWhenItsLargeObjectsAreLost(t *testing.T) {
	var r runs
	app := strings.Replace(volatile, "  a: {triggers", "  a: {durability: durable, triggers", 1)
	h := newHeldUp(t, app, largeFunctions(&r))
	release := h.hold()
	defer release()
	h.into("run", "a", "k", "x")
	eventually(t, "all has run", func() bool { return len(r.of("c")) == 1 })
	h.unseat(1)
	release()
	h.completed("run", "out=whole")
	if n := len(r.of("a")); n != 2 {
		t.Errorf("the first function has run %d times, want 2", n)
	}
	h.noneStaged()
}

func TestALeaderThatStopsHasLargeEphemeralObjectsOnDiskFirst(t *testing.T) {
	var r runs
	h := newHeldUp(t, volatile, largeFunctions(&r))
	release := h.hold()
	h.into("run", "a", "k", "x")
	h.completed("run", "out=whole")
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		h.close()
	}()
	release()
	<-closed
	if spread, _ := h.seen(); len(spread[1]) != 2 {
		t.Errorf("%d blobs were spread, want 2", len(spread[1]))
	}
	h.start()
	h.completed("run", "out=whole")
	if n := len(r.of("a")); n != 1 {
		t.Errorf("the first function has run %d times, want once", n)
	}
}

// Bytes that can't be written end the term, so that it is not left waiting for them. The
// next ones are written first, as those of other buckets are.
func TestBytesThatCannotBeWrittenBehindTheirObjectAreWrittenFirstTheNextTime(t *testing.T) {
	var r runs
	app := strings.Replace(volatile, "  a: {triggers", "  a: {durability: durable, triggers", 1)
	h := newHeldUp(t, app, largeFunctions(&r))
	h.failing(errors.New("no majority"))
	h.into("run", "a", "k", "x")
	eventually(t, "the function runs again in another term", func() bool { return len(r.of("a")) > 1 })
	if n := len(r.of("b")); n != 1 {
		t.Errorf("the next function has run %d times: once on bytes in memory, and not on those that can't be written", n)
	}
	h.failing(nil)
	h.completed("run", "out=whole")
	h.noneStaged()
}

func TestBytesThatTheMembersOfAShardHaveOutrunAreSpreadAgain(t *testing.T) {
	var r runs
	h := newHeldUp(t, volatile, largeFunctions(&r))
	h.thin(1)
	h.into("run", "a", "k", "x")
	h.completed("run", "out=whole")
	if err := <-h.putAside("other", "plain", "k", "x"); err != nil {
		t.Fatal(err)
	}
	if spread, _ := h.seen(); len(spread[1]) != 3 {
		t.Errorf("%d times blobs were spread, want 2 and once again", len(spread[1]))
	}
}

// When it has been waited for for a moment, no more bytes come that it would take.
func TestWhoWaitsForACommitWaitsForNoBytesThatComeLater(t *testing.T) {
	var r runs
	functions := largeFunctions(&r)
	proceed := make(chan struct{})
	plain := functions["b"]
	functions["b"] = func(c *call) error {
		if err := c.waitFor(proceed); err != nil {
			return err
		}
		return plain(c)
	}
	h := newHeldUp(t, volatile, functions)
	release := h.hold()
	defer release()
	h.into("run", "a", "k", "x")
	eventually(t, "its object is on its way", func() bool { return h.spreads() == 1 })
	other := h.putAside("other", "plain", "k", "x")
	eventually(t, "the put has waited for it long enough", h.leaders[1].TakesNoMoreBytes)
	close(proceed)
	eventually(t, "another object is written", func() bool { return h.spreads() == 2 })
	if n := len(r.of("c")); n != 0 {
		t.Errorf("the last function has run %d times: its input counts, and so the put waits for that, too", n)
	}
	release()
	if err := <-other; err != nil {
		t.Error(err)
	}
	h.completed("run", "out=whole")
}

func TestNoMoreBytesThanAllowedAreWrittenBehindTheirObjects(t *testing.T) {
	var r runs
	h := newHeldUp(t, volatile, largeFunctions(&r), func(w *world) { w.memory = leader.MemoryBounds{Behind: 300 << 10} })
	release := h.hold()
	defer release()
	h.into("run", "a", "k", "x")
	eventually(t, "both objects are spread", func() bool { return h.spreads() == 2 })
	if n := len(r.of("c")); len(r.of("b")) != 1 || n != 0 {
		t.Errorf("the last function has run %d times on bytes for which there was no room", n)
	}
	release()
	h.completed("run", "out=whole")
}

func TestALargeObjectThatIsThereAlreadyIsDiscardedWhileItIsWritten(t *testing.T) {
	var r runs
	functions := largeFunctions(&r)
	second := make(chan struct{})
	functions["a"] = func(c *call) error {
		c.put("b", "k", noise(200<<10, 1))
		if err := c.flush(); err != nil {
			return err
		}
		if err := c.waitFor(second); err != nil {
			return err
		}
		c.put("b", "k", noise(200<<10, 1))
		return nil
	}
	h := newHeldUp(t, volatile, functions)
	h.into("run", "a", "k", "x")
	eventually(t, "the others have run", func() bool { return len(r.of("c")) == 1 })
	if err := <-h.putAside("other", "plain", "k", "x"); err != nil { // what is there so far is committed
		t.Fatal(err)
	}
	defer h.hold()()
	close(second)
	h.completed("run", "out=whole")
	h.noneStaged()
	eventually(t, "its copies are discarded", func() bool {
		h.copies.mu.Lock()
		defer h.copies.mu.Unlock()
		return len(h.discarded) == 1
	})
}

// The bytes of a put that was answered are kept until its entry is there, which waits for
// those of another.
func TestBytesOfAnAnsweredPutAreKeptUntilItsEntryIsApplied(t *testing.T) {
	h := newHeldUp(t, "durability: ephemeral\n"+manifest("buckets: {notes: {}}"), nil)
	h.put("notes", "first", noise(100<<10, 1))
	eventually(t, "its bytes are spread", func() bool {
		h.copies.mu.Lock()
		defer h.copies.mu.Unlock()
		return len(h.spread[1]) == 1
	})
	release := h.hold()
	defer release()
	h.put("notes", "second", noise(100<<10, 2))
	staged, err := h.db.StagedBefore(1, time.Now().Add(time.Hour))
	if err == nil {
		err = h.db.DropStaged(1, staged)
	}
	if err != nil {
		t.Fatal(err)
	}
	release()
	for i, key := range []string{"first", "second"} {
		if o, err := h.get("notes", key); err != nil || o.Size != 100<<10 {
			t.Fatalf("%s: %d bytes, %v", key, o.Size, err)
		} else if b, err := io.ReadAll(o.Body); err != nil || string(b) != noise(100<<10, uint64(i+1)) {
			t.Errorf("%s: %d bytes, %v", key, len(b), err)
		}
	}
	h.noneStaged()
}

// A put whose bytes break off is refused, with nothing stored.
func TestALargePutIntoAnEphemeralBucketThatBreaksOffIsRefused(t *testing.T) {
	var r runs
	h := newHeldUp(t, volatile, largeFunctions(&r))
	broken := errors.New("the connection is gone")
	_, err := h.tryPut(leader.Put{Session: "run", Bucket: "a", Key: "k", Body: &breaking{left: 100 << 10, err: broken}})
	if err == nil || !strings.Contains(err.Error(), broken.Error()) {
		t.Errorf("a put that breaks off: %v", err)
	}
	if n := len(r.of("a")); n != 0 {
		t.Errorf("its function has run %d times", n)
	}
	h.noneStaged()
}

// breaking is a reader that has so many bytes, an error, and then says that it is at its end.
type breaking struct {
	left int
	err  error
	told bool
}

func (b *breaking) Read(p []byte) (int, error) {
	if b.left > 0 {
		n := min(b.left, len(p))
		b.left -= n
		return n, nil
	}
	if !b.told {
		b.told = true
		return 0, b.err
	}
	return 0, io.EOF
}

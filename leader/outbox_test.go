package leader_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/pheromone-run/pheromone/leader"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/store"
)

// router is the mail of a world with what a test does to it.
type router struct {
	*world
	deliver func(ctx context.Context, to spec.ShardID, m leader.Mail) error
}

func (r *router) Deliver(ctx context.Context, to spec.ShardID, m leader.Mail) error {
	return r.deliver(ctx, to, m)
}

// newMailWorld is three shards with a trigger of scope bucket on each, whose mail
// goes through deliver.
func newMailWorld(t *testing.T, bounds leader.MailBounds, deliver func(w *world, ctx context.Context, to spec.ShardID, m leader.Mail) error) (*world, *tally) {
	w, got := &world{t: t, dir: t.TempDir(), shards: 3, apps: &deployed{}, mail: bounds}, &tally{}
	w.run = newRunner(map[string]function{"fire": got.take, "seed": func(c *call) error {
		bucket, n, _ := strings.Cut(string(c.in[0].Data), " ")
		var many int
		_, _ = fmt.Sscan(n, &many)
		for i := range many {
			c.put(bucket, fmt.Sprint("k", i), "v")
		}
		return nil
	}})
	w.network = &router{w, func(ctx context.Context, to spec.ShardID, m leader.Mail) error { return deliver(w, ctx, to, m) }}
	w.apps.apply(t, mailManifest(w))
	w.start()
	t.Cleanup(w.close)
	t.Cleanup(w.run.stop)
	return w, got
}

func mailManifest(w *world) string {
	var b strings.Builder
	b.WriteString("functions: {fire: {runtime: inproc}, seed: {runtime: inproc}}\nbuckets:\n  seeds: {triggers: [{name: t, primitive: immediate, target: seed}]}\n")
	for i := range w.shards {
		fmt.Fprintf(&b, "  %s: {triggers: [{name: x, primitive: immediate, scope: bucket, target: fire}]}\n", w.bucketOf(spec.ShardID(i+1)))
	}
	return manifest(b.String())
}

// bucketOf names a bucket whose triggers of scope bucket live on a shard.
func (w *world) bucketOf(shard spec.ShardID) string {
	for i := 0; ; i++ {
		name := fmt.Sprint("of-", shard, "-", i)
		if w.ShardOf(spec.BucketSlot("demo", spec.BucketName(name))) == shard {
			return name
		}
	}
}

// from puts an object into a session of a shard.
func (w *world) from(shard spec.ShardID, n int, bucket, value string) error {
	_, err := w.tryInto(string(w.sessionOn(shard, n)), bucket, "k", value)
	return err
}

func once(counts map[string]int) bool {
	for _, n := range counts {
		if n != 1 {
			return false
		}
	}
	return true
}

func TestMemoryHoldsABoundedPartOfTheOutbox(t *testing.T) {
	const messages, each = 300, 4 << 10
	var down atomic.Bool
	var flights, most atomic.Int64
	down.Store(true)
	w, got := newMailWorld(t, leader.MailBounds{Messages: 64, Bytes: 100 << 10}, func(w *world, ctx context.Context, to spec.ShardID, m leader.Mail) error {
		for n := flights.Add(1); n > most.Load(); {
			most.Store(n)
		}
		defer flights.Add(-1)
		if down.Load() {
			return errors.New("the receiver is down")
		}
		return w.Deliver(ctx, to, m)
	})
	inBounds := func() {
		t.Helper()
		if n, bytes := w.leaders[1].InMemory(); n > 64 || bytes > 100<<10 {
			t.Fatalf("%d messages with %d bytes are in memory", n, bytes)
		}
	}
	for i := range messages {
		if err := w.from(1, i, w.bucketOf(spec.ShardID(2+i%2)), noise(each, 1)); err != nil {
			t.Fatal(err)
		}
		inBounds()
	}
	if n := w.leaders[1].Outbox(); n != messages {
		t.Errorf("%d messages wait, %d were put", n, messages)
	}
	w.restart()
	if n := w.leaders[1].Outbox(); n != messages {
		t.Errorf("%d messages wait after a restart, %d were put", n, messages)
	}
	inBounds()
	down.Store(false)
	eventually(t, "all is delivered", func() bool { inBounds(); return w.leaders[1].Outbox() == 0 })
	w.quiet()
	if counts := got.counts(); len(counts) != messages || !once(counts) {
		t.Errorf("%d objects were counted, or some more than once: %v", len(counts), counts)
	}
	if n := most.Load(); n > 64 {
		t.Errorf("%d deliveries were on their way at once", n)
	}
}

func TestAReceiverThatDoesNotAnswerHoldsUpNoOther(t *testing.T) {
	for name, silent := range map[string]func(ctx context.Context) error{
		"refuses": func(context.Context) error { return errors.New("the receiver is down") },
		"hangs":   func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var down atomic.Bool
			var tries, flights, most atomic.Int64
			down.Store(true)
			w, got := newMailWorld(t, leader.MailBounds{}, func(w *world, ctx context.Context, to spec.ShardID, m leader.Mail) error {
				if _, bounded := ctx.Deadline(); !bounded {
					t.Error("a delivery may take for ever")
				}
				if to == 2 && down.Load() {
					tries.Add(1)
					for n := flights.Add(1); n > most.Load(); {
						most.Store(n)
					}
					defer flights.Add(-1)
					return silent(ctx)
				}
				return w.Deliver(ctx, to, m)
			})
			id := w.sessionOn(1, 0)
			w.into(string(id), "seeds", "s", w.bucketOf(2)+" 900") // more than memory holds of a lane
			eventually(t, "they wait", func() bool { return w.leaders[1].Outbox() == 900 })
			for i := range 100 {
				other := w.sessionOn(1, 1+i)
				w.into(string(other), w.bucketOf(3), "k", "v")
				w.completed(other) // it ends once its message is acknowledged
			}
			if n := tries.Load(); n > 200 { // as many sessions took far longer than a few waits
				t.Errorf("the receiver that is down was tried %d times", n)
			}
			if n := most.Load(); n > 32 {
				t.Errorf("%d deliveries to it were on their way at once", n)
			}
			down.Store(false)
			w.restart() // deliveries that hang end
			w.completed(id)
			w.quiet()
			if counts := got.counts(); len(counts) != 1000 || !once(counts) {
				t.Errorf("%d objects were counted, or some more than once", len(counts))
			}
		})
	}
}

func TestAMessageThatIsRefusedHoldsUpNoOther(t *testing.T) {
	const good, bad = 5, 10
	var tries, flying atomic.Int64
	var mended atomic.Bool
	together := make(chan struct{})
	w, got := newMailWorld(t, leader.MailBounds{}, func(w *world, ctx context.Context, to spec.ShardID, m leader.Mail) error {
		if string(m.Object.Inline) == "bad" {
			if tries.Add(1); !mended.Load() {
				return spec.Errorf(spec.CodeConflict, "not this one")
			}
			return w.Deliver(ctx, to, m)
		}
		if flying.Add(1) == good {
			close(together)
		}
		select {
		case <-together:
			return w.Deliver(ctx, to, m)
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	for i := range bad {
		if err := w.from(1, i, w.bucketOf(2), "bad"); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "all have been refused", func() bool { return tries.Load() >= bad })
	for i := range good {
		if err := w.from(1, bad+i, w.bucketOf(2), "good"); err != nil {
			t.Fatal(err)
		}
	}
	for i := range good {
		w.completed(w.sessionOn(1, bad+i))
	}
	if n := flying.Load(); n != good {
		t.Errorf("%d deliveries of %d messages: they were not sent together", n, good)
	}
	mended.Store(true)
	w.quiet()
	if counts := got.counts(); len(counts) != good+bad || !once(counts) {
		t.Errorf("%d objects were counted, or some more than once: %v", len(counts), counts)
	}
}

func TestAFullOutboxHoldsUpWhatWouldAddToIt(t *testing.T) {
	const most = 20
	var down atomic.Bool
	down.Store(true)
	w, got := newMailWorld(t, leader.MailBounds{Outbox: most}, func(w *world, ctx context.Context, to spec.ShardID, m leader.Mail) error {
		if down.Load() {
			return errors.New("the receiver is down")
		}
		return w.Deliver(ctx, to, m)
	})
	taken := 0
	var err error
	for ; err == nil; taken++ {
		err = w.from(1, taken, w.bucketOf(2), "v")
	}
	taken--
	wantCode(t, err, spec.CodeOverloaded, "messages")
	if taken != most+1 {
		t.Errorf("%d puts were taken, the bound is %d", taken, most)
	}
	w.restart()
	wantCode(t, w.from(1, 100, w.bucketOf(3), "v"), spec.CodeOverloaded, "messages")
	_, err = w.tryPut(leader.Put{Bucket: spec.BucketName(w.bucketOf(2)), Key: keyOn(w, 1, w.bucketOf(2)), Body: strings.NewReader("v")})
	wantCode(t, err, spec.CodeOverloaded, "messages")
	if err := w.from(1, 0, w.bucketOf(2), "v"); err != nil {
		t.Errorf("what is there already is refused: %v", err)
	}
	if err := w.from(1, 101, w.bucketOf(1), "v"); err != nil {
		t.Errorf("a put without mail is refused: %v", err)
	}
	if err := w.from(2, 102, w.bucketOf(2), "v"); err != nil {
		t.Errorf("a put on another shard is refused: %v", err)
	}
	waiting := w.sessionOn(1, 103)
	w.into(string(waiting), "seeds", "s", w.bucketOf(2)+" 5")
	eventually(t, "the function has run", func() bool { return w.run.count("seed") > 0 })
	for i := range 5 { // what comes later and needs no room is through
		later := w.sessionOn(1, 200+i)
		w.into(string(later), "seeds", "s", w.bucketOf(1)+" 1")
		w.completed(later)
	}
	if n := w.leaders[1].Outbox(); n != most+1 {
		t.Errorf("%d messages wait: a function has added to them", n)
	}
	down.Store(false)
	w.completed(waiting)
	eventually(t, "the outbox is empty", func() bool { return w.leaders[1].Outbox() == 0 })
	if err := w.from(1, 104, w.bucketOf(2), "v"); err != nil {
		t.Errorf("refused when there is room: %v", err)
	}
	w.quiet()
	if counts := got.counts(); len(counts) != taken+2+5+5+1 || !once(counts) {
		t.Errorf("%d objects were counted, or some more than once: %v", len(counts), counts)
	}
}

// keyOn names a key-value object of a bucket on a shard.
func keyOn(w *world, shard spec.ShardID, bucket string) spec.Key {
	for i := 0; ; i++ {
		key := spec.Key(fmt.Sprint("key-", i))
		if w.ShardOf(spec.KeySlot("demo", spec.BucketName(bucket), key)) == shard {
			return key
		}
	}
}

func TestMessagesOfADeletedAppAreForgotten(t *testing.T) {
	var down atomic.Bool
	var stale atomic.Int64
	down.Store(true)
	w, got := newMailWorld(t, leader.MailBounds{Messages: 8}, func(w *world, ctx context.Context, to spec.ShardID, m leader.Mail) error {
		if down.Load() {
			return errors.New("the receiver is down")
		}
		if !bytes.Equal(m.Object.Inline, []byte("new")) {
			stale.Add(1)
		}
		return w.Deliver(ctx, to, m)
	})
	for i := range 30 { // also behind what is in memory
		if err := w.from(1, i, w.bucketOf(spec.ShardID(2+i%2)), "old"); err != nil {
			t.Fatal(err)
		}
	}
	w.apps.delete()
	w.tellOfApps()
	if n := w.leaders[1].Outbox(); n != 0 {
		t.Errorf("%d messages wait", n)
	}
	down.Store(false)
	w.deploy(mailManifest(w))
	for i := range 30 {
		if err := w.from(1, i, w.bucketOf(spec.ShardID(2+i%2)), "new"); err != nil {
			t.Fatal(err)
		}
	}
	w.quiet()
	if counts := got.counts(); len(counts) != 30 || !once(counts) || stale.Load() != 0 {
		t.Errorf("%d objects were counted, %d old ones delivered", len(counts), stale.Load())
	}
	eventually(t, "nothing is in memory", func() bool { n, bytes := w.leaders[1].InMemory(); return n == 0 && bytes == 0 })
}

func TestAMessageOfAnUnknownKindIsRefusedAndChangesNothing(t *testing.T) {
	w, _ := newMailWorld(t, leader.MailBounds{}, func(w *world, ctx context.Context, to spec.ShardID, m leader.Mail) error {
		return w.Deliver(ctx, to, m)
	})
	before := w.left()
	err := w.leaders[1].TakeMail(t.Context(), leader.Mail{From: 2, Sequence: 7, Unacknowledged: 7, Mail: store.Mail{Kind: 200, App: "demo"}}, nil)
	wantCode(t, err, spec.CodeUnsupported, "kind 200")
	if after := w.left(); !slices.Equal(before, after) {
		t.Errorf("the store holds %q, and held %q", after, before)
	}
	lower, upper := store.Bounds(store.AppendInboxPrefix(nil, 1))
	if err := w.db.Scan(lower, upper, func(k, _ []byte) bool { t.Errorf("a mark: %x", k); return true }); err != nil {
		t.Fatal(err)
	}
}

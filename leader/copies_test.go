package leader_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/exec"
	"github.com/pheromone-run/pheromone/leader"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/store"
)

// copies are the other replicas, as a leader sees them: it notes what it is asked.
type copies struct {
	*world
	mu        sync.Mutex
	spread    map[spec.ShardID][]store.Blob
	discarded []store.Blob
	fail      error
	thinned   int // of so many blobs the members have changed when their entry comes
	wrong     []string
	under     atomic.Pointer[func() error] // called while a blob is spread
}

func (c *copies) Spread(_ context.Context, shard spec.ShardID, app spec.AppName, blob store.Blob) (func() bool, error) {
	if under := c.under.Load(); under != nil {
		if err := (*under)(); err != nil {
			return nil, err
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	marked, err := c.db.Has(store.AppendStagedKey(nil, shard, app, blob.ID))
	if err != nil || !marked {
		c.wrong = append(c.wrong, fmt.Sprintf("spread while it is not staged: %v", err))
	}
	adopted, err := c.db.Has(store.AppendBlobKey(nil, shard, app, blob.ID))
	if err != nil || adopted {
		c.wrong = append(c.wrong, fmt.Sprintf("spread when its entry is applied: %v", err))
	}
	c.spread[shard] = append(c.spread[shard], blob)
	enough := c.thinned == 0
	c.thinned = max(0, c.thinned-1)
	return func() bool { return enough }, c.fail
}

// thin has so many of the blobs that come next be on too few replicas by the time
// their entry comes.
func (c *copies) thin(blobs int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.thinned = blobs
}

func (c *copies) Discard(_ spec.ShardID, _ spec.AppName, blob store.Blob) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.discarded = append(c.discarded, blob)
}

func (c *copies) failing(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fail = err
}

// seen returns what was asked since the last time.
func (c *copies) seen() (spread map[spec.ShardID][]store.Blob, discarded []store.Blob) {
	c.t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, wrong := range c.wrong {
		c.t.Error(wrong)
	}
	spread, discarded = c.spread, c.discarded
	c.spread, c.discarded, c.wrong = map[spec.ShardID][]store.Blob{}, nil, nil
	return spread, discarded
}

func newCopied(t *testing.T, shards int, manifest string, functions map[string]function, change ...func(*world)) *copies {
	w := &world{t: t, dir: t.TempDir(), shards: shards, apps: &deployed{}, run: newRunner(functions)}
	c := &copies{world: w, spread: map[spec.ShardID][]store.Blob{}}
	w.copies = c
	for _, f := range change {
		f(w)
	}
	w.apps.apply(t, manifest)
	w.start()
	t.Cleanup(w.close)
	t.Cleanup(w.run.stop)
	return c
}

const copiedApp = `
apiVersion: pheromone/v1
app: demo
functions:
  double: {runtime: inproc}
  gather: {runtime: inproc}
buckets:
  in: {triggers: [{name: each, primitive: immediate, target: double}]}
  notes: {}
  both: {triggers: [{name: two, primitive: by_batch_size, target: gather, count: 2, scope: bucket}]}
`

func TestLargeObjectsAreSpreadBeforeTheirEntriesAre(t *testing.T) {
	c := newCopied(t, 1, copiedApp, map[string]function{
		"double": func(c *call) error {
			c.output("out", string(c.in[0].Data)+string(c.in[0].Data))
			return nil
		},
	})
	c.put("notes", "small", noise(leader.InlineBytes, 1))
	if spread, _ := c.seen(); len(spread) != 0 {
		t.Errorf("an object that travels in its entry: %d were spread", len(spread))
	}
	value := noise(100<<10, 1)
	session := c.put("in", "large", value)
	if out := outputs(c.result(session)); len(out) != 1 || out[0] != "out="+value+value {
		t.Errorf("%d outputs", len(out))
	}
	spread, discarded := c.seen()
	if sizes := sizesOf(spread[1]); !slices.Equal(sizes, []int64{100 << 10, 200 << 10}) || len(discarded) != 0 {
		t.Errorf("spread %v, discarded %d", sizes, len(discarded))
	}
	for _, blob := range spread[1] {
		if there, err := c.db.Has(store.AppendBlobKey(nil, 1, "demo", blob.ID)); err != nil || !there {
			t.Errorf("blob of %d bytes: adopted %v, %v", blob.Size, there, err)
		}
	}
}

func sizesOf(blobs []store.Blob) (sizes []int64) {
	for _, b := range blobs {
		sizes = append(sizes, b.Size)
	}
	return sizes
}

func TestALargeObjectIsSpreadAgainOnceTheMembersHaveChanged(t *testing.T) {
	c := newCopied(t, 1, copiedApp, nil)
	c.thin(2)
	c.put("notes", "k", noise(100<<10, 1))
	spread, discarded := c.seen()
	if len(spread[1]) != 3 || spread[1][0].ID != spread[1][2].ID || len(discarded) != 0 {
		t.Errorf("spread %d times, discarded %d", len(spread[1]), len(discarded))
	}
	c.nothingStaged()

	c.thin(1000)
	put := leader.Put{Bucket: "notes", Key: "l", Body: strings.NewReader(noise(100<<10, 2))}
	if _, err := c.tryPut(put); spec.CodeOf(err) != spec.CodeUnavailable {
		t.Errorf("while they change without end: %v", err)
	}
	if _, discarded = c.seen(); len(discarded) != 1 {
		t.Errorf("discarded %d", len(discarded))
	}
	c.nothingStaged()
}

func TestAnAttemptRunsAgainIfTheMembersChangeUnderWhatItPuts(t *testing.T) {
	value := noise(100<<10, 1)
	var runs atomic.Int64
	c := newCopied(t, 1, copiedApp, map[string]function{
		"double": func(c *call) error {
			runs.Add(1)
			c.output("out", value)
			return nil
		},
	})
	c.thin(1)
	if out := outputs(c.result(c.put("in", "k", "small"))); len(out) != 1 || out[0] != "out="+value {
		t.Errorf("%d outputs", len(out))
	}
	if runs.Load() != 2 {
		t.Errorf("it ran %d times", runs.Load())
	}
	c.nothingStaged()
}

func TestALargeObjectThatCanNotBeSpreadIsNotPut(t *testing.T) {
	c := newCopied(t, 1, copiedApp, nil)
	c.failing(spec.Errorf(spec.CodeUnavailable, "the others are away"))
	put := leader.Put{Bucket: "notes", Key: "k", Body: strings.NewReader(noise(100<<10, 1))}
	if _, err := c.tryPut(put); spec.CodeOf(err) != spec.CodeUnavailable || !strings.Contains(err.Error(), "the others are away") {
		t.Errorf("error %v", err)
	}
	spread, discarded := c.seen()
	if len(discarded) != 1 || len(spread[1]) != 1 || discarded[0].ID != spread[1][0].ID {
		t.Errorf("spread %d, discarded %d", len(spread[1]), len(discarded))
	}
	c.nothingStaged()
	if _, err := c.of(0).GetKV(t.Context(), "demo", "notes", "k", false); spec.CodeOf(err) != spec.CodeNotFound {
		t.Errorf("it is there: %v", err)
	}
	c.failing(nil)
	put.Body = strings.NewReader(noise(100<<10, 1))
	if _, err := c.tryPut(put); err != nil {
		t.Error(err)
	}
}

func (c *copies) nothingStaged() {
	c.t.Helper()
	for i := range c.shards {
		if staged, err := c.db.Staged(spec.ShardID(i + 1)); err != nil || len(staged) != 0 {
			c.t.Errorf("shard %d: %d blobs are staged, %v", i+1, len(staged), err)
		}
	}
}

func TestTheCopiesOfAnObjectThatIsRefusedAreDiscarded(t *testing.T) {
	c := newCopied(t, 1, copiedApp, nil)
	c.put("notes", "k", "there")
	none := spec.Revision(0)
	if _, err := c.tryPut(leader.Put{Bucket: "notes", Key: "k", Body: strings.NewReader(noise(100<<10, 1)), IfRevision: &none}); spec.CodeOf(err) != spec.CodePrecondition {
		t.Errorf("error %v", err)
	}
	if spread, discarded := c.seen(); len(discarded) != 1 || len(spread[1]) != 1 || discarded[0].ID != spread[1][0].ID {
		t.Errorf("spread %d, discarded %d", len(spread[1]), len(discarded))
	}
	c.nothingStaged()
}

func TestAMessageIsSpreadAmongTheReplicasOfItsReceiver(t *testing.T) {
	values := make(chan string, 4)
	c := newCopied(t, 4, copiedApp, map[string]function{
		"gather": func(c *call) error {
			for _, in := range c.in {
				values <- string(in.Data)
			}
			return nil
		},
	})
	home := c.ShardOf(spec.BucketSlot("demo", "both"))
	var want []string
	for i := 0; len(want) < 2; i++ {
		key := fmt.Sprint("k", i)
		if c.ShardOf(spec.KeySlot("demo", "both", spec.Key(key))) == home {
			continue
		}
		want = append(want, noise(100<<10, uint64(i)))
		c.put("both", key, want[len(want)-1])
	}
	got := []string{<-values, <-values}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Error("the bytes differ")
	}
	spread, discarded := c.seen()
	if len(spread[home]) != 2 || len(discarded) != 0 {
		t.Errorf("spread %d at the receiver, discarded %d", len(spread[home]), len(discarded))
	}
}

func TestAMessageWithOtherBytesThanItsOwnIsRefused(t *testing.T) {
	c := newCopied(t, 2, copiedApp, nil)
	home := c.ShardOf(spec.BucketSlot("demo", "both"))
	sent := []byte(noise(100<<10, 1))
	blob, err := c.db.StageBlob(t.Context(), 3, "demo", bytes.NewReader(sent), 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	m := leader.Mail{From: 3, Sequence: 1, Unacknowledged: 1, Mail: store.Mail{
		Kind: store.MailObject, Slot: spec.BucketSlot("demo", "both"), App: "demo", Bucket: "both", Trigger: "two", Session: "s",
		Object: store.Object{Key: "k", Size: blob.Size, Blob: &blob},
	}}
	altered := bytes.Clone(sent)
	altered[5] ^= 1
	for _, x := range []struct {
		name string
		body io.Reader
		code spec.Code
	}{
		{"altered", bytes.NewReader(altered), spec.CodeHashMismatch},
		{"cut short", bytes.NewReader(sent[:1000]), spec.CodeHashMismatch},
		{"too long", io.MultiReader(bytes.NewReader(sent), strings.NewReader("x")), spec.CodeTooLarge},
		{"none", nil, spec.CodeInvalid},
		{"its own", bytes.NewReader(sent), ""},
		{"its own, again", bytes.NewReader(sent), ""},
	} {
		if err := c.leaders[home].TakeMail(t.Context(), m, x.body); spec.CodeOf(err) != x.code {
			t.Errorf("%s: %v", x.name, err)
		}
		c.nothingStaged()
	}
}

func TestAMessageComesAcrossWhole(t *testing.T) {
	blob := store.Blob{ID: [16]byte{1, 2}, Size: 2 << 20, Chunks: 2, Codec: store.CodecS2, CRC: 7, Sum: store.Sum{9}}
	for _, m := range []leader.Mail{
		{From: 1, Sequence: 1, Unacknowledged: 1, Mail: store.Mail{Kind: store.MailSet, App: "demo", Bucket: "b", Trigger: "t", Session: "s", Keys: []spec.Key{"a", ""}}},
		{From: 4096, Sequence: 1 << 60, Unacknowledged: 1 << 59, Mail: store.Mail{Kind: store.MailObject, Slot: spec.Slots - 1, App: "demo", Object: store.Object{Key: "k", Size: blob.Size, Blob: &blob}}},
	} {
		raw := leader.AppendMail(nil, &m)
		got, err := leader.DecodeMail(raw)
		if err != nil || !bytes.Equal(leader.AppendMail(nil, &got), raw) || got.From != m.From || got.Sequence != m.Sequence || got.Unacknowledged != m.Unacknowledged || len(got.Keys) != len(m.Keys) {
			t.Errorf("%+v came as %+v, %v", m, got, err)
		}
		for cut := range raw {
			if _, err := leader.DecodeMail(raw[:cut]); err == nil {
				t.Errorf("cut at %d of %d it was taken", cut, len(raw))
			}
		}
	}
	other := leader.AppendMail(nil, &leader.Mail{From: 1, Sequence: 1, Unacknowledged: 1})
	other[0]++
	if _, err := leader.DecodeMail(other); spec.CodeOf(err) != spec.CodeUnsupported {
		t.Errorf("of another version: %v", err)
	}
}

func FuzzMessagesFromAnywhereAreReadOrRefused(f *testing.F) {
	blob := store.Blob{Size: 5, Chunks: 1}
	f.Add(leader.AppendMail(nil, &leader.Mail{From: 1, Sequence: 2, Unacknowledged: 1, Mail: store.Mail{Kind: store.MailObject, App: "a", Object: store.Object{Size: 5, Blob: &blob}}}))
	f.Add([]byte{1, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1})
	f.Fuzz(func(t *testing.T, raw []byte) {
		m, err := leader.DecodeMail(raw)
		if err != nil {
			return
		}
		again, err := leader.DecodeMail(leader.AppendMail(nil, &m))
		if err != nil || again.Sequence != m.Sequence || again.From != m.From || m.Unacknowledged > m.Sequence {
			t.Fatalf("%+v came again as %+v, %v", m, again, err)
		}
	})
}

func TestAnObjectWhoseBytesAreLackingIsReadOnceTheyAreBroughtHere(t *testing.T) {
	c := newCopied(t, 1, copiedApp, nil)
	value := noise(2<<20, 1)
	c.put("notes", "k", value)
	spread, _ := c.seen()
	blob := spread[1][0]
	r, err := c.db.ExportBlob(1, "demo", blob)
	if err != nil {
		t.Fatal(err)
	}
	bytesElsewhere, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.db.DiscardBlob(1, "demo", blob); err != nil { // as on a replica that never had them
		t.Fatal(err)
	}
	away := spec.Errorf(spec.CodeUnavailable, "the others are away")
	c.db.RepairWith(func(context.Context, spec.ShardID, spec.AppName, store.Blob) error { return away })
	if _, err := c.of(0).GetKV(t.Context(), "demo", "notes", "k", false); spec.CodeOf(err) != spec.CodeUnavailable {
		t.Errorf("while the others are away: %v", err)
	}
	c.db.RepairWith(func(ctx context.Context, shard spec.ShardID, app spec.AppName, blob store.Blob) error {
		return c.db.RestoreBlob(ctx, shard, app, blob, bytes.NewReader(bytesElsewhere))
	})
	o, err := c.of(0).GetKV(t.Context(), "demo", "notes", "k", false)
	if got := readAll(t, o, err); got != value {
		t.Errorf("%d bytes", len(got))
	}
}

func TestAConditionWaitsForBytesThatAreLacking(t *testing.T) {
	c := newCopied(t, 1, `
apiVersion: pheromone/v1
app: demo
functions:
  many: {runtime: inproc}
  last: {runtime: inproc}
buckets:
  in: {triggers: [{name: each, primitive: immediate, target: many}]}
  mid: {triggers: [{name: all, primitive: by_set, target: last, keys: [k0, k5], when: 'object.value == "x"'}]}
`, map[string]function{
		"many": func(c *call) error { // beyond 256 KiB at once small objects are blobs, too
			for i := range 6 {
				c.emit(exec.Emission{Bucket: "mid", Key: spec.Key(fmt.Sprint("k", i)), Data: []byte(strings.Repeat(" ", 60<<10) + `"x"`), DeliverAfter: time.Hour})
			}
			return nil
		},
		"last": func(c *call) error {
			c.output("inputs", fmt.Sprint(len(c.in)))
			return nil
		},
	}, func(w *world) { w.clock.set(midday()) })
	session := c.put("in", "k", "")
	elsewhere := map[[16]byte][]byte{}
	eventually(t, "the objects are stored", func() bool {
		spread, _ := c.seen()
		for _, blob := range spread[1] {
			r, err := c.db.ExportBlob(1, "demo", blob)
			if err != nil {
				t.Fatal(err)
			}
			if elsewhere[blob.ID], err = io.ReadAll(r); err != nil {
				t.Fatal(err)
			}
		}
		return len(elsewhere) > 0 && len(c.history(session).Invocations) == 1 && c.history(session).Invocations[0].State == "succeeded"
	})
	for id := range elsewhere { // as on a replica that never had them
		if err := c.db.DiscardBlob(1, "demo", store.Blob{ID: id}); err != nil {
			t.Fatal(err)
		}
	}
	var away atomic.Bool
	away.Store(true)
	var tries atomic.Int64
	c.db.RepairWith(func(ctx context.Context, shard spec.ShardID, app spec.AppName, blob store.Blob) error {
		if away.Load() {
			tries.Add(1)
			return spec.Errorf(spec.CodeUnavailable, "the others are away")
		}
		return c.db.RestoreBlob(ctx, shard, app, blob, bytes.NewReader(elsewhere[blob.ID]))
	})
	c.clock.set(midday() + 2*time.Hour)
	go func() { _, _ = c.leaders[1].Kept(t.Context()) }() // has the leader look at its clock, and fails with its term
	eventually(t, "the shard tries again and again", func() bool { return tries.Load() >= 3 })
	away.Store(false)
	if out := outputs(c.result(session)); !slices.Equal(out, []string{"inputs=2"}) {
		t.Errorf("outputs %q", out)
	}
}

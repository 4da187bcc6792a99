package leader_test

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/spec/wire"
	"github.com/pheromone-run/pheromone/store"
	"github.com/pheromone-run/pheromone/triggers"
)

// pairs makes a world with a trigger of scope bucket on test.pair, and its program.
func pairs(t *testing.T, shards int, options string, functions map[string]function) (*world, *program) {
	p := &program{version: 1}
	programs.Store(t.Name(), p)
	return newWorld(t, shards, pairManifest(t, "bucket", options), functions), p
}

func pairManifest(t *testing.T, scope, options string) string {
	return oneTrigger(fmt.Sprintf("{name: x, primitive: test.pair, scope: %s, target: fire, options: {program: %q%s}}", scope, t.Name(), options))
}

// stalled returns the reasons of all triggers that are stalled.
func (w *world) stalled() []string {
	var reasons []string
	for _, l := range w.leaders {
		for _, s := range l.Stalled() {
			reasons = append(reasons, s.Reason)
		}
	}
	return reasons
}

func (w *world) wantStalled(reasons ...string) {
	w.t.Helper()
	got := w.stalled()
	if len(got) != len(reasons) {
		w.t.Fatalf("stalled: %q, want %q", got, reasons)
	}
	for i := range got {
		if !strings.Contains(got[i], reasons[i]) {
			w.t.Fatalf("stalled: %q, want %q", got, reasons)
		}
	}
}

// epochs adds up the terms of all shards: one that is given up is counted.
func (w *world) epochs() (sum uint64) {
	for _, r := range w.raft {
		sum += r.Status().Epoch
	}
	return sum
}

func inPairs(keys []string) []string {
	var out []string
	for two := range slices.Chunk(keys, 2) {
		out = append(out, strings.Join(two, "+"))
	}
	return out
}

// inTurn puts objects one after the other, each once the one before has been counted.
func (w *world) inTurn(keys []string) {
	w.t.Helper()
	for i, key := range keys {
		w.result(w.put("in", key, noise(i%3*40<<10, 1))) // its session ends once its mail is taken
	}
}

func TestATriggerWhoseStateIsOfANewerProgramIsStalledAndLosesNothing(t *testing.T) {
	overShards(t, func(t *testing.T, shards int) {
		var got collector
		w, p := pairs(t, shards, "", map[string]function{"fire": got.take})
		p.set(func(p *program) { p.version = 2 })
		keys := numbered(24)
		w.inTurn(keys[:5])
		p.set(func(p *program) { p.version = 1 })
		w.restart()
		w.wantStalled("header has version 2, this program reads up to 1")
		epochs := w.epochs()
		w.inTurn(keys[5:12])
		if again := w.epochs(); again != epochs {
			t.Errorf("terms went from %d to %d: one was given up", epochs, again)
		}
		w.restart() // the backlog is there still
		w.wantStalled("version 2")
		w.inTurn(keys[12:23])
		w.quiet()
		wantLines(t, got.sorted(), "k000+k001", "k002+k003")
		p.set(func(p *program) { p.version = 2 })
		w.restart()
		w.wantStalled()
		w.inTurn(keys[23:])
		eventually(t, "all have fired", func() bool { return len(got.keys()) >= len(keys) })
		w.quiet()
		wantLines(t, got.sorted(), inPairs(keys)...)
		if n := w.run.count("fire"); n != len(keys)/2 {
			t.Errorf("%d attempts ran for %d firings", n, len(keys)/2)
		}
		for id, l := range w.leaders {
			if _, pending, _ := l.Status(); pending != 0 {
				t.Errorf("shard %d counts %d pending invocations", id, pending)
			}
		}
		w.restart() // nothing is left to be counted again
		w.inTurn([]string{"y", "z"})
		eventually(t, "it goes on", func() bool { return len(got.keys()) >= len(keys)+2 })
		wantLines(t, got.sorted(), append(inPairs(keys), "y+z")...)
	})
}

func TestALargeBacklogIsCountedInBoundedRoundsAndInOrder(t *testing.T) {
	var got collector
	w, p := pairs(t, 1, "", map[string]function{"fire": got.take})
	p.set(func(p *program) { p.version = 2 })
	w.inTurn([]string{"first"})
	p.set(func(p *program) { p.version = 1 })
	w.restart()
	waiting := numbered(999)
	w.putAll("in", waiting[:600], func(string) string { return "v" })
	w.wantStalled("version 2")
	p.set(func(p *program) { p.version = 2 })
	w.restart()
	w.putAll("in", waiting[600:], func(string) string { return "v" })
	for range 3 {
		w.unseat(1)
	}
	eventually(t, "all have fired", func() bool { return len(got.keys()) >= 1000 })
	w.quiet()
	w.wantStalled() // pair panics if an object comes out of order
	if n := len(slices.Compact(got.keys())); n != 1000 || len(got.keys()) != 1000 {
		t.Errorf("%d objects fired, %d of them different", len(got.keys()), n)
	}
	for _, firing := range got.sorted() {
		if strings.Count(firing, "+") != 1 {
			t.Errorf("a firing has %q", firing)
		}
	}
	rounds := map[time.Time]int{} // firings by the time of their round
	for _, session := range w.sessions("") {
		if session.Origin.Kind == "trigger" {
			rounds[session.CreatedAt]++
		}
	}
	for at, n := range rounds {
		if n > 128 {
			t.Errorf("the round at %s has %d firings", at, n)
		}
	}
}

func TestATimerThatIsDueWhileStalledFiresLater(t *testing.T) {
	overShards(t, func(t *testing.T, shards int) {
		var got collector
		w, p := pairs(t, shards, ", wait: 10m", map[string]function{"fire": got.take})
		p.set(func(p *program) { p.version = 2 })
		w.inTurn([]string{"a"})
		p.set(func(p *program) { p.version = 1 })
		w.restart()
		w.wantStalled("version 2")
		w.forward(20 * time.Minute)
		w.inTurn([]string{"b"})
		w.restart() // also with a timer that has gone off
		if len(got.sorted()) != 0 {
			t.Fatalf("fired while stalled: %q", got.sorted())
		}
		p.set(func(p *program) { p.version = 2 })
		w.restart()
		eventually(t, "the one that is due has fired", func() bool { return len(got.sorted()) > 0 })
		wantLines(t, got.sorted(), "a") // b came when a was due already
		w.forward(20 * time.Minute)
		eventually(t, "the other one has fired", func() bool { return len(got.sorted()) > 1 })
		w.quiet()
		wantLines(t, got.sorted(), "a", "b")
	})
}

func TestANewVersionOfTheAppTriesAStalledTriggerAgain(t *testing.T) {
	overShards(t, func(t *testing.T, shards int) {
		var got collector
		w, p := pairs(t, shards, "", map[string]function{"fire": got.take})
		p.set(func(p *program) { p.version = 2 })
		w.inTurn([]string{"a"})
		p.set(func(p *program) { p.version = 1 })
		w.restart()
		w.inTurn([]string{"b", "c"})
		w.deploy(pairManifest(t, "bucket", ", wait: 50m"))
		w.wantStalled("version 2")
		p.set(func(p *program) { p.version = 2 })
		w.deploy(pairManifest(t, "bucket", ", wait: 40m"))
		w.wantStalled()
		w.inTurn([]string{"d"})
		eventually(t, "all have fired", func() bool { return len(got.keys()) >= 4 })
		wantLines(t, got.sorted(), "a+b", "c+d")
		w.deploy(oneTrigger("{name: y, primitive: immediate, target: fire}"))
		if left := w.leftOf("\"x"); len(left) > 0 {
			t.Errorf("left of the trigger: %q", left)
		}
	})
}

func TestAPrimitiveThatIsNotCompiledInStallsItsTrigger(t *testing.T) {
	var got collector
	w, p := pairs(t, 1, "", map[string]function{"fire": got.take})
	p.set(func(p *program) { p.lack = true })
	w.restart()
	w.wantStalled("not compiled in")
	w.inTurn([]string{"a", "b", "c"}) // no state was stored before
	w.restart()
	w.inTurn([]string{"d"})
	p.set(func(p *program) { p.lack = false })
	w.restart()
	eventually(t, "all have fired", func() bool { return len(got.keys()) >= 4 })
	wantLines(t, got.sorted(), "a+b", "c+d")
}

func TestAPrimitiveThatPanicsStallsItsTriggerAndNothingElse(t *testing.T) {
	overShards(t, func(t *testing.T, shards int) {
		var got collector
		w, p := pairs(t, shards, "", map[string]function{"fire": got.take, "seed": func(c *call) error {
			for _, key := range []string{"b", "c", "poison", "d"} { // in one entry, behind a firing
				c.put("in", key, "")
			}
			return nil
		}})
		p.set(func(p *program) { p.poison = "poison" })
		w.inTurn([]string{"a"})
		epochs := w.epochs()
		w.result(w.put("seeds", "s", ""))
		w.inTurn([]string{"e"})
		w.wantStalled("panic: poisoned")
		if again := w.epochs(); again != epochs {
			t.Errorf("terms went from %d to %d: one was given up", epochs, again)
		}
		w.restart() // to panic at the same object again
		w.inTurn([]string{"f"})
		w.wantStalled("panic: poisoned")
		p.set(func(p *program) { p.poison = "" })
		w.restart()
		w.inTurn([]string{"g"})
		eventually(t, "all have fired", func() bool { return len(got.keys()) >= 8 })
		w.quiet()
		wantLines(t, got.keys(), "a", "b", "c", "d", "e", "f", "g", "poison")
		if shards == 1 {
			wantLines(t, got.sorted(), "a+b", "c+poison", "d+e", "f+g")
		}
	})
}

func TestAnOutcomeThatCannotBeStallsTheTrigger(t *testing.T) {
	other := triggers.Object{Position: 1 << 40, Key: "nowhere"}
	for name, test := range map[string]struct {
		wrong func(*triggers.Outcome)
		want  string
	}{
		"a firing with what is not there":   {func(o *triggers.Outcome) { o.Firings = []triggers.Firing{{Inputs: []triggers.Object{other}}} }, "fires object"},
		"a drop of what is not kept":        {func(o *triggers.Outcome) { o.Drop = []uint64{other.Position} }, "drops object"},
		"an item of another object":         {func(o *triggers.Outcome) { o.Keep = []triggers.Item{{Object: other}} }, "keeps something else"},
		"more firings than one entry holds": {func(o *triggers.Outcome) { o.Firings = make([]triggers.Firing, 10_001) }, "one step fires 10001 times, 5000 are allowed"},
		"more drops than one entry holds":   {func(o *triggers.Outcome) { o.Drop = make([]uint64, 50_001) }, "one step drops 50001 objects"},
		"a group with a long name":          {func(o *triggers.Outcome) { o.Firings = []triggers.Firing{{Group: noise(2000, 1)}} }, "name of a group"},
		"a timer beyond all calendars":      {func(o *triggers.Outcome) { o.Timer = time.Unix(1<<40, 0) }, "timer"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var got collector
			w, p := pairs(t, 1, "", map[string]function{"fire": got.take})
			w.inTurn([]string{"a"})
			p.set(func(p *program) { p.wrong = test.wrong })
			epochs := w.epochs()
			w.inTurn([]string{"b", "c"})
			w.wantStalled(test.want)
			if again := w.epochs(); again != epochs {
				t.Errorf("terms went from %d to %d: one was given up", epochs, again)
			}
			p.set(func(p *program) { p.wrong = nil })
			w.restart()
			w.inTurn([]string{"d"})
			eventually(t, "all have fired", func() bool { return len(got.keys()) >= 4 })
			wantLines(t, got.sorted(), "a+b", "c+d")
		})
	}
}

func TestAHeaderThatOutgrowsAnEntryStallsTheTrigger(t *testing.T) {
	var got collector
	w, p := pairs(t, 1, "", map[string]function{"fire": got.take})
	p.set(func(p *program) { p.pad = 2 << 20 })
	w.inTurn([]string{"a"})
	w.wantStalled("its header has 209")
	p.set(func(p *program) { p.pad = 0 })
	w.restart()
	w.inTurn([]string{"b"})
	eventually(t, "all have fired", func() bool { return len(got.keys()) >= 2 })
}

func TestASessionWhoseTriggerCannotGoOnFailsAndCanBeRunAgain(t *testing.T) {
	var got collector
	second := make(chan struct{})
	p := &program{version: 2}
	programs.Store(t.Name(), p)
	w := newWorld(t, 1, pairManifest(t, "session", ""), map[string]function{
		"fire": got.take,
		"seed": func(c *call) error {
			c.put("in", "a", "")
			if err := c.flush(); err != nil {
				return err
			}
			if err := c.waitFor(second); err != nil {
				return err
			}
			c.put("in", "b", "of the seed")
			c.put("work", "w", "")
			if err := c.flush(); err != nil {
				return err
			}
			return c.waitFor(nil) // until it is cancelled
		},
		"each": func(c *call) error { return c.waitFor(nil) },
	})
	id := w.put("seeds", "s", "")
	eventually(t, "the first object is there", func() bool { return w.session(id).Objects == 2 })
	p.set(func(p *program) { p.version = 1 })
	w.restart()
	if s := w.session(id); s.Status != wire.SessionRunning || len(s.Waiting) != 1 || !strings.Contains(s.Waiting[0].Stalled, "version 2") {
		t.Errorf("before it needs the trigger, the session is %+v", s)
	}
	epochs := w.epochs()
	close(second)
	e := w.failed(id)
	if e.Kind != "trigger" || e.Invocation != "" {
		t.Errorf("failed with %+v", e)
	}
	for _, part := range []string{`"x"`, `"in"`, "header has version 2", "run the session again"} {
		if !strings.Contains(e.Message, part) {
			t.Errorf("%q does not tell %s", e.Message, part)
		}
	}
	if states := w.states(id); !slices.Equal(states, []string{"seed cancelled lost cancelled"}) {
		t.Errorf("invocations are %q", states)
	}
	eventually(t, "what ran is told to stop", func() bool {
		w.run.mu.Lock()
		defer w.run.mu.Unlock()
		return w.run.cancelled[string(id)+".1/2"] == 1
	})
	if again := w.epochs(); again != epochs {
		t.Errorf("terms went from %d to %d: one was given up", epochs, again)
	}
	w.wantStalled() // sessions fail, they do not stall
	w.restart()
	o, err := w.home(id).GetSession(t.Context(), "demo", id, "in", "b")
	if text := readAll(t, o, err); text != "of the seed" {
		t.Errorf("the object is %q", text)
	}
	_, err = w.tryInto(string(id), "in", "c", "")
	wantCode(t, err, spec.CodeConflict, "failed")

	p.set(func(p *program) { p.version = 2 })
	w.into("again", "in", "a", "")
	w.into("again", "in", "b", "")
	w.result("again")
	wantLines(t, got.sorted(), "a+b")
}

func TestAPrimitiveThatPanicsFailsTheSession(t *testing.T) {
	p := &program{version: 1, poison: "poison"}
	programs.Store(t.Name(), p)
	w := newWorld(t, 1, pairManifest(t, "session", ", wait: 20ms"), map[string]function{"fire": func(*call) error { return nil }})
	w.into("one", "in", "a", "")
	w.into("two", "in", "a", "")
	w.into("two", "in", "poison", "")
	if e := w.failed("two"); e.Kind != "trigger" || !strings.Contains(e.Message, "panic: poisoned") || !strings.Contains(e.Detail, "pair_test.go") {
		t.Errorf("failed with %+v", e)
	}
	w.completed("one")
}

// damage changes the stored state of the trigger x.
func (w *world) damage(change func(*store.TriggerState)) {
	w.t.Helper()
	home := w.ShardOf(spec.BucketSlot("demo", "in"))
	key := store.AppendTriggerStateKey(nil, home, "demo", "", "in", "x")
	value, err := w.db.Get(key)
	if err != nil {
		w.t.Fatalf("the trigger's state: %v", err)
	}
	rec, err := store.DecodeTriggerState(value)
	if err != nil {
		w.t.Fatal(err)
	}
	change(&rec)
	b := w.db.NewBatch()
	b.Set(key, store.AppendTriggerState(nil, &rec))
	if err := w.db.Commit(b, true); err != nil {
		w.t.Fatal(err)
	}
}

func TestAStalledTriggerIsToldOnce(t *testing.T) {
	log := &logged{}
	var got collector
	w, p := pairs(t, 1, "", map[string]function{"fire": got.take})
	p.set(func(p *program) { p.version = 2 })
	w.inTurn([]string{"a"})
	p.set(func(p *program) { p.version = 1 })
	w.log = slog.New(slog.NewTextHandler(log, nil))
	w.restart()
	w.inTurn(numbered(20))
	if n := log.count("a trigger is stalled"); n != 1 {
		t.Errorf("told %d times", n)
	}
}

// logged collects a log.
type logged struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logged) count(part string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.text.String(), part)
}

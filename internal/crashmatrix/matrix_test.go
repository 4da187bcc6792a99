package crashmatrix

import (
	"context"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/client"
	"github.com/pheromone-run/pheromone/internal/failpoint"
	"github.com/pheromone-run/pheromone/internal/nodetest"
	"github.com/pheromone-run/pheromone/spec"
)

var (
	update = flag.Bool("update", false, "write the table into docs/crash-matrix.md")
	hits   = flag.Int("matrix.hits", 1, "die at the first so many times that a point is passed")
)

// columnsAtOnce is how many scenarios run side by side: most of the time is spent
// in waiting for nodes to start and for timers.
const columnsAtOnce = "14"

func TestMain(m *testing.M) {
	if os.Getenv("PHEROMONE_EXECUTOR") != "" {
		serveFunctions()
	}
	flag.Parse()
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "test.parallel" })
	if !given {
		_ = flag.Set("test.parallel", columnsAtOnce)
	}
	nodetest.Main(m)
}

func TestEveryPrimitiveHasAScenario(t *testing.T) {
	for _, p := range spec.Primitives() {
		if !slices.ContainsFunc(scenarios, func(s scenario) bool { return s.primitive == p }) {
			t.Errorf("primitive %s has no scenario: the matrix lacks a column", p)
		}
	}
}

// TestNoCrashChangesWhatComesOut kills a node at every point that a scenario
// passes, and compares.
func TestNoCrashChangesWhatComesOut(t *testing.T) {
	var mu sync.Mutex
	reached := map[string]map[string]int{}
	crashes := 0
	t.Run("scenario", func(t *testing.T) {
		for i := range scenarios {
			s := &scenarios[i]
			t.Run(s.name, func(t *testing.T) {
				t.Parallel()
				c := newColumn(t, s)
				c.run()
				mu.Lock()
				defer mu.Unlock()
				reached[s.name] = c.reached
				crashes += len(c.cells) - c.missed
			})
		}
	})
	t.Logf("%d crashes", crashes)
	switch {
	case t.Failed():
	case len(reached) < len(scenarios): // -run names some of them
		for name, points := range reached {
			checkColumn(t, name, points)
		}
	case *update:
		writeTable(t, reached)
	default:
		checkTable(t, reached)
	}
}

// column is the run of one scenario: on one node, which dies again and again.
type column struct {
	t        *testing.T
	ctx      context.Context
	scenario *scenario
	node     *nodetest.Node
	client   *client.Client
	want     *outcome
	reached  map[string]int  // how often the run without a crash passed each point
	proven   map[string]bool // "point:n" at which the node has died
	cells    []*cell
	missed   int // of the cells, those whose pass did not come
}

// cell is one crash.
type cell struct {
	app       spec.AppName
	point     string
	n         int
	retention time.Duration
	driven    chan error
	idle      bool // its driver has ended
	said      int  // lines that its failpoints wrote before the last stage
}

// purged tells whether the crash is in the deletion of the sessions, by the timer
// of their retention.
func (c *cell) purged() bool { return strings.HasPrefix(c.point, "purged/") }

const (
	kept      = time.Hour        // the retention of cells that are compared to the end
	shortKept = 2 * time.Second  // of those whose sessions are purged meanwhile
	patience  = 3 * time.Minute  // for anything to come true
	forColumn = 14 * time.Minute // for all of a scenario: less than the tests have
)

func newColumn(t *testing.T, s *scenario) *column {
	ctx, cancel := context.WithTimeout(context.Background(), forColumn)
	t.Cleanup(cancel)
	c := &column{t: t, ctx: ctx, scenario: s, node: nodetest.New(t, s.args...), reached: map[string]int{}, proven: map[string]bool{}}
	c.client = c.node.Client()
	t.Cleanup(c.client.Close)
	return c
}

func (c *column) run() {
	reference := c.reference()
	next := c.next()
	c.start(next, 0)
	for next != nil {
		this := next
		c.deploy(this)
		for stage := 1; stage < len(c.stages(this)); stage++ {
			c.awaitDeath(this)
			this.said = len(c.lines(this.app))
			c.start(this, stage)
		}
		if this.purged() && !c.comparedInTime(this) {
			next = c.again(this)
			c.start(next, 0)
			continue
		}
		c.cells = append(c.cells, this)
		if this.n > 1 && !c.diesAgain(this) {
			c.proven[fmt.Sprintf("%s:%d", this.point, this.n)] = true
			c.missed++
			c.t.Logf("%s was not passed %d times: entries have been taken together", this.point, this.n)
			next = c.next()
			c.start(next, 0)
			continue
		}
		c.awaitDeath(this)
		c.note(this)
		next = c.next()
		c.start(next, 0)
		if this.purged() {
			c.awaitGone(this.app)
		} else {
			c.compare(this, c.awaitSettled(this))
		}
	}
	c.finish(append(c.cells, reference))
}

// reference runs the scenario without a crash, and records what it passes until
// its sessions are purged.
func (c *column) reference() *cell {
	retention := shortKept
	for {
		ref := &cell{app: spec.AppName(fmt.Sprintf("%s-ref-%d", c.scenario.name, retention/time.Second)), retention: retention, driven: make(chan error, 1)}
		if first := c.scenario.first; first != "" {
			c.launch(first + "@" + string(ref.app))
			c.deploy(ref)
			c.awaitDeath(ref)
			c.launch("record")
		} else {
			c.launch("record")
			c.deploy(ref)
		}
		want, inTime := c.settle(ref)
		if !inTime {
			retention *= 2
			c.node.Kill()
			continue
		}
		c.want = want
		c.awaitGone(ref.app)
		// What is in the store can be seen before its effects have run, and before what
		// the node says of it has come here.
		nodetest.Eventually(c.t, "all entries of "+string(ref.app)+" have had their effects", func() bool {
			c.reached = recorded(c.lines(ref.app))
			return c.reached[failpoint.Steps()[failpoint.Purged]+"/"+failpoint.Moments()[0]] > 0 && quiet(c.reached)
		})
		if !c.scenario.emits {
			delete(c.reached, failpoint.Emitting.String())
		}
		c.node.Kill()
		return ref
	}
}

// recorded counts how often points were passed.
func recorded(lines []failpoint.Line) map[string]int {
	times := map[string]int{}
	for _, l := range lines {
		if !l.Killed {
			times[l.Point] = max(times[l.Point], l.Times)
		}
	}
	return times
}

// quiet tells whether no entry is on its way: each step that came to the first
// moment has come to the last one as well.
func quiet(reached map[string]int) bool {
	moments := failpoint.Moments()
	return !slices.ContainsFunc(failpoint.Steps(), func(step string) bool {
		return reached[step+"/"+moments[0]] != reached[step+"/"+moments[len(moments)-1]]
	})
}

// next makes the cell of the first point at which the node has not died yet; nil
// if there is none.
func (c *column) next() *cell {
	for n := 1; n <= *hits; n++ {
		for _, point := range failpoint.Points() {
			if c.reached[point] >= n && !c.proven[fmt.Sprintf("%s:%d", point, n)] {
				return c.cell(point, n, shortKept)
			}
		}
	}
	return nil
}

func (c *column) cell(point string, n int, retention time.Duration) *cell {
	x := &cell{app: spec.AppName(fmt.Sprintf("%s-%d", c.scenario.name, len(c.cells)+1)), point: point, n: n, retention: kept, driven: make(chan error, 1)}
	if x.purged() {
		x.app += spec.AppName(fmt.Sprintf("-%d", retention/time.Second))
		x.retention = retention
	}
	return x
}

// again makes a cell anew whose sessions were purged before they were compared.
func (c *column) again(x *cell) *cell { return c.cell(x.point, x.n, 2*x.retention) }

// stages are the points at which the node dies for a cell, one after the other.
func (c *column) stages(x *cell) []string {
	at := fmt.Sprintf("%s:%d@%s", x.point, x.n, x.app)
	if first := c.scenario.first; first != "" {
		return []string{first + "@" + string(x.app), at}
	}
	return []string{at}
}

// start starts the node so that it dies at a cell's stage; with no cell it lives.
func (c *column) start(x *cell, stage int) {
	if x == nil {
		c.launch("")
		return
	}
	c.launch(c.stages(x)[stage])
}

func (c *column) launch(value string) {
	c.node.Kill() // it may live: a cell was given up
	c.node.Setenv(failpoint.Variable + "=" + value)
	c.node.Launch()
}

// deploy applies the scenario's app for a cell and begins to drive it.
func (c *column) deploy(x *cell) {
	c.t.Helper()
	manifest := c.scenario.manifest(c.t, x)
	if _, err := c.client.Apply(c.ctx, x.app, []byte(manifest), client.ApplyOptions{}); err != nil {
		c.t.Fatalf("apply %s: %v\n%s", x.app, err, manifest)
	}
	go func() {
		d := &driver{ctx: c.ctx, client: c.client, app: x.app}
		c.scenario.drive(d)
		x.driven <- d.err
	}()
}

func (s *scenario) manifest(t *testing.T, x *cell) string {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "apiVersion: pheromone/v1\napp: %s\nretention: %s\nfunctions:\n", x.app, spec.FormatDuration(x.retention))
	for name, options := range s.functions {
		if options != "" {
			options = ", " + options
		}
		fmt.Fprintf(&b, "  %s: {command: [env, %q], retry: {max_attempts: 3, backoff: 10ms}%s}\n", name, self, options)
	}
	return b.String() + "buckets:\n  " + s.buckets + "\n"
}

// note notes at which points the node has died.
func (c *column) note(x *cell) {
	c.t.Helper()
	for _, l := range c.lines(x.app)[x.said:] {
		c.proven[fmt.Sprintf("%s:%d", l.Point, l.Times)] = true
	}
	if !c.proven[fmt.Sprintf("%s:%d", x.point, x.n)] {
		c.t.Fatalf("the node died, but not at %s, pass %d, with app %s", x.point, x.n, x.app)
	}
}

func (c *column) awaitDeath(x *cell) {
	c.t.Helper()
	select {
	case <-c.node.Exited():
	case <-time.After(patience):
		c.t.Fatalf("the node did not come to %s, pass %d, with app %s", x.point, x.n, x.app)
	}
}

// diesAgain tells whether the node dies at a pass after the first: how often a
// point is passed depends on which commands the leader takes together.
func (c *column) diesAgain(x *cell) bool {
	c.t.Helper()
	grace := time.Second
	if x.purged() {
		grace += 2 * x.retention
	} else if o, settled := c.settle(x); settled {
		c.compare(x, o)
	}
	select {
	case <-c.node.Exited():
		return true
	case <-time.After(grace):
		return false
	}
}

// lines reads what failpoints have said of an app.
func (c *column) lines(app spec.AppName) []failpoint.Line {
	var all []failpoint.Line
	for text := range strings.Lines(c.node.Log()) {
		if l, ok := failpoint.ParseLine(strings.TrimSpace(text)); ok && l.App == app {
			all = append(all, l)
		}
	}
	return all
}

// settle waits until an app has come to what its scenario has to come to. It
// returns false if its sessions were purged, or the node has died, before that was
// seen.
func (c *column) settle(x *cell) (*outcome, bool) {
	c.t.Helper()
	deadline := time.Now().Add(patience)
	ctx, cancel := context.WithCancel(c.ctx)
	defer cancel()
	if x.purged() || x.n > 1 { // the node may die meanwhile, and nothing answers any more
		exited := c.node.Exited()
		go func() {
			select {
			case <-exited:
				cancel()
			case <-ctx.Done():
			}
		}()
	}
	for {
		select {
		case err := <-x.driven:
			if err != nil {
				c.t.Fatal(err)
			}
			x.idle = true
		default:
		}
		o, err := collect(ctx, c.client, x.app, c.scenario)
		switch {
		case err == nil && x.idle && o.settled(c.scenario):
			return o, true
		case ctx.Err() != nil && c.ctx.Err() == nil:
			return nil, false
		case x.retention != kept && (spec.CodeOf(err) == spec.CodeNotFound || err == nil && x.idle && len(o.states) == 0):
			return nil, false
		case err != nil && spec.CodeOf(err) != spec.CodeNotFound:
			c.t.Fatalf("collect what became of %s: %v", x.app, err)
		case time.Now().After(deadline):
			c.t.Fatalf("after a crash at %q app %s has come to\n%s\nnot to %q", x.point, x.app, o.text, c.scenario.outputs)
		}
		if !pause(ctx) && c.ctx.Err() != nil {
			c.t.Fatal(c.ctx.Err())
		}
	}
}

func (c *column) awaitSettled(x *cell) *outcome {
	c.t.Helper()
	o, _ := c.settle(x)
	return o
}

// comparedInTime compares before the node dies in the purge.
func (c *column) comparedInTime(x *cell) bool {
	c.t.Helper()
	o, inTime := c.settle(x)
	if inTime {
		c.compare(x, o)
	}
	return inTime
}

func (c *column) compare(x *cell, got *outcome) {
	c.t.Helper()
	if got.text != c.want.text {
		c.t.Errorf("after a crash at %s, pass %d:\n%s\nwithout a crash:\n%s", x.point, x.n, got.text, c.want.text)
	}
}

// awaitGone waits until no session of an app is left.
func (c *column) awaitGone(app spec.AppName) {
	c.t.Helper()
	deadline := time.Now().Add(patience)
	for {
		o, err := collect(c.ctx, c.client, app, c.scenario)
		if err != nil && spec.CodeOf(err) != spec.CodeNotFound {
			c.t.Fatalf("list what is left of %s: %v", app, err)
		}
		if err == nil && len(o.states) == 0 {
			return
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("sessions of %s are never purged:\n%s", app, o.text)
		}
		pause(c.ctx)
	}
}

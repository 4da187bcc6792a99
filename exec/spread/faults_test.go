package spread_test

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/client/fn"
	"github.com/pheromone-run/pheromone/exec"
	"github.com/pheromone-run/pheromone/exec/spread"
	"github.com/pheromone-run/pheromone/spec"
)

func withLinks(l *links) func(*cluster, *spread.Config) { return withSilence(l, 5*time.Second) }

// withSilence is withLinks for a test that waits for the silence of a node.
func withSilence(l *links, silence time.Duration) func(*cluster, *spread.Config) {
	return func(c *cluster, cfg *spread.Config) {
		c.dial = l.dial
		cfg.Silence = silence
	}
}

func TestAnAttemptOfANodeThatIsLostEndsAsLost(t *testing.T) {
	l := newLinks(t)
	c := newCluster(t, map[string]int{"n1": 1, "n2": 1}, withLinks(l))
	defer close(c.fill("n1", 1).let)
	h := newHeld()
	c.register("f", h.run)
	r := c.submit("f")
	eventually(t, "it runs there", func() bool { return h.count("n2") == 1 })
	l.sever(true)
	r.end(exec.Lost)
	if on := <-h.ended; on != "n2" { // n2 sees that n1 is gone
		t.Fatalf("stopped on %s", on)
	}
	eventually(t, "it is counted", func() bool { return c.stats().Lost == 1 })
	again := c.submit("f")
	l.sever(false)
	eventually(t, "the next one runs there", func() bool { return h.count("n2") == 2 })
	close(h.let)
	again.end("")
}

func TestAPartitionedNodeThatAnswersLateIsNotHeard(t *testing.T) {
	l := newLinks(t)
	c := newCluster(t, map[string]int{"n1": 1, "n2": 1}, withSilence(l, 2*time.Second))
	first := c.fill("n1", 1)
	begun, goOn, ended := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	c.register("f", func(node string, ctx *fn.Context, _ []fn.Object) error {
		if node == "n2" {
			close(begun)
			<-goOn // it does not look at whether it was cancelled
			err := ctx.Put("out", "late", nil)
			ended <- err
			return err
		}
		return ctx.Put("out", "right", nil)
	})
	r := c.submit("f")
	<-begun
	l.hold()
	r.end(exec.Lost)
	close(goOn) // n2 has a result, for a leader that does not wait any more
	<-ended
	again := newRun(t)
	task := *r.task
	task.Attempt, task.Sink = 2, again
	c.nodes["n1"].rt.Submit(&task)
	close(first.let)
	if on := again.end(""); on != "inproc" {
		t.Fatalf("ran on %s", on)
	}
	l.release()
	eventually(t, "n2 is rid of it", func() bool { return c.nodes["n2"].rt.Stats().Guests == 0 && c.stats().Away == 0 })
	if len(r.emitted) != 0 || r.finished != 1 || len(again.emitted) != 1 || again.emitted[0].Key != "right" {
		t.Fatalf("emitted %v, then %v; Done %d times", r.emitted, again.emitted, r.finished)
	}
}

func TestANodeStopsAttemptsWhoseLeaderIsSilent(t *testing.T) {
	l := newLinks(t)
	c := newCluster(t, map[string]int{"n1": 1, "n2": 1}, withSilence(l, 2*time.Second))
	defer close(c.fill("n1", 1).let)
	h := newHeld()
	c.register("f", h.run)
	r := c.submit("f")
	eventually(t, "it runs there", func() bool { return h.count("n2") == 1 })
	l.hold()
	if on := <-h.ended; on != "n2" {
		t.Fatalf("stopped on %s", on)
	}
	l.release()
	r.end(exec.Lost)
}

// late is executors that are slow to take an attempt.
type late struct {
	spread.Local
	submitted, cancelled atomic.Int32
	goOn, begun          chan struct{}
}

func (l *late) Submit(t *exec.Task) {
	l.submitted.Add(1)
	<-l.goOn
	l.Local.Submit(t)
	<-l.begun
}

func (l *late) Cancel(ref exec.TaskRef) {
	l.Local.Cancel(ref)
	l.cancelled.Add(1)
}

func TestAnAttemptOnItsWayToAnExecutorIsStoppedWithItsLeader(t *testing.T) {
	const many = 8
	l := newLinks(t)
	slow := &late{goOn: make(chan struct{}), begun: make(chan struct{})}
	c := newCluster(t, map[string]int{"n1": 1, "n2": many}, withLinks(l), func(_ *cluster, cfg *spread.Config) {
		if cfg.Node == "n2" {
			slow.Local, cfg.Local = cfg.Local, slow
		}
	})
	defer close(c.fill("n1", 1).let)
	h := newHeld()
	c.register("f", h.run)
	var all []*run
	for range many {
		all = append(all, c.submit("f"))
	}
	eventually(t, "they are about to begin there", func() bool { return slow.submitted.Load() == many })
	l.sever(true)
	for _, r := range all {
		r.end(exec.Lost)
	}
	eventually(t, "n2 knows", func() bool { return slow.cancelled.Load() == many })
	close(slow.goOn)
	eventually(t, "they begin", func() bool { return h.count("n2") == many })
	close(slow.begun)
	patience := time.After(wait / 4) // far less than the attempts' own time
	for range many {
		select {
		case <-h.ended:
		case <-patience:
			t.Fatal("an attempt goes on that counts no more")
		}
	}
}

func TestAttemptsThatTakeLongAreNotTakenForLost(t *testing.T) {
	l := newLinks(t)
	c := newCluster(t, map[string]int{"n1": 1, "n2": 1}, withSilence(l, 3*time.Second))
	defer close(c.fill("n1", 1).let)
	h := newHeld()
	c.register("f", h.run)
	r := c.submit("f")
	eventually(t, "it runs there", func() bool { return h.count("n2") == 1 })
	<-time.After(5 * time.Second) // without a word but the beats
	close(h.let)
	r.end("")
}

func TestALeaderThatTakesItsTimeWithEmissionsIsWaitedFor(t *testing.T) {
	l := newLinks(t)
	c := newCluster(t, map[string]int{"n1": 1, "n2": 1}, withSilence(l, 3*time.Second))
	defer close(c.fill("n1", 1).let)
	second := make(chan struct{})
	c.register("f", func(_ string, ctx *fn.Context, _ []fn.Object) error {
		for i := range 3 {
			if err := ctx.Put("out", fmt.Sprint(i), make([]byte, 9<<20)); err != nil { // too large to be held back
				return err
			}
			if i == 1 {
				close(second)
			}
		}
		return nil
	})
	r := newRun(t)
	r.hold = make(chan struct{})
	c.nodes["n1"].rt.Submit(c.task("f", r))
	select {
	case <-second:
		t.Fatal("the function went on before its first object was taken")
	case <-time.After(5 * time.Second): // longer than a silence
	}
	close(r.hold)
	r.end("")
	if len(r.emitted) != 3 {
		t.Fatalf("emitted %d", len(r.emitted))
	}
}

func TestAnAttemptThatWaitsToEmitCanBeStopped(t *testing.T) {
	for name, c := range map[string]struct {
		refuse error
		kind   string
	}{
		"by cancelling it":                   {nil, exec.Cancelled},
		"by refusing what it emitted before": {spec.Errorf(spec.CodeInvalid, "no"), exec.Refused},
	} {
		t.Run(name, func(t *testing.T) {
			w := newCluster(t, map[string]int{"n1": 1, "n2": 1})
			defer close(w.fill("n1", 1).let)
			emitting := make(chan struct{})
			w.register("f", func(_ string, ctx *fn.Context, _ []fn.Object) error {
				for i := range 20 {
					if i == 1 {
						close(emitting)
					}
					if err := ctx.Put("out", fmt.Sprint(i), make([]byte, 9<<20)); err != nil {
						return err
					}
				}
				return nil
			})
			r := newRun(t)
			r.hold, r.refuse = make(chan struct{}), c.refuse
			task := w.task("f", r)
			w.nodes["n1"].rt.Submit(task)
			<-emitting
			if c.refuse == nil {
				w.nodes["n1"].rt.Cancel(task.Ref())
			}
			close(r.hold)
			r.end(c.kind)
			eventually(t, "the attempt is gone", func() bool { return w.stats().Away == 0 && w.nodes["n2"].rt.Stats().Guests == 0 })
		})
	}
}

func TestTheSameNumberInANewEpochIsAnotherAttempt(t *testing.T) {
	c := newCluster(t, map[string]int{"n1": 1, "n2": 2})
	defer close(c.fill("n1", 1).let)
	h := newHeld()
	c.register("f", h.run)
	r := c.submit("f")
	eventually(t, "it runs there", func() bool { return h.count("n2") == 1 })
	again := newRun(t)
	task := *r.task
	task.Epoch, task.Sink = 8, again
	c.nodes["n1"].rt.Submit(&task)
	eventually(t, "so does that of the next leader", func() bool { return h.count("n2") == 2 })
	c.nodes["n1"].rt.Cancel(r.task.Ref())
	r.end(exec.Cancelled)
	<-h.ended
	eventually(t, "the old one is gone", func() bool { return c.nodes["n2"].rt.Stats().Guests == 1 })
	close(h.let)
	again.end("")
}

func TestClosingEndsWhatIsAway(t *testing.T) {
	c := newCluster(t, map[string]int{"n1": 1, "n2": 1})
	fill := c.fill("n1", 1)
	h := newHeld()
	c.register("f", h.run)
	away := c.submit("f")
	eventually(t, "it runs there", func() bool { return h.count("n2") == 1 })
	waiting := c.submit("f")
	if err := c.nodes["n1"].rt.Close(); err != nil {
		t.Fatal(err)
	}
	away.end(exec.Lost)
	waiting.end(exec.Lost)
	late := c.submit("f")
	late.end(exec.Lost)
	<-h.ended
	<-fill.ended
}

// Connections break at any byte of what the nodes say to each other: each attempt
// ends once, and what it emitted came in order, none twice.
func TestWhereverConnectionsBreakAnAttemptEndsOnceAndEmitsInOrder(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	l := newLinks(t)
	l.allow = func() int64 { return r.Int64N(8000) } // called one at a time
	c := newCluster(t, map[string]int{"n1": 1, "n2": 4, "n3": 4}, withSilence(l, time.Second))
	defer close(c.fill("n1", 1).let)
	var ran, broken atomic.Int64
	c.register("f", func(node string, ctx *fn.Context, in []fn.Object) error {
		ran.Add(1)
		for i := range 3 {
			if err := ctx.Put("out", fmt.Sprint(i), in[0].Bytes()[:100*i]); err != nil {
				return err
			}
			if _, err := ctx.Get("in", "there"); err != nil {
				return err
			}
		}
		return nil
	})
	in := exec.Input{Bucket: "in", Key: "k", Session: "s", Data: make([]byte, 1000)}
	var workers sync.WaitGroup
	var mu sync.Mutex
	for range 8 {
		workers.Go(func() {
			for range 20 {
				run := newRun(t)
				run.objects = map[spec.Key]exec.Input{"there": {Data: []byte("here")}}
				for attempt := 1; ; attempt++ { // as the leader does
					mu.Lock()
					task := c.task("f", run, in)
					mu.Unlock()
					task.Attempt = attempt
					c.nodes["n1"].rt.Submit(task)
					<-run.done
					if run.failure == nil {
						break
					}
					broken.Add(1)
					for i, e := range run.emitted {
						if e.Seq != uint64(i+1) {
							t.Errorf("emission %d has number %d", i+1, e.Seq)
						}
					}
					objects := run.objects
					run = newRun(t)
					run.objects = objects
				}
				if len(run.emitted) != 3 {
					t.Errorf("emitted %d", len(run.emitted))
				}
				for i, e := range run.emitted {
					if e.Seq != uint64(i+1) || len(e.Data) != 100*i {
						t.Errorf("emission %d has number %d and %d bytes", i+1, e.Seq, len(e.Data))
					}
				}
			}
		})
	}
	workers.Wait()
	s := c.stats()
	t.Logf("%d attempts ran for 160 invocations, %d ended without a result; counted %+v", ran.Load(), broken.Load(), s)
	if s.Lost == 0 || s.Replica == 0 || s.Other == 0 {
		t.Fatal("nothing broke")
	}
	eventually(t, "nothing is left", func() bool {
		return c.stats().Away+c.nodes["n2"].rt.Stats().Guests+c.nodes["n3"].rt.Stats().Guests == 0
	})
}

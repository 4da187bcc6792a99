package leader_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/pheromone-run/pheromone/exec"
	"github.com/pheromone-run/pheromone/leader"
	"github.com/pheromone-run/pheromone/spec"
)

func TestTheEntriesInFlightOfAPipelinedChainAreBoundedAndMoreThanTheWindow(t *testing.T) {
	const long, most = 150, 64
	w, g := newGated(t, chainManifest(long, spec.Pipelined), chainFunctions(long))
	g.shut(0)
	answer := w.putAside("run", "b0", "x", "x")
	eventually(t, "the chain runs until no more may be in flight", func() bool { return g.waiting() == most })
	g.open()
	if err := <-answer; err != nil {
		t.Error(err)
	}
	w.completed("run", "out=x")
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.most != most {
		t.Errorf("%d entries were in flight at once, want %d", g.most, most)
	}
}

func TestWhatIsLargeDoesNotGoBeyondTheWindow(t *testing.T) {
	const long, window = 30, 8
	w, g := newGated(t, chainManifest(long, spec.Pipelined), chainFunctions(long))
	g.shut(0)
	answer := w.putAside("run", "b0", "x", strings.Repeat("x", 20<<10))
	eventually(t, "the window is full", func() bool { return g.waiting() == window })
	g.open()
	if err := <-answer; err != nil {
		t.Error(err)
	}
	w.completed("run", "out="+strings.Repeat("x", 20<<10))
	if g.most > window {
		t.Errorf("%d entries of 20 KiB were in flight at once", g.most)
	}
}

// away is an executor that asks for the inputs as another node does: by their reference.
type away struct {
	*runner
	w    *world
	said chan error
}

func (a *away) Submit(t *exec.Task) {
	go func() {
		reference, err := t.Source.(exec.Portable).Reference()
		if err == nil {
			var in []exec.Input
			if in, err = (leader.Reader{DB: a.w.db}).Load(context.Background(), reference); err == nil && string(in[0].Data) != "x" {
				err = fmt.Errorf("the input is %q", in[0].Data)
			}
		}
		a.said <- err
	}()
}

func TestAnotherNodeIsGivenEarlyInputsOnceTheyAreCommitted(t *testing.T) {
	for _, lost := range []bool{false, true} {
		t.Run(fmt.Sprintf("lost %t", lost), func(t *testing.T) {
			g := &gate{left: -1}
			w := &world{t: t, dir: t.TempDir(), shards: 1, apps: &deployed{}, run: newRunner(nil), own: g.take}
			a := &away{runner: w.run, w: w, said: make(chan error, 10)}
			w.execs = a
			w.apps.apply(t, earlyChain)
			w.start()
			t.Cleanup(w.close)
			t.Cleanup(g.open)
			g.shut(0)
			answer := w.putAside("run", "a", "k", "x")
			eventually(t, "it is proposed", func() bool { return g.waiting() == 1 })
			select {
			case err := <-a.said:
				t.Errorf("the reference is given before the commit: %v", err)
			default:
			}
			if lost {
				g.lose()
				if err := <-a.said; err == nil {
					t.Error("the inputs of a lost firing are read")
				}
				wantCode(t, <-answer, spec.CodeUnavailable)
				return
			}
			g.open()
			for _, c := range []<-chan error{answer, a.said} {
				if err := <-c; err != nil {
					t.Error(err)
				}
			}
		})
	}
}

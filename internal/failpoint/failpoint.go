package failpoint

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/pheromone-run/pheromone/spec"
)

// Variable is the environment variable that arms a failpoint. Its value is
//
//	POINT[:N][@APP]   kill the process with SIGKILL when it passes POINT for the
//	                  N-th time (default 1) with data of APP (default any)
//	record            write a line to standard error for each point that is passed
const Variable = "PHEROMONE_FAILPOINT"

const recordWord = "record"

// What is armed. It is set before the node starts and never after.
var (
	on    bool
	armed trap
)

// trap says where the process dies, and counts how often points were passed.
type trap struct {
	point  string
	n      int
	app    spec.AppName // "": any
	record bool
	out    io.Writer
	die    func()

	mu      sync.Mutex
	counts  map[hit]int
	entries map[string][]pass // those on their way, by their bytes
}

// hit is a point that data of an app has passed.
type hit struct {
	point string
	app   spec.AppName
}

// pass is a step that an entry contains.
type pass struct {
	step Step
	app  spec.AppName
}

// Arm arms what value says; an empty one leaves everything off. It must be called
// before anything that passes points runs.
func Arm(value string) error {
	if value == "" {
		return nil
	}
	if err := armed.parse(value); err != nil {
		return err
	}
	armed.out, armed.die = os.Stderr, kill
	armed.counts, armed.entries = make(map[hit]int), make(map[string][]pass)
	on = true
	return nil
}

func (t *trap) parse(value string) error {
	if value == recordWord {
		t.record = true
		return nil
	}
	rest, app, _ := strings.Cut(value, "@")
	point, times, counted := strings.Cut(rest, ":")
	if !known(point) {
		return fmt.Errorf("%s=%q: there is no point %q: use %s, or one of %s", Variable, value, point, recordWord, list())
	}
	n := 1
	if counted {
		var err error
		if n, err = strconv.Atoi(times); err != nil || n < 1 {
			return fmt.Errorf("%s=%q: %q is not a number from 1", Variable, value, times)
		}
	}
	t.point, t.n, t.app = point, n, spec.AppName(app)
	return nil
}

// kill ends the process as a power cut of its machine would, but for the caches of
// the disk.
func kill() {
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {} // the signal is on its way
}

// On tells whether anything is armed.
func On() bool { return on }

// At passes a place.
func At(p Place, app spec.AppName) {
	if on {
		armed.at(p, app)
	}
}

// Entry is which steps an entry of the raft log contains. The zero value is ready.
type Entry struct{ passes []pass }

// Pass notes a step. Steps that an entry contains several times count once.
func (e *Entry) Pass(s Step, app spec.AppName) {
	if on {
		e.add(pass{s, app})
	}
}

func (e *Entry) add(p pass) {
	if !slices.Contains(e.passes, p) {
		e.passes = append(e.passes, p)
	}
}

// At passes the points of the entry's steps at a moment.
func (e *Entry) At(m Moment) {
	if on {
		armed.reached(m, e.passes)
	}
}

// Propose passes Evaluated, and has Entries know the entry by its bytes.
func (e *Entry) Propose(body []byte) {
	if on {
		armed.proposed(body, e.passes)
	}
}

// Entries passes the points of entries of which only the bytes are known here.
func Entries(m Moment, bodies [][]byte) {
	if on {
		armed.stored(m, bodies)
	}
}

func (t *trap) at(p Place, app spec.AppName) { t.passed([]hit{{placeNames[p], app}}) }

func (t *trap) proposed(body []byte, passes []pass) {
	t.reached(Evaluated, passes)
	if len(passes) > 0 {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.entries[string(body)] = passes
	}
}

func (t *trap) stored(m Moment, bodies [][]byte) {
	for _, body := range bodies {
		t.mu.Lock()
		passes := t.entries[string(body)]
		if m == Applied {
			delete(t.entries, string(body))
		}
		t.mu.Unlock()
		t.reached(m, passes)
	}
}

func (t *trap) reached(m Moment, passes []pass) {
	hits := make([]hit, len(passes))
	for i, p := range passes {
		hits[i] = hit{name(p.step, m), p.app}
	}
	t.passed(hits)
}

// passed counts points that are passed at once, and ends the process if it is to
// die there. Its last words name all points at which that app's data was just then.
func (t *trap) passed(hits []hit) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var deadly *hit
	for i := range hits {
		h := &hits[i]
		t.counts[*h]++
		if h.point == t.point && (t.app == "" || t.app == h.app) && t.counts[*h] == t.n {
			deadly = h
		}
	}
	if deadly == nil && !t.record {
		return
	}
	var lines strings.Builder
	for _, h := range hits {
		if deadly == nil || h.app == deadly.app {
			fmt.Fprintln(&lines, Line{Killed: deadly != nil, Point: h.point, Times: t.counts[h], App: h.app})
		}
	}
	_, _ = io.WriteString(t.out, lines.String())
	if deadly != nil {
		t.die()
	}
}

// Line is a line of what is recorded, or of the last words.
type Line struct {
	Killed bool
	Point  string
	Times  int // that the point has been passed with data of the app
	App    spec.AppName
}

func (l Line) String() string {
	word := "passed"
	if l.Killed {
		word = "killed"
	}
	return fmt.Sprintf("failpoint %s at %s:%d@%s", word, l.Point, l.Times, l.App)
}

// ParseLine reads a line that String has written.
func ParseLine(line string) (l Line, ok bool) {
	rest, ok := strings.CutPrefix(line, "failpoint ")
	if !ok {
		return Line{}, false
	}
	word, rest, _ := strings.Cut(rest, " at ")
	rest, app, _ := strings.Cut(rest, "@")
	point, times, _ := strings.Cut(rest, ":")
	n, err := strconv.Atoi(times)
	return Line{Killed: word == "killed", Point: point, Times: n, App: spec.AppName(app)}, err == nil && known(point)
}

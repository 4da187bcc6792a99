package leader

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/spec"
)

// queue is an intake with a clock of its own.
type queue struct {
	*intake
	t     *testing.T
	clock time.Time
}

func newQueue(t *testing.T) *queue {
	q := &queue{t: t, clock: time.Unix(1, 0)}
	q.intake = newIntake(func() time.Time { return q.clock })
	return q
}

// add offers n commands of an app.
func (q *queue) add(app spec.AppName, n int) {
	q.t.Helper()
	for range n {
		if !q.tryOffer(&request{command: &put{Put: Put{App: app}}}) {
			q.t.Fatalf("app %q finds no place", app)
		}
	}
}

// takeAll takes what may be taken and tells whose it was.
func (q *queue) takeAll() (taken []*request, order string) {
	for req := q.take(); req != nil; req = q.take() {
		taken = append(taken, req)
		order += string(req.lane.app)
	}
	return taken, order
}

func TestAppsAreServedInTurnAndOneCannotFillWhatIsInFlight(t *testing.T) {
	q := newQueue(t)
	q.add("a", 100)
	q.add("b", 3)
	taken, order := q.takeAll()
	if want := "ababab" + strings.Repeat("a", takenTogether/2-3); order != want {
		t.Fatalf("taken in the order %s, want %s", order, want)
	}
	<-q.ready
	q.add("b", 1)
	if req := q.take(); req == nil || req.lane.app != "b" {
		t.Fatal("what another app has in flight holds up b")
	}
	<-q.ready
	q.giveBack(taken)
	select {
	case <-q.ready:
	default:
		t.Fatal("nobody is told that there is something to take again")
	}
	if _, order = q.takeAll(); order != strings.Repeat("a", takenTogether/2) {
		t.Fatalf("taken after what was in flight is applied: %s", order)
	}
}

func TestCommandsAreTakenInTheLaneOfTheirApp(t *testing.T) {
	name := sessionName{app: "a"}
	mail := Mail{}
	mail.App = "a"
	for _, c := range []command{
		&put{Put: Put{App: "a"}}, &remove{Delete: Delete{App: "a"}}, &done{attemptName: attemptName{app: "a"}}, &emitted{attemptName: attemptName{app: "a"}},
		&handed{app: "a", command: wake{}}, &look{name: name}, &inspect{name: name}, &cancel{name}, &refire{name: name}, &reported{name: name}, &take{mail: mail},
	} {
		if app := ownerOf(c); app != "a" {
			t.Errorf("%T is taken in the lane of %q", c, app)
		}
	}
}

func TestAnAppAloneIsNotHeldUp(t *testing.T) {
	q := newQueue(t)
	q.add("a", 1000)
	q.add("", 0)
	if taken, _ := q.takeAll(); len(taken) != 1000 {
		t.Fatalf("%d of 1000 commands of the only app are taken", len(taken))
	}
}

func TestAnAppThatIsDoneHoldsUpNobody(t *testing.T) {
	q := newQueue(t)
	q.add("b", 1)
	taken, _ := q.takeAll()
	q.giveBack(taken)
	q.add("a", 1000)
	if taken, _ = q.takeAll(); len(taken) != takenTogether/2 {
		t.Fatalf("%d commands are taken beside an app that is at work, want %d", len(taken), takenTogether/2)
	}
	q.clock = q.clock.Add(laneKept)
	if taken, _ = q.takeAll(); len(taken) != 1000-takenTogether/2 {
		t.Fatalf("%d commands are taken once the other app is done", len(taken))
	}
	if len(q.mu.lanes) != 1 || len(q.mu.ring) != 1 || q.mu.apps != 1 {
		t.Errorf("%d lanes of %d apps are left", len(q.mu.lanes), q.mu.apps)
	}
}

func TestWhatBelongsToNoAppIsNeverHeldUp(t *testing.T) {
	q := newQueue(t)
	q.add("a", 1)
	q.add("b", 1)
	q.add("", 100)
	if taken, _ := q.takeAll(); len(taken) != 102 {
		t.Fatalf("%d of 102 commands are taken", len(taken))
	}
}

func TestOneAppCannotFillTheIntake(t *testing.T) {
	q := newQueue(t)
	q.add("a", laneCommands)
	over := &request{command: &put{Put: Put{App: "a"}}}
	if q.tryOffer(over) {
		t.Fatal("an app has more waiting than its part of the intake")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := q.offer(ctx, over); !errors.Is(err, context.Canceled) {
		t.Fatalf("a command without a place ended with %v", err)
	}
	q.add("b", 1)
	waits := make(chan error, 1)
	go func() { waits <- q.offer(t.Context(), over) }()
	q.giveBack([]*request{q.take()})
	if err := <-waits; err != nil {
		t.Fatalf("there is a place, and the command ended with %v", err)
	}
	if left := q.rest(); len(left) != laneCommands+1 {
		t.Errorf("%d commands are left, want %d", len(left), laneCommands+1)
	}
}

func TestOneAppCannotFillTheRoomForBytes(t *testing.T) {
	r := newRoom()
	const quarter = intakeBytes / 4
	ctx, cancel := context.WithCancel(t.Context())
	for range 2 {
		if err := r.acquire(ctx, "a", quarter); err != nil {
			t.Fatal(err)
		}
	}
	if r.mu.apps["a"].bytes.TryAcquire(1) {
		t.Fatal("an app has more than half of the room")
	}
	if err := r.acquire(t.Context(), "b", quarter); err != nil {
		t.Fatalf("another app finds no room: %v", err)
	}
	cancel()
	if err := r.acquire(ctx, "a", quarter); !errors.Is(err, context.Canceled) {
		t.Fatalf("what finds no room ended with %v", err)
	}
	for _, app := range []spec.AppName{"a", "a", "b"} {
		r.release(app, quarter)
	}
	if len(r.mu.apps) != 0 || !r.all.TryAcquire(intakeBytes) {
		t.Errorf("%d apps have room when all have given it back", len(r.mu.apps))
	}
}

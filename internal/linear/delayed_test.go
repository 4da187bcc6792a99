package linear

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/client"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/spec/wire"
)

// delayed is an object that counts for triggers later.
type delayed struct {
	key     spec.Key
	session spec.SessionID
	after   time.Duration
	asked   time.Time
}

// TestDelayedObjectsAreDeliveredOnceOverRestarts: an object put to be delivered
// later drives its session once, not before its time, though the node is killed
// again and again; and the session does not end before. A bucket's objects have a
// time to live here: that they expire drives nothing.
func TestDelayedObjectsAreDeliveredOnceOverRestarts(t *testing.T) {
	node := start(t, 3)
	c := patient(t, node)
	ctx := bounded(t, 5*time.Minute)
	numbers := random(5000)
	stop := make(chan struct{})
	var all []*delayed
	var lives sync.WaitGroup
	for n := range 40 {
		d := &delayed{key: spec.Key(fmt.Sprintf("delayed-%02d", n)), after: time.Duration(numbers.IntN(2500)) * time.Millisecond}
		if n%3 == 0 {
			d.session = spec.SessionID(fmt.Sprintf("given-%d", n))
		}
		all = append(all, d)
		lives.Go(func() {
			if err := d.live(ctx, c); err != nil {
				t.Errorf("%s: %v", d.key, err)
			}
		})
	}
	go func() {
		defer close(stop)
		lives.Wait()
	}()
	t.Logf("%d kills", bounce(node, numbers, 500*time.Millisecond, fewKills, stop))
	for _, d := range all {
		d.check(ctx, t, c)
	}
	sessions := 0
	for _, err := range c.Sessions(ctx, app, client.SessionsOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		sessions++
	}
	if sessions != len(all) {
		t.Errorf("%d sessions for %d objects", sessions, len(all))
	}
}

// live puts the object and waits until its session has ended.
func (d *delayed) live(ctx context.Context, c *client.Client) error {
	d.asked = time.Now()
	o := client.PutOptions{DeliverAfter: d.after}
	if d.session != "" {
		if _, err := c.PutSession(ctx, app, d.session, driven, d.key, strings.NewReader(string(d.key)), o); err != nil {
			return err
		}
	} else {
		o.TTL = 1500 * time.Millisecond
		r, err := c.Put(ctx, app, driven, d.key, strings.NewReader(string(d.key)), o)
		if err != nil {
			return err
		}
		d.session = r.Session
	}
	for {
		r, err := c.Result(ctx, app, d.session, client.ResultOptions{Wait: 10 * time.Second})
		switch {
		case err != nil && spec.CodeOf(err) != spec.CodeTimeout:
			return fmt.Errorf("result of %s: %w", d.session, err)
		case err == nil && r.Status != wire.SessionRunning:
			if early := time.Until(d.asked.Add(d.after)); early > 0 {
				return fmt.Errorf("session %s ended %s before its object was due", d.session, early)
			}
			return nil
		}
	}
}

func (d *delayed) check(ctx context.Context, t *testing.T, c *client.Client) {
	t.Helper()
	r, err := c.Result(ctx, app, d.session, client.ResultOptions{})
	if err != nil || r.Status != wire.SessionCompleted || len(r.Outputs) != 1 || string(r.Outputs[0].Data) != string(d.key) {
		t.Errorf("%s: result of %s is %+v, %v", d.key, d.session, r, err)
	}
	h, err := c.History(ctx, app, d.session, client.HistoryOptions{})
	if err != nil || len(h.Invocations) != 1 {
		t.Errorf("%s: history of %s has %d invocations: %v", d.key, d.session, len(h.Invocations), err)
		return
	}
	if early := d.asked.Add(d.after).Sub(h.Invocations[0].QueuedAt); early > time.Millisecond { // times are rounded
		t.Errorf("%s was delivered %s before it was due", d.key, early)
	}
}

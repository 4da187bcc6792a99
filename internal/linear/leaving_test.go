package linear

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/client"
	"github.com/pheromone-run/pheromone/internal/nodetest"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/spec/wire"
)

// TestDeletionsAndExpiriesDriveOnceOverRestarts: an object that is deleted, or
// whose time to live is over, drives one session with its bytes, though the node
// is killed again and again and is away when the time comes. What is put over an
// object drives nothing, and what is put over one whose time is over drives what
// its expiry would.
func TestDeletionsAndExpiriesDriveOnceOverRestarts(t *testing.T) {
	node := start(t, 3)
	c := patient(t, node)
	ctx := bounded(t, 5*time.Minute)
	numbers := random(6000)
	stop := make(chan struct{})
	var lives sync.WaitGroup
	want := map[spec.Key]string{} // what its one session puts out
	for n := range 60 {
		key := spec.Key(fmt.Sprintf("leaving-%02d", n))
		value := fmt.Sprintf("%s;%s", key, strings.Repeat("x", (n%4)*40_000))
		ttl := time.Duration(100+numbers.IntN(3000)) * time.Millisecond
		want[key] = value
		lives.Go(func() {
			o := client.PutOptions{}
			if n%2 == 0 {
				o.TTL = ttl
			}
			if _, err := c.Put(ctx, app, leaving, key, strings.NewReader(value), o); err != nil {
				t.Errorf("put %s: %v", key, err)
				return
			}
			switch n % 4 {
			case 0: // it expires
			case 1, 3:
				r, err := c.Delete(ctx, app, leaving, key, client.DeleteOptions{})
				if err != nil || r.Session == "" {
					t.Errorf("delete %s: %+v, %v", key, r, err)
				}
			case 2: // put again as soon as it is gone, maybe before its timer
				for spec.CodeOf(putNew(t, c, key)) == spec.CodePrecondition {
					pauseShortly()
				}
			}
		})
	}
	go func() {
		defer close(stop)
		lives.Wait()
	}()
	kills := bounce(node, numbers, 500*time.Millisecond, fewKills, stop)
	got := map[spec.Key]int{}
	nodetest.Eventually(t, "each has its session", func() bool {
		clear(got)
		for s, err := range c.Sessions(ctx, app, client.SessionsOptions{}) {
			if err != nil {
				t.Fatal(err)
			}
			got[s.Origin.Key]++
		}
		return len(got) == len(want)
	})
	t.Logf("%d kills", kills)
	for s, err := range c.Sessions(ctx, app, client.SessionsOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		r, err := c.Result(ctx, app, s.Session, client.ResultOptions{Wait: time.Minute})
		if err != nil || s.Origin.Kind != "delete" || r.Status != wire.SessionCompleted || len(r.Outputs) != 1 || string(r.Outputs[0].Data) != want[s.Origin.Key] {
			t.Errorf("%s of %s, which is %s, has %d outputs: %v", s.Origin.Kind, s.Origin.Key, r.Status, len(r.Outputs), err)
		}
	}
	for key, times := range got {
		if times != 1 {
			t.Errorf("%s has %d sessions", key, times)
		}
	}
}

// putNew puts what stays, if there is nothing under the key.
func putNew(t *testing.T, c *client.Client, key spec.Key) error {
	_, err := c.Put(t.Context(), app, leaving, key, strings.NewReader("stays"), client.PutOptions{IfAbsent: true})
	return err
}

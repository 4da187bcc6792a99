package linear

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/client"
	"github.com/pheromone-run/pheromone/spec"
)

// fates are what becomes of objects with a time to live, and what a watch may show
// of it. What is done to an object may come after its time was over, if the node
// was away.
var fates = []struct {
	name  string
	shows []string
}{
	{"expires", []string{"put expire"}},
	{"kept", []string{"put put", "put expire put"}},
	{"extended", []string{"put put expire", "put expire put expire"}},
	{"deleted", []string{"put delete", "put expire"}},
}

// mortal is an object with a time to live.
type mortal struct {
	key  spec.Key
	fate int
	ttl  time.Duration
}

// TestObjectsExpireOnceAndForAll: an object is there until its time is over and
// never after it, also if the node was killed meanwhile or was away when the time
// came; watches show that once; and what was put over it stays.
func TestObjectsExpireOnceAndForAll(t *testing.T) {
	node := start(t, 3)
	c := patient(t, node)
	from := positionNow(t, c, objects)
	numbers := random(4000)
	var all []*mortal
	var lives sync.WaitGroup
	for n := range 80 {
		m := &mortal{spec.Key(fmt.Sprintf("mortal-%02d", n)), n % len(fates), time.Duration(200+numbers.IntN(2000)) * time.Millisecond}
		all = append(all, m)
		lives.Go(func() {
			if err := m.live(bounded(t, time.Minute), c); err != nil {
				t.Errorf("%s, which is %s: %v", m.key, fates[m.fate].name, err)
			}
		})
	}
	for range 3 {
		<-time.After(time.Duration(300+numbers.IntN(300)) * time.Millisecond) // a moment, not a wait for something
		node.Kill()
		<-time.After(100 * time.Millisecond) // some expire while the node is away
		node.Restart()
	}
	lives.Wait()
	checkLeft(t, c, all)
	checkFates(t, c, from, all)
}

// live puts the object, does to it what its fate asks for, and reads it until it
// is gone.
func (m *mortal) live(ctx context.Context, c *client.Client) error {
	asked := time.Now()
	if _, err := c.Put(ctx, app, objects, m.key, strings.NewReader("mortal"), client.PutOptions{TTL: m.ttl}); err != nil {
		return err
	}
	switch fates[m.fate].name {
	case "kept":
		_, err := c.Put(ctx, app, objects, m.key, strings.NewReader("kept"), client.PutOptions{})
		return err
	case "deleted":
		if _, err := c.Delete(ctx, app, objects, m.key, client.DeleteOptions{}); spec.CodeOf(err) != spec.CodeNotFound {
			return err
		}
		return nil
	case "extended":
		m.ttl *= 2
		asked = time.Now()
		if _, err := c.Put(ctx, app, objects, m.key, strings.NewReader("extended"), client.PutOptions{TTL: m.ttl}); err != nil {
			return err
		}
	}
	return m.readUntilGone(ctx, c, asked, time.Now())
}

// readUntilGone reads an object that was put between asked and told.
func (m *mortal) readUntilGone(ctx context.Context, c *client.Client, asked, told time.Time) error {
	for {
		before := time.Now()
		_, err := c.Get(ctx, app, objects, m.key, client.GetOptions{})
		after := time.Now()
		switch {
		case err == nil && before.After(told.Add(m.ttl)):
			return fmt.Errorf("it is there %s after its time was over", before.Sub(told.Add(m.ttl)))
		case err == nil:
			pauseShortly()
		case spec.CodeOf(err) != spec.CodeNotFound:
			return err
		case after.Before(asked.Add(m.ttl - time.Millisecond)): // times are rounded
			return fmt.Errorf("it is gone %s before its time was over", asked.Add(m.ttl).Sub(after))
		default:
			return nil
		}
	}
}

// checkLeft looks at what is left when the time of all objects is over.
func checkLeft(t *testing.T, c *client.Client, all []*mortal) {
	t.Helper()
	listed := map[spec.Key]bool{}
	for o, err := range c.List(t.Context(), app, objects, client.ListOptions{Prefix: "mortal-"}) {
		if err != nil {
			t.Fatal(err)
		}
		listed[o.Key] = true
	}
	for _, m := range all {
		o, err := c.Get(t.Context(), app, objects, m.key, client.GetOptions{})
		stays := fates[m.fate].name == "kept"
		if stays && (err != nil || string(o.Data) != "kept") {
			t.Errorf("%s was put again to stay: %q, %v", m.key, o.Data, err)
		}
		if !stays && spec.CodeOf(err) != spec.CodeNotFound {
			t.Errorf("%s, which is %s, is there: %v", m.key, fates[m.fate].name, err)
		}
		if listed[m.key] != stays {
			t.Errorf("%s, which is %s: listed is %v", m.key, fates[m.fate].name, listed[m.key])
		}
	}
}

// checkFates waits until a watch has shown the end of each object, and then that it
// shows no more of them.
func checkFates(t *testing.T, c *client.Client, from string, all []*mortal) {
	t.Helper()
	shown := map[spec.Key]string{}
	ctx := bounded(t, 5*time.Minute)
	watch := func(until func() bool) {
		t.Helper()
		for e, err := range c.Watch(ctx, app, objects, client.WatchOptions{From: from}) {
			if err != nil {
				t.Fatal(err)
			}
			from = e.Position
			shown[e.Object.Key] = strings.TrimSpace(shown[e.Object.Key] + " " + e.Type)
			if until() {
				return
			}
		}
	}
	fits := func(m *mortal) bool { return slices.Contains(fates[m.fate].shows, shown[m.key]) }
	watch(func() bool { return !slices.ContainsFunc(all, func(m *mortal) bool { return !fits(m) }) })
	const last = 24 // keys, so that each shard has some
	for n := range last {
		put(ctx, t, c, objects, spec.Key(fmt.Sprintf("last-%d", n)), "", client.PutOptions{})
	}
	watch(func() bool {
		n := 0
		for key := range shown {
			if strings.HasPrefix(string(key), "last-") {
				n++
			}
		}
		return n == last
	})
	for _, m := range all {
		if !fits(m) {
			t.Errorf("%s, which is %s, shows %q, want one of %q", m.key, fates[m.fate].name, shown[m.key], fates[m.fate].shows)
		}
	}
}

// TestAKeyWhoseObjectHasExpiredIsNew: what a get doesn't find any more, a put that
// wants the key to be new finds no more either, also while very many objects expire
// at once.
func TestAKeyWhoseObjectHasExpiredIsNew(t *testing.T) {
	node := start(t, 1)
	c := patient(t, node)
	ctx := bounded(t, time.Minute)
	due := time.Now().Add(2 * time.Second)
	const writers, each = 16, 100
	var putting sync.WaitGroup
	for w := range writers {
		putting.Go(func() {
			for n := range each {
				key := spec.Key(fmt.Sprintf("mass-%d-%d", w, n))
				o := client.PutOptions{TTL: max(time.Millisecond, time.Until(due))}
				if _, err := c.Put(ctx, app, objects, key, strings.NewReader(""), o); err != nil {
					t.Error(err)
				}
			}
			for n := range each {
				key := spec.Key(fmt.Sprintf("mass-%d-%d", w, n))
				for {
					_, err := c.Get(ctx, app, objects, key, client.GetOptions{})
					if spec.CodeOf(err) == spec.CodeNotFound {
						break
					}
					if err != nil {
						t.Error(err)
						return
					}
				}
				if _, err := c.Put(ctx, app, objects, key, strings.NewReader("new"), client.PutOptions{IfAbsent: true}); err != nil {
					t.Errorf("%s is not found, and can't be put as new: %v", key, err)
				}
			}
		})
	}
	putting.Wait()
}

package leader_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/pheromone-run/pheromone/leader"
	"github.com/pheromone-run/pheromone/spec"
)

// post keeps the messages of a world, and delivers none.
type post struct {
	*world
	mu   sync.Mutex
	kept map[spec.Key]leader.Mail // the last one of each object
}

func (p *post) Deliver(_ context.Context, _ spec.ShardID, m leader.Mail) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	m.Object.Inline = bytes.Clone(m.Object.Inline)
	p.kept[m.Object.Key] = m
	return errors.New("it is kept")
}

func (p *post) last(key string) (leader.Mail, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	m, ok := p.kept[spec.Key(key)]
	return m, ok
}

// newPost is a world of four shards with a trigger of scope bucket, and keys that
// live on other shards than the trigger.
func newPost(t *testing.T, fire function) (p *post, home *leader.Leader, away []string) {
	w := &world{t: t, dir: t.TempDir(), shards: 4, apps: &deployed{}, run: newRunner(map[string]function{"fire": fire})}
	p = &post{world: w, kept: map[spec.Key]leader.Mail{}}
	w.network = p
	w.apps.apply(t, twoAtATime)
	w.start()
	t.Cleanup(w.close)
	t.Cleanup(w.run.stop)
	at := w.ShardOf(spec.BucketSlot("demo", "in"))
	for i := 0; len(away) < 3; i++ {
		if key := fmt.Sprint("k", i); w.ShardOf(spec.KeySlot("demo", "in", spec.Key(key))) != at {
			away = append(away, key)
		}
	}
	return p, w.leaders[at], away
}

var twoAtATime = oneTrigger("{name: x, primitive: by_batch_size, count: 2, max_wait: 720h, target: fire}")

// replaced deletes the app and deploys it again, as leaders see it who are told.
func (p *post) replaced() {
	p.t.Helper()
	p.apps.delete()
	p.apps.apply(p.t, twoAtATime)
}

// sent puts an object and returns the message that follows.
func (p *post) sent(key string) (m leader.Mail) {
	p.t.Helper()
	p.put("in", key, "x")
	eventually(p.t, key+" is sent", func() (ok bool) { m, ok = p.last(key); return ok })
	return m
}

func TestAMessageOfAnAppThatWasReplacedIsNotCounted(t *testing.T) {
	var got collector
	p, home, away := newPost(t, got.take)
	late := p.sent(away[0])
	p.replaced()
	p.tellOfApps()
	if err := home.TakeMail(t.Context(), late, nil); err != nil {
		t.Errorf("a message of the app that is gone: %v", err)
	}
	for _, key := range away[1:] {
		if err := home.TakeMail(t.Context(), p.sent(key), nil); err != nil {
			t.Errorf("a message of the new one: %v", err)
		}
	}
	eventually(t, "the batch fires", func() bool { return len(got.sorted()) == 1 })
	wantLines(t, got.sorted(), strings.Join(away[1:], "+"))
}

func TestAMessageOfAnAppThatIsNotTakenOverYetWaits(t *testing.T) {
	var got collector
	p, home, away := newPost(t, got.take)
	p.replaced()
	for _, l := range p.leaders {
		if l != home {
			if err := l.AppsChanged(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	early := p.sent(away[0])
	wantCode(t, home.TakeMail(t.Context(), early, nil), spec.CodeUnavailable, "takes it over")
	p.tellOfApps()
	for _, m := range []leader.Mail{early, p.sent(away[1])} {
		if err := home.TakeMail(t.Context(), m, nil); err != nil {
			t.Error(err)
		}
	}
	eventually(t, "the batch fires", func() bool { return len(got.sorted()) == 1 })
	wantLines(t, got.sorted(), strings.Join(away[:2], "+"))
}

package chaos

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pheromone-run/pheromone/client"
	"github.com/pheromone-run/pheromone/internal/nodetest"
	"github.com/pheromone-run/pheromone/spec"
)

// probe puts objects on every shard through every node, all the time: it tells for
// how long a shard took no write, and keeps a ledger of what was acknowledged.
type probe struct {
	urls   []string
	app    spec.AppName
	shards map[spec.ShardID]func(spec.Slot) bool // whether a shard owns a slot
	pause  time.Duration                         // between two puts of one shard through one node

	mu     sync.Mutex
	taken  map[spec.ShardID][]time.Time // when puts were acknowledged, in order
	ledger []entry
	asked  int
}

// entry is an object whose put was acknowledged.
type entry struct {
	key      spec.Key
	size     int
	asked    time.Time // when the put was sent
	revision spec.Revision
}

const ledgerBucket = "ledger"

// bytesOf makes the bytes of an object of the ledger, which only it has.
func (e entry) bytes() []byte {
	return bytes.Repeat([]byte(string(e.key)+";"), e.size/(len(e.key)+1)+1)
}

const (
	smallObject = 100
	// largeObject goes another way than the raft log.
	largeObject = 300 << 10
	// largeEach is how many puts there are to one of a large object.
	largeEach = 40
)

// run probes until stop is closed.
func (p *probe) run(stop <-chan struct{}) {
	p.taken = map[spec.ShardID][]time.Time{}
	var running sync.WaitGroup
	for shard, owns := range p.shards {
		for node, url := range p.urls {
			running.Go(func() { p.probeOne(shard, node, url, owns, stop) })
		}
	}
	running.Wait()
}

func (p *probe) probeOne(shard spec.ShardID, node int, url string, owns func(spec.Slot) bool, stop <-chan struct{}) {
	c, err := client.New(url, client.WithoutDiscovery(), client.WithRetry(client.Retry{MaxAttempts: 1}))
	if err != nil {
		return
	}
	defer c.Close()
	every := time.NewTicker(p.pause)
	defer every.Stop()
	for n := 0; ; n++ {
		select {
		case <-stop:
			return
		case <-every.C:
		}
		e := entry{size: smallObject, asked: time.Now()}
		for !owns(spec.KeySlot(p.app, ledgerBucket, e.key)) || e.key == "" {
			e.key = spec.Key(fmt.Sprintf("s%d-n%d-%d-%d", shard, node, n, rand.Uint32()))
		}
		if n%largeEach == largeEach-1 {
			e.size = largeObject
		}
		ctx, cancel := context.WithTimeout(context.Background(), nodetest.TryWait)
		put, err := c.Put(ctx, p.app, ledgerBucket, e.key, bytes.NewReader(e.bytes()), client.PutOptions{})
		cancel()
		e.revision = put.Revision
		p.note(shard, e, err)
	}
}

func (p *probe) note(shard spec.ShardID, e entry, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked++
	if err == nil {
		p.taken[shard] = append(p.taken[shard], time.Now())
		p.ledger = append(p.ledger, e)
	}
}

// longestGap returns the longest time within an interval in which a shard took no
// write: the gap between two writes of which it has a part, the interval's ends
// standing for writes.
func longestGap(taken []time.Time, from, to time.Time) time.Duration {
	first, _ := slices.BinarySearchFunc(taken, from, time.Time.Compare)
	last, gap := from, time.Duration(0)
	for _, at := range taken[first:] {
		if at.After(to) {
			break
		}
		gap, last = max(gap, at.Sub(last)), at
	}
	return max(gap, to.Sub(last))
}

// gap returns the longest time in which some shard took no write.
func (p *probe) gap(from, to time.Time) (longest time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for shard := range p.shards {
		longest = max(longest, longestGap(p.taken[shard], from, to))
	}
	return longest
}

// recovery returns how long after a moment the last of the shards had taken a write.
// It is not ok as long as one has not.
func (p *probe) recovery(after time.Time) (took time.Duration, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for shard := range p.shards {
		taken := p.taken[shard]
		i, _ := slices.BinarySearchFunc(taken, after, time.Time.Compare)
		if i == len(taken) {
			return time.Since(after), false
		}
		took = max(took, taken[i].Sub(after))
	}
	return took, true
}

// readers is how many objects of the ledger are read at a time.
const readers = 8

// verify reads the ledger, each object through another node than the one before.
func (p *probe) verify(ctx context.Context) (faults []error) {
	if len(p.ledger) == 0 {
		return []error{fmt.Errorf("none of %d puts to the ledger was acknowledged", p.asked)}
	}
	var mu sync.Mutex
	var reading sync.WaitGroup
	for n := range readers {
		reading.Go(func() {
			s, err := nodetest.Dial(p.urls, n)
			if err != nil {
				return
			}
			defer s.Close()
			for i := n; i < len(p.ledger); i += readers {
				s.Next()
				if err := p.read(ctx, s, p.ledger[i]); err != nil {
					mu.Lock()
					faults = append(faults, err)
					mu.Unlock()
				}
			}
		})
	}
	reading.Wait()
	return faults
}

func (p *probe) read(ctx context.Context, s *nodetest.Servers, e entry) error {
	return s.Until(ctx, func(ctx context.Context, c *client.Client) error {
		o, err := c.Get(ctx, p.app, ledgerBucket, e.key, client.GetOptions{})
		if spec.CodeOf(err) == spec.CodeNotFound {
			return fmt.Errorf("an acknowledged object is not there: %v at %s; %s", e, c.URL(), p.whoHas(ctx, s, e))
		}
		if err != nil {
			return err
		}
		return e.check(o.Data, c.URL())
	})
}

func (e entry) String() string {
	return fmt.Sprintf("%s, put at %s with revision %d", e.key, e.asked.Format("15:04:05.000"), e.revision)
}

// whoHas tells which nodes have an object that one of them lacks.
func (p *probe) whoHas(ctx context.Context, s *nodetest.Servers, e entry) string {
	var all []string
	for _, c := range s.All() {
		_, err := c.Get(ctx, p.app, ledgerBucket, e.key, client.GetOptions{})
		all = append(all, fmt.Sprintf("%s: %v", c.URL(), err))
	}
	return "asked again: " + strings.Join(all, "; ")
}

func (e entry) check(data []byte, where string) error {
	if !bytes.Equal(data, e.bytes()) {
		return fmt.Errorf("an acknowledged object has other bytes: %v at %s: %d bytes, %q…", e, where, len(data), clip(string(data)))
	}
	return nil
}

func clip(text string) string { return strings.ToValidUTF8(text[:min(len(text), 40)], "?") }

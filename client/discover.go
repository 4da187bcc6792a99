package client

import (
	"context"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pheromone-run/pheromone/spec"
)

const (
	learnAgain   = 2 * time.Second  // while a shard has no leader
	learnEvery   = 30 * time.Second // from a node of a cluster
	learnAlone   = 5 * time.Minute  // from one that is in none
	learnSoonest = time.Second      // after a failure
	learnTime    = 5 * time.Second  // that one look may take
	probeTime    = 2 * time.Second
	learnBytes   = 4 << 20
	learnNodes   = 64 // of a cluster, that the client cares for
)

// discovery learns of the nodes behind the servers that were named, beside the
// requests: by the first one that is answered, then once in a while, and soon
// after a failure.
type discovery struct {
	client *Client
	off    bool // the servers that were named are all

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	tasks  sync.WaitGroup
	mu     struct {
		sync.Mutex
		busy, closed bool
		last         time.Time // when it looked
		next         time.Time // when it looks again, if nothing fails
	}
}

// clusterView is what GET /v1/cluster tells that a client needs.
type clusterView struct {
	ID    string `json:"id"` // empty: the node is in no cluster
	Node  string `json:"node"`
	Nodes []struct {
		Name string `json:"name"`
		API  string `json:"api"`
		Live bool   `json:"live"`
	} `json:"nodes"`
	Shards []struct {
		Leader string `json:"leader"`
		Ranges []struct {
			From spec.Slot `json:"from"`
			To   spec.Slot `json:"to"`
		} `json:"ranges"`
	} `json:"shards"`
}

// due looks in the background if it is time for that.
func (d *discovery) due(failed bool) {
	if d.off {
		return
	}
	now := time.Now()
	d.mu.Lock()
	defer d.mu.Unlock()
	if soon := d.mu.last.Add(learnSoonest); failed && soon.Before(d.mu.next) {
		d.mu.next = soon // what was seen before the failure counts no more
	}
	if now.Before(d.mu.next) || d.mu.busy || d.mu.closed {
		return
	}
	looked := now.Add(learnEvery)
	d.mu.busy, d.mu.last, d.mu.next = true, now, looked
	d.tasks.Go(func() {
		ctx, cancel := context.WithTimeout(d.ctx, learnTime)
		defer cancel()
		again := d.look(ctx)
		d.mu.Lock()
		defer d.mu.Unlock()
		d.mu.busy = false
		if d.mu.next.Equal(looked) { // nothing has failed meanwhile
			d.mu.next = time.Now().Add(again)
		}
	})
}

func (d *discovery) close() {
	d.mu.Lock()
	d.mu.closed = true
	d.mu.Unlock()
	d.cancel()
	d.tasks.Wait()
}

// look asks one node for its cluster, and returns when to look again.
func (d *discovery) look(ctx context.Context) time.Duration {
	s := &d.client.servers
	for _, asked := range s.inOrder() {
		view, ok := d.ask(ctx, asked)
		switch {
		case !ok:
			continue
		case view.ID == "":
			return learnAlone
		}
		leaders := leadersOf(view)
		s.learned(d.names(ctx, asked, view), leaders)
		if len(leaders) < spec.Slots {
			return learnAgain
		}
		return learnEvery
	}
	return learnEvery
}

// names finds out which node is behind each URL: what a node says of another one
// counts once that has said the same. So an address that is another machine's
// from here, as a loopback one, gets no request.
func (d *discovery) names(ctx context.Context, asked string, view clusterView) map[string]string {
	found := map[string]string{asked: view.Node}
	wanted := map[string]string{} // the name that is expected; "": any
	for _, u := range d.client.servers.urls() {
		wanted[u] = ""
	}
	for _, n := range view.Nodes[:min(len(view.Nodes), learnNodes)] {
		if u, err := parseServer(n.API); err == nil && n.Live && n.Name != "" && d.acceptable(u) {
			wanted[u] = n.Name
		}
	}
	delete(wanted, asked)
	var mu sync.Mutex
	var probes sync.WaitGroup
	for u, name := range wanted {
		if known, ok := d.client.servers.knowing(u); ok && (name == "" || name == known) {
			mu.Lock()
			found[u] = known
			mu.Unlock()
			continue
		}
		probes.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, probeTime)
			defer cancel()
			its, ok := d.ask(ctx, u)
			if ok && its.ID == view.ID && its.Node != "" && (name == "" || its.Node == name) {
				mu.Lock()
				found[u] = its.Node
				mu.Unlock()
			}
		})
	}
	probes.Wait()
	return found
}

// acceptable refuses to go on in the clear where the program asked for TLS.
func (d *discovery) acceptable(u string) bool {
	return strings.HasPrefix(u, "https://") || !strings.HasPrefix(d.client.URL(), "https://")
}

func (d *discovery) ask(ctx context.Context, base string) (clusterView, bool) {
	var view clusterView
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/v1/cluster", nil)
	if err != nil {
		return view, false
	}
	req.Header.Set("User-Agent", d.client.userAgent)
	resp, err := d.client.http.Do(req)
	if err != nil {
		return view, false
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, learnBytes))
	if err != nil || resp.StatusCode != http.StatusOK || json.Unmarshal(data, &view) != nil {
		return clusterView{}, false
	}
	return view, true
}

func leadersOf(view clusterView) map[spec.Slot]string {
	leaders := map[spec.Slot]string{}
	for _, shard := range view.Shards {
		if shard.Leader == "" {
			continue
		}
		for _, r := range shard.Ranges {
			for slot := int(r.From); slot <= int(r.To) && slot < spec.Slots; slot++ {
				leaders[spec.Slot(slot)] = shard.Leader
			}
		}
	}
	return leaders
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

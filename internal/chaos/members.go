package chaos

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/pheromone-run/pheromone/internal/nodetest"
)

// memberWait bounds how long replicas take to move.
const memberWait = 3 * time.Minute

// changeMembers has a node join, moves all replicas of another one away, back
// again, and has the new one leave: under load, and without a word about it.
func (w *world) changeMembers(s Step) {
	subject := w.cluster.Nodes()[s.Node]
	added := w.cluster.Add()
	w.ask(http.MethodPost, subject.Name(), "/drain")
	w.await(fmt.Sprintf("the replicas of %s move to others", subject.Name()), func(held map[string]int) bool {
		return held[subject.Name()] == 0 && held[added.Name()] > 0
	})
	w.ask(http.MethodPost, subject.Name(), "/undrain")
	w.ask(http.MethodPost, added.Name(), "/drain")
	w.await(fmt.Sprintf("the replicas of %s move to others", added.Name()), func(held map[string]int) bool {
		return held[added.Name()] == 0
	})
	w.ask(http.MethodDelete, added.Name(), "")
	added.Stop()
	w.cluster.Forget(added)
}

// ask asks any node for a change of a member.
func (w *world) ask(method, node, what string) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), memberWait)
	defer cancel()
	for n := 0; ; n++ {
		status, err := w.askOne(ctx, method, w.cluster.Nodes()[n%len(w.cluster.Nodes())], node, what)
		if err == nil && status/100 == 2 {
			return
		}
		select {
		case <-time.After(100 * time.Millisecond): // ask another
		case <-ctx.Done():
			w.t.Fatalf("%s %s%s: %d, %v", method, node, what, status, err)
		}
	}
}

func (w *world) askOne(ctx context.Context, method string, by *nodetest.Node, node, what string) (int, error) {
	req, err := http.NewRequestWithContext(ctx, method, by.URL()+"/v1/cluster/nodes/"+node+what, nil)
	if err != nil {
		return 0, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	return resp.StatusCode, resp.Body.Close()
}

// await waits until the nodes hold as many replicas as right wants.
func (w *world) await(what string, right func(held map[string]int) bool) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), memberWait)
	defer cancel()
	var held map[string]int
	for {
		var cluster struct {
			Nodes []struct {
				Name     string `json:"name"`
				Replicas int    `json:"replicas"`
			} `json:"nodes"`
		}
		if status, err := getJSON(ctx, w.cluster.Nodes()[0].URL()+"/v1/cluster", &cluster); err == nil && status == http.StatusOK {
			held = map[string]int{}
			for _, n := range cluster.Nodes {
				held[n.Name] = n.Replicas
			}
			if right(held) {
				return
			}
		}
		select {
		case <-time.After(100 * time.Millisecond): // look again
		case <-ctx.Done():
			w.t.Fatalf("never came true: %s: the nodes hold %v", what, held)
		}
	}
}

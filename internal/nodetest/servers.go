package nodetest

import (
	"context"
	"time"

	"github.com/pheromone-run/pheromone/client"
	"github.com/pheromone-run/pheromone/spec"
)

// Servers is one client's way to several nodes: it stays with one while that
// answers. Each request is sent once, so that what is tested is the nodes and not
// the patience of package client. It is not safe for concurrent use.
type Servers struct {
	all []*client.Client
	at  int
}

const (
	// TryWait bounds what one node is given to answer.
	TryWait = 3 * time.Second
	// tryPause keeps a client from asking nodes that are away all the time.
	tryPause = 5 * time.Millisecond
)

// Dial makes the way to the nodes at urls, one of them first.
func Dial(urls []string, first int) (*Servers, error) {
	s := &Servers{at: first % len(urls)}
	for _, url := range urls {
		c, err := client.New(url, client.WithoutDiscovery(), client.WithRetry(client.Retry{MaxAttempts: 1}))
		if err != nil {
			s.Close()
			return nil, err
		}
		s.all = append(s.all, c)
	}
	return s, nil
}

// Close lets go of the connections.
func (s *Servers) Close() {
	for _, c := range s.all {
		c.Close()
	}
}

// All are the clients of the single nodes.
func (s *Servers) All() []*client.Client { return s.all }

// Next goes on to the next node.
func (s *Servers) Next() *client.Client {
	s.at = (s.at + 1) % len(s.all)
	return s.all[s.at]
}

// Until asks one node after the other until one has answered, or ctx ends.
func (s *Servers) Until(ctx context.Context, ask func(context.Context, *client.Client) error) error {
	return s.UntilFor(ctx, TryWait, ask)
}

// UntilFor is Until for what takes longer: each node is given wait.
func (s *Servers) UntilFor(ctx context.Context, wait time.Duration, ask func(context.Context, *client.Client) error) error {
	for {
		try, cancel := context.WithTimeout(ctx, wait)
		err := ask(try, s.all[s.at])
		cancel()
		if err == nil || !NoAnswer(spec.CodeOf(err)) || ctx.Err() != nil {
			return err
		}
		s.Next()
		select {
		case <-time.After(tryPause):
		case <-ctx.Done():
			return err
		}
	}
}

// NoAnswer tells whether an error leaves open what became of a request, or says
// that the node could not take it just now.
func NoAnswer(code spec.Code) bool {
	return code == spec.CodeUnavailable || code == spec.CodeTimeout || code == spec.CodeOverloaded
}

package linear

import (
	"context"
	"time"

	"github.com/pheromone-run/pheromone/client"
	"github.com/pheromone-run/pheromone/spec"
)

// servers is one client's way to the nodes: it stays with one while that answers.
// The clients of package client are asked to try only once, so that what is tested
// is the nodes and not the client's patience.
type servers struct {
	all []*client.Client
	at  int
}

// tryWait bounds what one node is given to answer while there are others.
const tryWait = 3 * time.Second

func dial(urls []string, first int) (*servers, error) {
	s := &servers{at: first % len(urls)}
	for _, url := range urls {
		c, err := client.New(url, client.WithRetry(client.Retry{MaxAttempts: 1}))
		if err != nil {
			s.Close()
			return nil, err
		}
		s.all = append(s.all, c)
	}
	return s, nil
}

func (s *servers) Close() {
	for _, c := range s.all {
		c.Close()
	}
}

// next goes on to the next node.
func (s *servers) next() *client.Client {
	s.at = (s.at + 1) % len(s.all)
	return s.all[s.at]
}

// until asks until there is an answer, or ctx ends.
func (s *servers) until(ctx context.Context, ask func(context.Context, *client.Client) error) error {
	for {
		try, cancel := context.WithTimeout(ctx, tryWait)
		err := ask(try, s.all[s.at])
		cancel()
		if err == nil || !noAnswer(spec.CodeOf(err)) || ctx.Err() != nil {
			return err
		}
		s.next()
		pauseShortly()
	}
}

// noAnswer tells whether an error leaves open what became of a request, or says
// that the node could not take it just now.
func noAnswer(code spec.Code) bool {
	return code == spec.CodeUnavailable || code == spec.CodeTimeout || code == spec.CodeOverloaded
}

package node

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/pheromone-run/pheromone/leader"
	"github.com/pheromone-run/pheromone/raft/shard"
	"github.com/pheromone-run/pheromone/spec"
)

// Half of a shard is no answer: what was not found there may be on every replica that
// is left.
func TestAReplicaThatIsDroppedUnderAReaderHasNotAnswered(t *testing.T) {
	notFound := spec.Errorf(spec.CodeNotFound, "there is no such object")
	for _, c := range []struct {
		what            string
		anywhere, reads bool
		err             error
		counts          bool
	}{
		{"a read of any replica that found nothing", true, false, notFound, false},
		{"a read of any replica", true, false, nil, false},
		{"a read of the leader that found nothing", false, true, notFound, false},
		{"a command that found nothing", false, false, notFound, false},
		{"a command that was carried out", false, false, nil, true},
		{"a command whose outcome is not known", false, false, spec.Errorf(spec.CodeUnavailable, "the term is over"), true},
	} {
		for _, dropped := range []bool{true, false} {
			n := &Node{cfg: Config{Name: "n1"}}
			n.locals.all.Store(&map[spec.ShardID]*local{})
			l := &local{id: 1, replica: &shard.Shard{}}
			n.replaceLocal(1, l)
			closed := false
			q := question[nothing, string]{
				anywhere: c.anywhere, reads: c.reads,
				on: func(context.Context, *leader.Leader, nothing, io.Reader) (string, io.ReadCloser, error) {
					if dropped {
						n.replaceLocal(1, nil)
					} else {
						joined := *l
						n.replaceLocal(1, &joined)
					}
					return "answer", closing{strings.NewReader("body"), &closed}, c.err
				},
			}
			got, body, err := ask(t.Context(), n, &q, 1, nothing{}, nil)
			want := c.counts || !dropped
			if counts := got == "answer" && body != nil && errors.Is(err, c.err); counts != want {
				t.Errorf("%s, dropped: %v: %q, %v", c.what, dropped, got, err)
			}
			if !want && (!errors.Is(err, leader.ErrNotTaken) || !closed || body != nil) {
				t.Errorf("%s: %v, its body is closed: %v", c.what, err, closed)
			}
		}
	}
}

type closing struct {
	io.Reader
	closed *bool
}

func (c closing) Close() error {
	*c.closed = true
	return nil
}

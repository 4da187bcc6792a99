package peer_test

import (
	"context"
	"strings"
	"testing"

	"github.com/pheromone-run/pheromone/node/peer"
	"github.com/pheromone-run/pheromone/spec"
)

func TestARequestThatIsAnsweredBeforeItsEndHarmsNoOther(t *testing.T) {
	a, b := listen(t, "a"), listen(t, "b")
	service(t, b, func(context.Context, *peer.Call) (peer.Answer, error) {
		return peer.Answer{}, spec.Errorf(spec.CodeConflict, "not wanted")
	})
	caller := peer.NewCaller(a)
	for i := range 200 {
		body := strings.NewReader(strings.Repeat("x", i*i*20))
		if _, err := caller.Call(timeout(t), b.Address(), "m", nil, body, nil); spec.CodeOf(err) != spec.CodeConflict {
			t.Fatalf("request %d: %v", i, err)
		}
	}
}

package leader_test

import (
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/pheromone-run/pheromone/leader"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/spec/wire"
)

func TestAFiringThatIsTooLargeFailsInsteadOfStoppingTheShard(t *testing.T) {
	const objects = 600 // with keys of 900 bytes: more than is allowed below
	w := newWorld(t, 1, oneTrigger(fmt.Sprintf("{name: x, primitive: by_batch_size, scope: session, count: %d, target: fire}", objects)), map[string]function{
		"fire": fired,
		"seed": func(c *call) error {
			if string(c.in[0].Key) == "small" {
				return nil
			}
			for i := range objects {
				c.put("in", fmt.Sprintf("%0900d", i), "")
			}
			return nil
		},
	})
	w.firing = 512 << 10
	w.restart()
	e := w.failed(w.put("seeds", "large", ""))
	if e.Kind != "refused" || e.Function != "fire" || !strings.Contains(e.Message, fmt.Sprint(objects)) {
		t.Errorf("failed with %+v", e)
	}
	if res := w.result(w.put("seeds", "small", "")); res.Status != wire.SessionCompleted {
		t.Errorf("the next session ended as %s", res.Status)
	}
}

func TestAnUploadThatOutlivesItsAppIsRefused(t *testing.T) {
	w := newWorld(t, 1, plainBuckets, echo)
	first, rest := noise(200<<10, 1), noise(200<<10, 2)
	body, send := io.Pipe()
	answer := make(chan error, 1)
	go func() {
		_, err := w.tryPut(leader.Put{Bucket: "in", Key: "k", Body: body})
		answer <- err
	}()
	for range 6 { // more than a chunk of the store
		if _, err := io.WriteString(send, first); err != nil {
			t.Fatal(err)
		}
	}
	w.apps.delete()
	w.tellOfApps()
	w.deploy(plainBuckets)
	if _, err := io.WriteString(send, rest); err != nil {
		t.Fatal(err)
	}
	_ = send.Close()
	wantCode(t, <-answer, spec.CodeConflict, "deleted")
}

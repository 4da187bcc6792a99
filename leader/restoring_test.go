package leader_test

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/pheromone-run/pheromone/leader"
	"github.com/pheromone-run/pheromone/spec"
)

// A replica that was away for long gets the shard part by part. Until it has all,
// it must not tell how far the changes go that it has.
func TestAReplicaThatIsHalfRestoredTellsNothing(t *testing.T) {
	w := newWorld(t, 1, plainBuckets, nil)
	var keys []string
	for i := range 100 {
		keys = append(keys, fmt.Sprintf("k%02d", i))
	}
	w.putAll("notes", keys, func(key string) string { return noise(leader.InlineBytes-1, uint64(key[1])<<8|uint64(key[2])) })
	seen := w.newest() - 10
	var whole bytes.Buffer
	snap := w.db.Snapshot()
	if err := snap.WriteSnapshot(&whole, 1); err != nil {
		t.Fatal(err)
	}
	if err := snap.Close(); err != nil {
		t.Fatal(err)
	}
	restore := func(n int) error {
		_, err := w.db.ReadSnapshot(bytes.NewReader(whole.Bytes()[:n]), 1)
		return err
	}
	if restore(whole.Len()/3) == nil {
		t.Fatal("a third of a snapshot was taken for all of it")
	}
	events, next, err := w.leaders[1].Changes("demo", "notes", "", seen, 100)
	if spec.CodeOf(err) != spec.CodeUnavailable {
		t.Errorf("changes after %d: %d of them, go on from %d, %v", seen, len(events), next, err)
	}
	if _, err := w.leaders[1].GetKV(t.Context(), "demo", "notes", "k99", true); spec.CodeOf(err) != spec.CodeUnavailable {
		t.Errorf("a stale read: %v", err)
	}
	if err := restore(whole.Len()); err != nil {
		t.Fatal(err)
	}
	if got, err := w.followed(seen); err != nil || len(got) != 10 {
		t.Errorf("followed %q, %v", got, err)
	}
}

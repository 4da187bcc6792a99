package blobs_test

import (
	"context"
	"testing"

	"github.com/pheromone-run/pheromone/node/blobs"
)

// missed has n1 put an object that n3 has the entry of, and not the bytes.
func missed(t *testing.T) (n1, n3 *node) {
	t.Helper()
	c := newCluster(t, "n1", "n2", "n3")
	c.cut("n3")
	n1, n3 = c.nodes["n1"], c.nodes["n3"]
	blob := n1.stage(noise(1, mib))
	if err := n1.spread(blob); err != nil {
		t.Fatal(err)
	}
	n1.adopt(blob, 1)
	n3.adopt(blob, 1)
	return n1, n3
}

func TestAReplicaTellsThatItLacksBytes(t *testing.T) {
	n1, n3 := missed(t)
	if n1.blobs.Lacks(t.Context(), 1) || !n3.blobs.Lacks(t.Context(), 1) {
		t.Error("the one that has them says so, or the one that was away does not")
	}
	n3.mend()
	n3.blobs.Look()
	eventually(t, "it lacks nothing", func() bool { return !n3.blobs.Lacks(t.Context(), 1) })
}

func TestAReplicaThatHasNoTimeToLookSaysThatItLacksBytes(t *testing.T) {
	n1, _ := missed(t)
	over, cancel := context.WithCancel(t.Context())
	cancel()
	// Which of the two is first is open; an answer without a look is not.
	eventually(t, "it has not looked in time", func() bool { return n1.blobs.Lacks(over, 1) })
	if n1.blobs.Lacks(t.Context(), 1) {
		t.Error("it lacks nothing, and the look has gone on")
	}
}

func TestALookHoldsOnlyForTheVotersThatItWasFor(t *testing.T) {
	n1, n3 := missed(t)
	over, cancel := context.WithCancel(t.Context())
	cancel()
	n3.blobs.Lacks(over, 1) // a look whose outcome may be left
	n3.set(n3.joining, true, "n2")
	n3.mend()
	n3.blobs.Look()
	eventually(t, "it is repaired", func() bool { return n3.blobs.Stats().Repaired == 1 })
	if n3.blobs.Lacks(t.Context(), 1) {
		t.Error("it tells what was so before others voted")
	}
	if n1.blobs.Lacks(t.Context(), 1) {
		t.Error("n1 never lacked it")
	}
}

func TestWhatIsLackingIsCountedAndWhatIsRepaired(t *testing.T) {
	_, n3 := missed(t)
	n3.blobs.Look()
	eventually(t, "it is counted, and nobody could give it", func() bool {
		s := n3.blobs.Stats()
		return s.Lacking[1] == blobs.Lacking{Objects: 1, Bytes: mib} && s.Failed > 0
	})
	n3.mend()
	n3.blobs.Look()
	eventually(t, "it is brought", func() bool {
		s := n3.blobs.Stats()
		return s.Lacking[1] == blobs.Lacking{} && s.Repaired == 1
	})
}

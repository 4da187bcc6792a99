package chaos

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/spec/wire"
)

// finds tells whether a check says what it has to, and nothing of what is right.
func finds(t *testing.T, name string, faults []error, wants string) {
	t.Helper()
	said := fmt.Sprint(faults)
	if wants == "" && len(faults) > 0 || wants != "" && !strings.Contains(said, wants) {
		t.Errorf("%s: found %s, want %q", name, said, wants)
	}
}

func TestWhatIsCountedTwiceOrNotAtAllIsFound(t *testing.T) {
	given := []string{"a", "b", "c", "d", "e"}
	for name, c := range map[string]struct {
		firings [][]string
		size    int
		wants   string
	}{
		"windows of all":               {[][]string{{"a", "b"}, {"c"}, {"d", "e"}}, 0, ""},
		"a window without one":         {[][]string{{"a", "b"}, {"c"}, {"e"}}, 0, "1 of 5 objects were not counted"},
		"one in two windows":           {[][]string{{"a", "b"}, {"b", "c"}, {"d", "e"}}, 0, "b was counted 2 times"},
		"one that was not given":       {[][]string{{"a", "b", "x"}, {"c", "d", "e"}}, 0, "x was counted and never given"},
		"batches, and one that waits":  {[][]string{{"a", "b"}, {"d", "c"}}, 2, ""},
		"a batch that is too small":    {[][]string{{"a", "b"}, {"c"}, {"d"}}, 2, "a firing has 1 objects"},
		"a batch that has not fired":   {[][]string{{"a", "b"}}, 2, "3 of 5 objects were not counted"},
		"a batch that has fired twice": {[][]string{{"a", "b"}, {"a", "b"}, {"c", "d"}}, 2, "was counted 2 times"},
	} {
		finds(t, name, checkCounted("batches", given, c.firings, c.size), c.wants)
	}
}

// sound is what a job of a workflow leaves if nothing went wrong.
func sound(number int) (*job, wire.Result, []wire.Invocation) {
	j := &job{number: number, session: "s1"}
	var history []wire.Invocation
	for function, times := range j.workflow().fires {
		for n := range times {
			history = append(history, wire.Invocation{
				ID: fmt.Sprintf("%s-%d", function, n), Function: spec.FunctionName(function), State: "succeeded",
				Inputs: []wire.Input{{Key: spec.Key(fmt.Sprint(n))}},
			})
		}
	}
	output := map[string]string{
		"chain": fmt.Sprint(number + 3),
		"words": fmt.Sprintf(`{"alpha": 5, "beta": 10, "gamma": 5, "w%d": 5}`, number),
		"race":  `["lane-0", "lane-1", "lane-3"]`,
	}[j.workflow().name]
	result := wire.Result{Session: "s1", Status: wire.SessionCompleted, Outputs: []wire.Output{{Data: []byte(output)}}}
	return j, result, history
}

func TestWhatASessionGotWrongIsFound(t *testing.T) {
	for number := range workflows {
		j, result, history := sound(number)
		name := j.workflow().name
		finds(t, name+" that is sound", j.check(result, history), "")

		failed := result
		failed.Status = wire.SessionFailed
		finds(t, name+" that failed", j.check(failed, history), "it is failed")
		other := result
		other.Outputs = []wire.Output{{Data: []byte(`["lane-0", "lane-0", "lane-1"]`)}}
		finds(t, name+" with another output", j.check(other, history), "its outputs are")
		twice := result
		twice.Outputs = append(slices.Clone(result.Outputs), result.Outputs...)
		finds(t, name+" with its output twice", j.check(twice, history), "its outputs are")
		none := result
		none.Outputs = nil
		finds(t, name+" without an output", j.check(none, history), "its outputs are")

		again := append(slices.Clone(history), history[0])
		finds(t, name+" that fired twice", j.check(result, again), "fired 2 times")
		finds(t, name+" that did not fire", j.check(result, history[1:]), "invocations, want")
		more := append(slices.Clone(history), wire.Invocation{Function: "other", State: "succeeded"})
		finds(t, name+" that fired something else", j.check(result, more), "other has 1 invocations, want none")
		gaveUp := slices.Clone(history)
		gaveUp[0].State = "failed"
		finds(t, name+" with an invocation that failed", j.check(result, gaveUp), "is failed")
	}
}

func TestAnAcknowledgedObjectWithOtherBytesIsFound(t *testing.T) {
	for _, size := range []int{smallObject, largeObject} {
		e := entry{key: "k1", size: size}
		if err := e.check(e.bytes(), "n1"); err != nil || len(e.bytes()) < size {
			t.Errorf("%d bytes as they were put: %v", len(e.bytes()), err)
		}
		for name, data := range map[string][]byte{
			"nothing": nil, "less": e.bytes()[1:], "another's": entry{key: "k2", size: size}.bytes(),
		} {
			if e.check(data, "n1") == nil {
				t.Errorf("%s of %d bytes is taken for what was put", name, size)
			}
		}
	}
}

func TestReplicasThatDifferAreFound(t *testing.T) {
	at := func(node string, applied uint64, hash string) wire.ShardHash {
		return wire.ShardHash{Shard: 1, Node: node, Applied: applied, Hash: hash}
	}
	blobs := func(h wire.ShardHash, hash string, lacking int) wire.ShardHash {
		h.Blobs, h.Lacking = hash, lacking
		return h
	}
	for name, c := range map[string]struct {
		hashes []wire.ShardHash
		even   bool
		wants  string
	}{
		"equal":                         {[]wire.ShardHash{at("n1", 7, "a"), at("n2", 7, "a"), at("n3", 7, "a")}, true, ""},
		"one is behind":                 {[]wire.ShardHash{at("n1", 7, "a"), at("n2", 6, "b"), at("n3", 7, "a")}, false, ""},
		"one differs":                   {[]wire.ShardHash{at("n1", 7, "a"), at("n2", 7, "a"), at("n3", 7, "b")}, false, "differ after entry 7"},
		"one differs, another's behind": {[]wire.ShardHash{at("n1", 7, "a"), at("n2", 6, "a"), at("n3", 7, "b")}, false, "differ after entry 7"},
		"large objects differ":          {[]wire.ShardHash{at("n1", 7, "a"), blobs(at("n2", 7, "a"), "x", 0)}, false, "large objects of shard 1 differ"},
		"one lacks a large object":      {[]wire.ShardHash{at("n1", 7, "a"), blobs(at("n2", 7, "a"), "x", 1)}, false, ""},
		"there is none":                 {nil, false, ""},
	} {
		even, err := compare(c.hashes)
		if even != c.even || (err == nil) != (c.wants == "") || err != nil && !strings.Contains(err.Error(), c.wants) {
			t.Errorf("%s: even %v, %v", name, even, err)
		}
	}
}

func TestGapsAndRecoveriesAreMeasured(t *testing.T) {
	began := time.Unix(1000, 0)
	at := func(seconds ...int) (all []time.Time) {
		for _, s := range seconds {
			all = append(all, began.Add(time.Duration(s)*time.Second))
		}
		return all
	}
	for name, c := range map[string]struct {
		taken    []time.Time
		from, to int
		gap      int
	}{
		"all the time":        {at(0, 1, 2, 3, 4, 5), 0, 5, 1},
		"not in the middle":   {at(0, 1, 4, 5), 0, 5, 3},
		"not at first":        {at(0, 1, 7, 8), 3, 8, 4},
		"not at the end":      {at(0, 1, 2, 9), 0, 8, 6},
		"not at all":          {nil, 2, 8, 6},
		"only before":         {at(0, 1), 2, 8, 6},
		"a gap that is later": {at(0, 1, 2, 3, 9), 0, 3, 1},
	} {
		if gap := longestGap(c.taken, began.Add(time.Duration(c.from)*time.Second), began.Add(time.Duration(c.to)*time.Second)); gap != time.Duration(c.gap)*time.Second {
			t.Errorf("%s: %v, want %ds", name, gap, c.gap)
		}
	}
	p := &probe{shards: map[spec.ShardID]func(spec.Slot) bool{1: nil, 2: nil}, taken: map[spec.ShardID][]time.Time{1: at(0, 1, 4, 5), 2: at(0, 1, 2, 6)}}
	if took, ok := p.recovery(began.Add(3 * time.Second)); !ok || took != 3*time.Second {
		t.Errorf("recovered in %v, %v", took, ok)
	}
	if _, ok := p.recovery(began.Add(5500 * time.Millisecond)); ok {
		t.Error("a shard without a write has recovered")
	}
	if gap := p.gap(began, began.Add(6*time.Second)); gap != 4*time.Second {
		t.Errorf("the longest gap of all shards: %v", gap)
	}
}

func TestAScheduleFollowsFromItsSeedAndHasAllKinds(t *testing.T) {
	draw := func(seed uint64) []Step {
		return Schedule(rand.New(rand.NewPCG(seed, 0)), ClusterKinds, 3, 5*time.Minute)
	}
	one, same, other := draw(1), draw(1), draw(2)
	if !reflect.DeepEqual(one, same) || reflect.DeepEqual(one, other) {
		t.Error("the schedule does not follow from the seed")
	}
	seen := map[Kind]bool{}
	for _, s := range one[:len(ClusterKinds)] {
		seen[s.Kind] = true
		if s.Node < 0 || s.Node > 2 || s.Kind == Bridge && s.Node == s.Other {
			t.Errorf("%v", s)
		}
	}
	if len(seen) != len(ClusterKinds) {
		t.Errorf("the first faults are of %d kinds of %d", len(seen), len(ClusterKinds))
	}
	if kinds, err := ParseKinds("kill, one-way"); err != nil || !slices.Equal(kinds, []Kind{Kill, OneWay}) {
		t.Errorf("%v, %v", kinds, err)
	}
	if _, err := ParseKinds("kill,flood"); err == nil || !strings.Contains(err.Error(), "flood") {
		t.Errorf("a kind that is not known: %v", err)
	}
}

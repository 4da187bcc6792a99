package leader

import "github.com/pheromone-run/pheromone/store"

// scratch is where the loop makes a key or a record that the batch copies: each
// command writes several, and few of them have to outlive the write.
type scratch struct {
	keyRoom    [256]byte
	recordRoom [1 << 10]byte
	input      [1]store.InputRef // of the firing at hand, if it has one
}

// key returns room for a key, which is the key's until the next one is made there. What
// does not fit takes memory of its own.
func (s *scratch) key() []byte { return s.keyRoom[:0] }

// record is the same for a record.
func (s *scratch) record() []byte { return s.recordRoom[:0] }

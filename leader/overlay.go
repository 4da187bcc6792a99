package leader

// overlay holds what proposed batches wrote and the store does not have yet, for
// the keys that evaluation reads back. The loop owns it.
type overlay struct {
	values map[string]overlaid
	log    []overlayMark // in the order of the entries
	spare  [][]string    // of marks that are forgotten, for the next ones
}

type overlaid struct {
	value []byte // nil: deleted
	seq   uint64 // the entry that wrote it
}

type overlayMark struct {
	seq  uint64
	keys []string
}

func newOverlay() overlay { return overlay{values: make(map[string]overlaid)} }

// get returns what is in flight for a key; found with a nil value means deleted.
func (o *overlay) get(key []byte) (value []byte, found bool) {
	v, found := o.values[string(key)]
	return v.value, found
}

func (o *overlay) put(key string, value []byte, seq uint64) {
	o.values[key] = overlaid{value: value, seq: seq}
}

// keys returns an empty list of keys for an entry.
func (o *overlay) keys() []string {
	n := len(o.spare)
	if n == 0 {
		return nil
	}
	keys := o.spare[n-1]
	o.spare = o.spare[:n-1]
	return keys
}

// seal notes which keys the entry seq wrote.
func (o *overlay) seal(seq uint64, keys []string) {
	if len(keys) > 0 {
		o.log = append(o.log, overlayMark{seq: seq, keys: keys})
		return
	}
	o.recycle(keys)
}

// forget drops what entries up to seq wrote: the store has it now.
func (o *overlay) forget(seq uint64) {
	n := 0
	for ; n < len(o.log) && o.log[n].seq <= seq; n++ {
		for _, k := range o.log[n].keys {
			if o.values[k].seq <= seq {
				delete(o.values, k)
			}
		}
		o.recycle(o.log[n].keys)
	}
	left := copy(o.log, o.log[n:]) // entries in flight are few
	clear(o.log[left:])
	o.log = o.log[:left]
}

// recycle keeps the memory of a list of keys for another entry.
func (o *overlay) recycle(keys []string) {
	clear(keys)
	if cap(keys) > 0 && cap(keys) <= effectsSpared && len(o.spare) < entriesSpared {
		o.spare = append(o.spare, keys[:0])
	}
}

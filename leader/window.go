package leader

// Bounds of what is in flight. More costs latency: measured for raft/shard.
const (
	window = 8 // entries
	// beyond is how many more may be in flight, of apps with pipelined buckets and while
	// all together are small: a chain that does not wait for its commits would wait for
	// the window. beyondBytes is what counts as small.
	beyond      = 56
	beyondBytes = 128 << 10
)

// awaitSlot takes a token for an entry that begins with a command.
func (r *reign) awaitSlot(first *request) (slot chan struct{}, err error) {
	select {
	case r.slots <- struct{}{}:
		return r.slots, nil
	default:
	}
	var extra chan struct{} // never ready
	if first != nil && r.mayGoBeyond(first.command) {
		extra = r.extra
	}
	select {
	case extra <- struct{}{}:
		return extra, nil
	case r.slots <- struct{}{}:
		return r.slots, nil
	case <-r.term.Done():
		return nil, r.term.Err()
	}
}

// mayGoBeyond tells whether a command may be evaluated while the window is full: of an
// app with buckets that are not durable, or one that would hold those up.
func (r *reign) mayGoBeyond(c command) bool {
	switch c.(type) {
	case wake, hurry:
	default:
		if p := r.newest[ownerOf(c)]; p == nil || !p.hastens {
			return false
		}
	}
	r.inflight.Lock()
	defer r.inflight.Unlock()
	return r.inflight.bytes < beyondBytes
}

// drain waits until nothing is in flight.
func (r *reign) drain() error {
	for _, slots := range []chan struct{}{r.slots, r.extra} {
		for range cap(slots) {
			select {
			case slots <- struct{}{}:
			case <-r.term.Done():
				return r.term.Err()
			}
		}
		for range cap(slots) {
			<-slots
		}
	}
	return nil
}

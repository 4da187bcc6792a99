package spread

import "sync/atomic"

// Stats counts the attempts that this node's leaders have had run since it started.
type Stats struct {
	// Leader, Replica and Other count those that an executor took, by where: on this
	// node, on one with a replica of the shard, on any other.
	Leader, Replica, Other uint64
	// InputsLocal counts those of them whose inputs were all read on the node that ran
	// them. Of a forwarded one it is known at its end.
	InputsLocal uint64
	// Returned counts attempts that another node gave back, Lost those that ended
	// because it fell silent.
	Returned, Lost uint64
	// Away is how many are with other nodes now, Guests how many of other nodes are here.
	Away, Guests int
}

type counters struct {
	leader, replica, other, inputsLocal, returned, lost atomic.Uint64
	away                                                atomic.Int64
}

// Stats tells what was counted.
func (rt *Runtime) Stats() Stats {
	rt.mu.Lock()
	guests := len(rt.mu.guests)
	rt.mu.Unlock()
	c := &rt.stats
	return Stats{
		Leader: c.leader.Load(), Replica: c.replica.Load(), Other: c.other.Load(), InputsLocal: c.inputsLocal.Load(),
		Returned: c.returned.Load(), Lost: c.lost.Load(), Away: int(c.away.Load()), Guests: guests,
	}
}

package shard

import "errors"

// Resign ends the term: its leader can't go on. Batches on their way are reported
// with ErrTermOver, applied or not; the replica may claim again.
func (t *Term) Resign() { t.fail(errors.New("given up by its leader")) }

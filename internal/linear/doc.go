// Package linear holds the checker, and the tests, of what key-value objects promise while a real
// node is killed and started again: gets, puts and deletes are linearizable,
// watches show every change once and in order, pages of a list miss nothing,
// objects expire once, deletions drive once, and delayed objects are delivered once.
//
// A Load is clients that work on a few keys, of one node or of several, and Watches
// are those that follow it; Verify gives its history to a checker (porcupine) with
// the model of one key. The model and the comparison of watches are tested with
// histories and events that they have to refuse.
//
// It may import client, spec and internal/nodetest; only tests import it. Its own
// may import store, to age a node's data without a quarter of a million puts.
//
// Longer runs: go test ./internal/linear -timeout 1h -linear.seconds 600 -linear.changes 300000.
package linear

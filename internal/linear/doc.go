// Package linear holds the tests of what key-value objects promise while a real
// node is killed and started again: gets, puts and deletes are linearizable,
// watches show every change once and in order, pages of a list miss nothing,
// objects expire once, deletions drive once, and delayed objects are delivered once.
//
// The load's history goes to a checker (porcupine) with the model of one key; the
// model itself is tested with histories that it has to refuse. The package has no
// code but the tests'. They may import client, spec and internal/nodetest, and
// store to age a node's data without a quarter of a million puts.
//
// Longer runs: go test ./internal/linear -timeout 1h -linear.seconds 600 -linear.changes 300000.
package linear

// Package crashmatrix holds the crash matrix: for each trigger primitive and each
// step in the life of what it handles, a real node is killed exactly there, and
// what it makes of it after a restart is compared with a run that was not killed.
//
// Nothing is listed by hand. The rows are failpoint.Points, the columns are
// spec.Primitives and the further scenarios; which of them meet is recorded by a
// run in which nothing dies, and written to docs/crash-matrix.md. The package has
// no code but the test's.
package crashmatrix

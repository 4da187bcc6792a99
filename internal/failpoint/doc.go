// Package failpoint kills the process at a chosen step in the life of the data
// that it handles, so that a test can see what a crash exactly there leaves. It is
// a testing aid: the variable PHEROMONE_FAILPOINT of the process's environment
// arms it at the start, and nothing else can.
//
// There are two kinds of points. A Step is something that a raft entry makes
// durable, as "fired"; it can die at five Moments on its way from the leader's
// memory to its effects, so its points are named fired/evaluated, fired/logged and
// so on. A Place is a line of the code that no entry goes with, as "submitting".
//
// Who evaluates an entry says with Entry.Pass which steps it contains; who passes
// it on says with Entry.At, or with Entries where only its bytes are known, which
// moment it has come to. While nothing is armed all of them return at once, and an
// Entry holds nothing.
//
// Beside that it puts the node's clock wrong: PHEROMONE_CLOCK names a file that says
// by how much.
//
// Imports spec.
package failpoint

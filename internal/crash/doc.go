// Package crash holds the crash test: real nodes that are killed without warning,
// again and again, while sessions run. It has no code but the test's.
package crash

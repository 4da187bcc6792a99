// Package report is what a benchmark's run comes to: its figures, the medians over
// its rounds, what they are measured against, and the report as text and as one
// HTML page with plots.
//
// A figure names what was measured (Workload and What) and of whom (System,
// Runtime, Durability). Figures of the same What stand side by side, so the driver
// of the peers in bench/peers uses the same words. Merge takes the figures of all
// rounds to one each, Check holds them to the targets.
//
// Imports the standard library alone.
package report

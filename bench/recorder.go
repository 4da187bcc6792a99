package main

import (
	"cmp"
	"fmt"

	"github.com/pheromone-run/pheromone/bench/report"
)

// figure is one line of the report.
type figure = report.Figure

// recorder takes the figures of all rounds.
type recorder struct {
	figures     []figure
	sync, write []figure // of the disk, one a round
	commit      []figure
	durability  string // of what is measured now, if that has one
	workload    string // set: what figures count to, instead of their own
	setup       string
}

// add keeps a figure and tells of it.
func (r *recorder) add(f figure) {
	if f.System == "" {
		f.System = report.Ours
		if f.Durability == "" {
			f.Durability = r.durability
		}
		f.Workload, f.Setup = cmp.Or(r.workload, f.Workload), cmp.Or(f.Setup, r.setup)
	}
	r.figures = append(r.figures, f)
	fmt.Printf("%-4s %-48s %s\n", f.Workload, f.What, f.Line())
}

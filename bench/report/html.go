package report

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"slices"
	"time"
)

//go:embed page.html
var pageSource string

var page = template.Must(template.New("page").Funcs(template.FuncMap{
	"short": short,
	"ms":    func(v float64) string { return blank(v, "%.3f") },
	"times": func(v float64) string { return blank(v, "%.1f") },
	"whole": func(v float64) string { return blank(v, "%.0f") },
}).Parse(pageSource))

// blank leaves out what was not measured.
func blank(v float64, format string) string {
	if v == 0 {
		return ""
	}
	return fmt.Sprintf(format, v)
}

// section is a workload on the page.
type section struct {
	Workload, About string
	Plots           []plotted
}

type plotted struct {
	Group
	SVG template.HTML
}

var about = map[string]string{
	"A":         "One session at a time: ten functions that do nothing, 100 bytes, the client waits for the result.",
	"B":         "The same chain with 64 sessions in flight.",
	"C":         "One function fans out to 16, a join takes what all of them put, the client waits.",
	"D":         "Two functions that pass a large object; the second reads it.",
	"E":         "Starting, and memory. Peers run their server, functions and clients in one process, which is what is counted.",
	"F":         "A long chain and a wide fan-out: what lies over the ideal.",
	"K":         "Key-value objects; gets are linearizable.",
	"L":         "Several nodes on this one machine, sharing its disk and cores: what replication costs, and how long a lost leader is missed.",
	"G":         "A chain of four functions of 100 ms, of whose attempts one in a hundred hangs.",
	"P":         "The state machines of the trigger primitives.",
	"scale":     "A million of each thing that can wait, in one node; which is killed and started again.",
	"retention": "Sessions of one step that are deleted soon, until all that the node keeps has been replaced many times over.",
	"fair":      "One app at full speed beside a modest one.",
}

// HTML writes the report as one page that needs nothing beside itself.
func (r *Report) HTML(w io.Writer) error {
	verdicts := r.Check()
	var sections []section
	for _, g := range r.Groups() {
		if len(sections) == 0 || sections[len(sections)-1].Workload != g.Workload {
			sections = append(sections, section{Workload: g.Workload, About: about[g.Workload]})
		}
		last := &sections[len(sections)-1]
		// Every part of the plot that comes from outside is escaped there.
		last.Plots = append(last.Plots, plotted{g, template.HTML(plot(g, limitsOf(g, verdicts)))})
	}
	return page.Execute(w, map[string]any{
		"Report": r, "Date": r.Date.Format(time.DateTime + " MST"), "Sections": sections, "Verdicts": verdicts,
		"Floors": []Figure{r.Floor.Sync, r.Floor.Write, r.Floor.Commit},
	})
}

// limitsOf are the limits that a group's figures are held to, each once.
func limitsOf(g Group, verdicts []Verdict) []float64 {
	var limits []float64
	for _, v := range verdicts {
		if v.Figure.Workload == g.Workload && v.Figure.What == g.What && !slices.Contains(limits, v.Limit) {
			limits = append(limits, v.Limit)
		}
	}
	return limits
}

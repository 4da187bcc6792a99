package report

import (
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"
)

// Text writes the report for a terminal.
func (r *Report) Text(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "Pheromone benchmark, commit %s, %s\n%s, %s\n%s\n\n", r.Commit, r.Date.Format(time.DateTime+" MST"), r.Machine, r.Go, r.How())
	for _, f := range []Figure{r.Floor.Sync, r.Floor.Write, r.Floor.Commit} {
		fmt.Fprintf(&b, "%s %8.3f ms, p99 %.3f ms, rounds %s\n", padded(f.What, 40), f.P50, f.P99, f.Spread())
	}
	for _, g := range r.Groups() {
		fmt.Fprintf(&b, "\n%s  %s\n", g.Workload, g.What)
		for _, f := range g.Figures {
			b.WriteString("    " + f.Line() + "\n")
		}
	}
	if verdicts := r.Check(); len(verdicts) > 0 {
		b.WriteString("\nTargets\n")
		for _, v := range verdicts {
			met := "missed"
			if v.Met {
				met = "met   "
			}
			fmt.Fprintf(&b, "    %s %5.2f × %s %s %s\n", met, v.Ratio, padded(v.Want, 36), padded(v.Figure.Name(), 28), v.Figure.What)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// How says how the figures were taken.
func (r *Report) How() string {
	return fmt.Sprintf("%d rounds, in each one system after the other; %s a figure in all; medians of the rounds", r.Rounds, r.Span)
}

// Line is the figure for a terminal, without what it is of.
func (f *Figure) Line() string {
	line := padded(f.Name(), 42)
	if f.Refused != "" {
		return line + "  refused: " + f.Refused
	}
	if f.P50 > 0 {
		line += fmt.Sprintf("  p50 %9.3f ms  p99 %9.3f ms", f.P50, f.P99)
	}
	if f.Commits > 0 {
		line += fmt.Sprintf("  = %6.1f commits, %6.1f syncs", f.Commits, f.Syncs)
	}
	if f.Rate > 0 {
		line += fmt.Sprintf("  %9.0f/s", f.Rate)
	}
	if f.CPU > 0 {
		line += fmt.Sprintf("  %6.0f µs CPU", f.CPU)
	}
	if f.Unit != "" {
		line += fmt.Sprintf("  %8.2f %s", f.Value, f.Unit)
	}
	if f.High > f.Low {
		line += "  rounds " + f.Spread()
	}
	return line
}

// Spread tells between which bounds the rounds lie.
func (f *Figure) Spread() string { return short(f.Low) + "–" + short(f.High) }

// short writes three digits that matter.
func short(v float64) string {
	switch {
	case v == 0:
		return "0"
	case v >= 10_000:
		return fmt.Sprintf("%.1fk", v/1000)
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	case v >= 1:
		return fmt.Sprintf("%.2f", v)
	}
	return fmt.Sprintf("%.3f", v)
}

// padded fills up with blanks; fmt counts bytes.
func padded(s string, width int) string {
	return s + strings.Repeat(" ", max(0, width-utf8.RuneCountInString(s)))
}

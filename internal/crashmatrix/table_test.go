package crashmatrix

import (
	"cmp"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/pheromone-run/pheromone/internal/failpoint"
)

const (
	page      = "../../docs/crash-matrix.md"
	begin     = "<!-- The tables are written by: make matrix-update -->\n"
	end       = "<!-- End of the tables. -->\n"
	survived  = "✓"
	unreached = "–" // in this scenario
)

// writeTable writes the tables into the page.
func writeTable(t *testing.T, reached map[string]map[string]int) {
	t.Helper()
	before, _, after := split(t)
	if err := os.WriteFile(page, []byte(before+begin+tables(reached)+end+after), 0o644); err != nil {
		t.Fatal(err)
	}
}

func checkTable(t *testing.T, reached map[string]map[string]int) {
	t.Helper()
	for name, points := range reached {
		checkColumn(t, name, points)
	}
	if _, have, _ := split(t); have != tables(reached) {
		t.Errorf("%s is not what the code makes of it: run make matrix-update and look at the difference", page)
	}
}

// checkColumn compares the points that a scenario has passed with the page.
func checkColumn(t *testing.T, scenario string, reached map[string]int) {
	t.Helper()
	_, text, _ := split(t)
	listed := listedPoints(text)[scenario]
	if listed == nil {
		t.Errorf("%s has no column %s: run make matrix-update", page, scenario)
		return
	}
	for _, point := range failpoint.Points() {
		if want, got := listed[point], reached[point] > 0; want != got {
			t.Errorf("scenario %s, point %s: reached %t, the page says %t", scenario, point, got, want)
		}
	}
}

func split(t *testing.T) (before, tables, after string) {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(text), begin)
	tables, after, ended := strings.Cut(rest, end)
	if !ok || !ended {
		t.Fatalf("%s has no place for the tables", page)
	}
	return before, tables, after
}

func tables(reached map[string]map[string]int) string {
	var primitives, others []*scenario
	for i := range scenarios {
		if s := &scenarios[i]; s.primitive != "" {
			primitives = append(primitives, s)
		} else {
			others = append(others, s)
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "\n## The primitives\n\n%s\n## Further scenarios\n\n", table(primitives, reached))
	for _, s := range others {
		fmt.Fprintf(&b, "- `%s`: %s\n", s.name, s.about)
	}
	for half := range slices.Chunk(others, (len(others)+1)/2) {
		b.WriteString("\n" + table(half, reached))
	}
	return b.String() + "\n"
}

// table has a row for each step, with the numbers of the moments in its cells, and
// one for each place.
func table(columns []*scenario, reached map[string]map[string]int) string {
	var b strings.Builder
	b.WriteString("| point |")
	for _, s := range columns {
		fmt.Fprintf(&b, " %s |", s.name)
	}
	b.WriteString("\n| --- |" + strings.Repeat(" --- |", len(columns)) + "\n")
	row := func(name string, mark func(points map[string]int) string) {
		fmt.Fprintf(&b, "| %s |", name)
		for _, s := range columns {
			fmt.Fprintf(&b, " %s |", cmp.Or(mark(reached[s.name]), unreached))
		}
		b.WriteString("\n")
	}
	for _, step := range failpoint.Steps() {
		row(step, func(points map[string]int) (mark string) {
			for i, moment := range failpoint.Moments() {
				if points[step+"/"+moment] > 0 {
					mark += fmt.Sprint(i + 1)
				}
			}
			return mark
		})
	}
	for _, place := range failpoint.Places() {
		row(place, func(points map[string]int) string {
			if points[place] > 0 {
				return survived
			}
			return ""
		})
	}
	return b.String()
}

// listedPoints reads tables: for each scenario the points that it has survived.
func listedPoints(text string) map[string]map[string]bool {
	listed := map[string]map[string]bool{}
	var columns []string
	for line := range strings.Lines(text) {
		fields := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		for i := range fields {
			fields[i] = strings.TrimSpace(fields[i])
		}
		switch {
		case len(fields) < 2 || fields[0] == "---":
		case fields[0] == "point":
			columns = fields[1:]
			for _, name := range columns {
				listed[name] = map[string]bool{}
			}
		default:
			for i, mark := range fields[1:] {
				listed[columns[i]][fields[0]] = mark == survived
				for n, moment := range failpoint.Moments() {
					listed[columns[i]][fields[0]+"/"+moment] = strings.Contains(mark, fmt.Sprint(n+1))
				}
			}
		}
	}
	return listed
}

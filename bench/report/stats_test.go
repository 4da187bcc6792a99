package report_test

import (
	"math"
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/bench/report"
)

func TestAFigureOfDurationsHasTheirMedianAndP99(t *testing.T) {
	var took []time.Duration
	for i := range 200 {
		took = append(took, time.Duration(200-i)*time.Millisecond)
	}
	f := report.Timed("A", "go", "a chain", took)
	if f.N != 200 || f.P50 != 101 || f.P99 != 199 {
		t.Errorf("1 to 200 ms: n %d, p50 %v, p99 %v; want 200, 101, 199", f.N, f.P50, f.P99)
	}
	if f := report.Timed("A", "go", "nothing", nil); f.N != 0 || f.P50 != 0 || f.P99 != 0 {
		t.Errorf("no durations: %+v", f)
	}
}

func TestRoundsComeToTheirMediansWithTheirBounds(t *testing.T) {
	round := func(p50, p99, rate float64) report.Figure {
		return report.Figure{Workload: "B", System: report.Ours, Runtime: "go", What: "steps", N: 10, P50: p50, P99: p99, Rate: rate}
	}
	other := report.Figure{Workload: "B", System: "etcd", What: "steps", N: 1, P50: 7}
	got := report.Merge([]report.Figure{round(3, 90, 100), other, round(1, 5, 300), round(2, 6, 200)})
	if len(got) != 2 || got[1].System != "etcd" || got[1].P50 != 7 {
		t.Fatalf("merged: %+v", got)
	}
	f := got[0]
	if f.N != 30 || f.P50 != 2 || f.P99 != 6 || f.Rate != 200 || f.Low != 100 || f.High != 300 {
		t.Errorf("three rounds: %+v", f)
	}
	two := report.Merge([]report.Figure{round(1, 1, 0), round(2, 4, 0)})
	if two[0].P50 != 1.5 || two[0].P99 != 2.5 {
		t.Errorf("two rounds: %+v", two[0])
	}
}

func TestFiguresOfDifferentSetupsAreNotMixed(t *testing.T) {
	base := report.Figure{Workload: "L", System: "s", Runtime: "go", Durability: "durable", Setup: "1 shard", What: "w", P50: 1}
	change := map[string]func(*report.Figure){
		"workload":   func(f *report.Figure) { f.Workload = "A" },
		"system":     func(f *report.Figure) { f.System = "t" },
		"runtime":    func(f *report.Figure) { f.Runtime = "python" },
		"durability": func(f *report.Figure) { f.Durability = "ephemeral" },
		"setup":      func(f *report.Figure) { f.Setup = "8 shards" },
		"what":       func(f *report.Figure) { f.What = "v" },
	}
	for name, differ := range change {
		f := base
		differ(&f)
		if got := report.Merge([]report.Figure{base, f}); len(got) != 2 {
			t.Errorf("figures with another %s come to %d", name, len(got))
		}
	}
}

func TestWhatOneRoundRefusesStaysRefused(t *testing.T) {
	got := report.Merge([]report.Figure{{What: "w", P50: 3}, {What: "w", Refused: "not in this version"}})
	if len(got) != 1 || got[0].Refused != "not in this version" || got[0].P50 != 0 {
		t.Errorf("merged: %+v", got)
	}
}

func TestMediansAreToldInCommitsAndSyncsOfTheSameRun(t *testing.T) {
	figures := []report.Figure{{Workload: "A", What: "w", P50: 6}, {Workload: "B", What: "under load", P50: 6}}
	r := report.New(report.Report{}, of(0.2, 0.4, 0.3), nil, of(0.5), figures)
	if f := r.Figures[0]; !near(f.Commits, 12) || !near(f.Syncs, 20) {
		t.Errorf("6 ms at 0.5 ms a commit and 0.3 ms a sync: %v commits, %v syncs", f.Commits, f.Syncs)
	}
	if f := r.Figures[1]; f.Commits != 0 || f.Syncs != 0 {
		t.Errorf("what waits for others is told in commits: %+v", f)
	}
	if f := report.New(report.Report{}, nil, nil, nil, figures).Figures[0]; f.Commits != 0 || f.Syncs != 0 {
		t.Errorf("without the machine's own figures: %+v", f)
	}
}

// of makes a round's figure of each median.
func of(medians ...float64) []report.Figure {
	var all []report.Figure
	for _, m := range medians {
		all = append(all, report.Figure{What: "w", N: 1, P50: m})
	}
	return all
}

func near(a, b float64) bool { return math.Abs(a-b) < 1e-9 }
